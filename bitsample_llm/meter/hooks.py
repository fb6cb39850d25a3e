"""How the meter sees into a TRL trainer without changing it: its methods wrapped, its training losses overheard."""

import torch


def require(trainer, *names: str) -> None:
    """Check that a trainer has what the meter reads of it; an AttributeError names the first that this version of TRL lacks."""
    for name in names:
        if not hasattr(trainer, name):
            raise AttributeError(f"{type(trainer).__name__} has no {name}: this version of TRL is not one the meter knows")


def wrap(trainer, name: str, around) -> None:
    """Replace a method of this trainer by `around(original, ...)`; an AttributeError if this version of TRL does not have it."""
    require(trainer, name)
    original = getattr(trainer, name)
    setattr(trainer, name, lambda *args, **kwargs: around(original, *args, **kwargs))


class TrainingLosses:
    """Tells of every training loss, with the log-probabilities that the fused forward behind it computed.

    `on_loss(loss, inputs, logps_BT)` gets the loss as the optimizer sees it, a part of a step's, and the log-probability in nats of the tokens 1 to T-1 given those before them, zero
    where ignored, or None where the trainer's loss does not compute it. B rows of a batch of this process, T tokens.
    """

    def __init__(self, trainer, causal_lm, on_loss):
        self._trainer = trainer
        self._on_loss = on_loss
        self._in_training_loss = False
        self._logps_BT: torch.Tensor | None = None
        causal_lm.register_forward_hook(self._keep, with_kwargs=True)
        wrap(trainer, "compute_loss", self._around_compute_loss)

    def _keep(self, module, args, kwargs, output) -> None:
        if self._in_training_loss and getattr(output, "log_probs", None) is not None:
            self._logps_BT = output.log_probs.detach()

    def _around_compute_loss(self, original, model, inputs, *args, **kwargs):
        if not self._trainer.model.training:
            return original(model, inputs, *args, **kwargs)
        self._logps_BT, self._in_training_loss = None, True
        result = original(model, inputs, *args, **kwargs)
        self._in_training_loss = False
        loss = result[0] if isinstance(result, tuple) else result
        self._on_loss(float(loss.detach()) / self._later_divisor(kwargs.get("num_items_in_batch")), inputs, self._logps_BT)
        return result

    def _later_divisor(self, num_items_in_batch) -> int:
        """By what the trainer divides the loss after this: by the parts of a step, where the loss does not do so itself."""
        trainer = self._trainer
        if (is_scaled := trainer.loss_is_scaled_for_ga) is None:
            by_items = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
            is_scaled = by_items or trainer.compute_loss_func is not None
        return 1 if is_scaled else trainer.current_gradient_accumulation_steps
