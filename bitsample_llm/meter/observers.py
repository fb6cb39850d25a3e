"""What a TRL trainer shows of its samples while it trains, taken down without changing anything.

Here is what all trainers share, and `LabelObserver`, which sees the labelled sequences of SFT; `rollouts.py` has the
trainers that sample. Every private attribute of TRL that the meter uses is used in these two files. B rows of a batch of
this process, T tokens.
"""

import math
from typing import Protocol

import numpy as np
import torch
from accelerate.utils import gather_object

from bitsample_llm.scoring.answer_end import AnswerEnd

NATS_PER_BIT = float(np.log(2))


class Sink(Protocol):
    """Where observations go; the meter is one. `end` says where the answers of its model end."""

    end: AnswerEnd

    def add_rows(self, table: str, rows: list[dict]) -> None:
        """Rows of a records table."""

    def observe(self, key: str, values: list[float]) -> None:
        """Values whose mean over the step is a metric."""

    def count(self, key: str, amount: float) -> None:
        """An amount to add to a cumulative metric."""

    def place(self) -> dict:
        """The step under way."""


def finite(value):
    """The value with null for each number that is not finite, in lists and dicts too: no number is no measurement.

    >>> finite({"loss": float("nan"), "bits": [1.0, float("inf")]})
    {'loss': None, 'bits': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def surprisal_bits_of(logp: float) -> float:
    """Bits of what has this log-probability in nats, which rounding may put just above 0; NaN where there is none."""
    return max(-logp / NATS_PER_BIT, 0.0)  # in this order: NaN is not taken for 0


def require(trainer, *names: str) -> None:
    """Check that a trainer has what the meter reads of it.

    Raises:
        AttributeError: naming the first attribute that this version of TRL does not have.
    """
    for name in names:
        if not hasattr(trainer, name):
            raise AttributeError(f"{type(trainer).__name__} has no {name}: this version of TRL is not one the meter knows")


def wrap(trainer, name: str, around) -> None:
    """Replace a method of this trainer by `around(original, ...)`.

    Raises:
        AttributeError: naming the method, if this version of TRL does not have it.
    """
    require(trainer, name)
    original = getattr(trainer, name)
    setattr(trainer, name, lambda *args, **kwargs: around(original, *args, **kwargs))


class TrainingLosses:
    """Tells of every training loss, with the log-probabilities that the fused forward behind it computed.

    `on_loss(loss, inputs, logps_BT)` gets the log-probability in nats of the tokens 1 to T-1 given those before them, zero
    where ignored, or None where the trainer's loss does not compute it.
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
        self._on_loss(float(loss.detach()), inputs, self._logps_BT)
        return result


class LabelObserver:
    """Records the surprisal of every labelled sequence at the step that trains on it."""

    generation_step = None

    def __init__(self, trainer, causal_lm, sink: Sink):
        self.sink = sink
        self._problem_id_by_tokens = self._tokens_to_problem_ids(trainer.train_dataset)
        TrainingLosses(trainer, causal_lm, self._record)

    @staticmethod
    def _tokens_to_problem_ids(dataset) -> dict[tuple[int, ...], str]:
        if not {"problem_id", "input_ids"} <= set(getattr(dataset, "column_names", None) or ()):
            return {}
        return {tuple(row["input_ids"]): row["problem_id"] for row in dataset.select_columns(["problem_id", "input_ids"])}

    def _record(self, loss: float, inputs: dict, logps_BT: torch.Tensor | None) -> None:
        self.sink.observe("train/loss", [loss])
        ids_BT, labels_BT = inputs["input_ids"].cpu(), inputs["labels"].cpu()
        if logps_BT is not None:
            logps_BT = logps_BT.double().cpu()
        rows, num_tokens, num_labelled = [], 0, 0
        sequences = self._sequences(inputs)
        for row, start, end in sequences:
            num_tokens += end - start
            num_labelled += int((labels_BT[row, start + 1 : end] != -100).sum())
            ids = tuple(ids_BT[row, start:end].tolist())
            line = {"problem_id": self._problem_id_by_tokens.get(ids)}
            if logps_BT is not None:
                # ignored tokens are zero; among several sequences in a row each ends before the first token of the next
                logps_T = logps_BT[row] if len(sequences) == len(ids_BT) else logps_BT[row, start : end - 1]
                line |= {"offered_bits": surprisal_bits_of(float(logps_T.sum())), "offered_bits_estimator": "surprisal"}
            rows.append(line)
        parts = gather_object([(rows, num_tokens - num_labelled, num_labelled)])
        rows = [row for part, _, _ in parts for row in part]
        self.sink.count("tokens/prompt", sum(num for _, num, _ in parts))
        self.sink.count("tokens/completion", sum(num for _, _, num in parts))
        self.sink.count("samples/total", len(rows))
        bits = [row["offered_bits"] for row in rows if "offered_bits" in row]
        if bits:
            self.sink.count("bits/offered_total", sum(bits))
            self.sink.observe("bits/offered_per_sample", bits)
            self.sink.observe("bits/surprisal_per_sample", bits)
        self.sink.add_rows("prompts", rows)

    @staticmethod
    def _sequences(inputs: dict) -> list[tuple[int, int, int]]:
        """(row, start, end) of each sequence of real tokens; packing puts several in one row, told by their positions."""
        rows, length = inputs["input_ids"].shape
        if (mask_BT := inputs.get("attention_mask")) is not None:
            first_B = mask_BT.int().argmax(dim=1).tolist()
            return [
                (row, start, start + num) for row, (start, num) in enumerate(zip(first_B, mask_BT.sum(dim=1).tolist(), strict=True))
            ]
        if (positions_BT := inputs.get("position_ids")) is None:
            return [(row, 0, length) for row in range(rows)]
        found = []
        for row, positions_T in enumerate(positions_BT.cpu()):
            starts = torch.nonzero(positions_T == 0).flatten().tolist()
            found += [(row, start, end) for start, end in zip(starts, [*starts[1:], length], strict=True)]
        return found

    def end_step(self) -> None:
        """Nothing is held back: labels are recorded as they are trained on."""

    end_generation = end_step

    def pending_rollouts(self, alone: bool = False) -> list[dict]:
        """None: see `end_step`."""
        return []

    def resume(self, generation_step: int) -> None:
        """Nothing to go on from: see `end_step`."""
