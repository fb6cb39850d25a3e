"""Stop at a FLOP budget or once enough was learned, and show on one line how far a run has come and what it has told so far."""

from collections.abc import Sequence

from tqdm import tqdm
from transformers import TrainerCallback

from bitsample_llm.meter.callback import InformationMeter
from bitsample_llm.meter.hooks import wrap


class FlopBudget(TrainerCallback):
    """Stops training after the step at which the training FLOPs of all processes reach the budget."""

    def __init__(self, meter: InformationMeter, flop_budget: float):
        self.meter = meter
        self.flop_budget = flop_budget

    def is_reached(self) -> bool:
        """Whether the budget is spent."""
        return self.meter.total_flops >= self.flop_budget

    def on_step_end(self, args, state, control, **kwargs):
        """The overshoot is less than the FLOPs of one step."""
        control.should_training_stop |= self.is_reached()


LOST_BITS = 8.0  # below the start, a run that was to rise has diverged


class TargetGain(TrainerCallback):
    """Stops training at the first evaluation that finds the held-out mean of log2 p risen by `target_bits`, or fallen by
    `LOST_BITS`; where pass rates come from rollouts, log2 of their mean.

    An evaluation in which no rollout passed has no log2, and does not stop the training.
    """

    def __init__(self, meter: InformationMeter, target_bits: float):
        self.meter = meter
        self.target_bits = target_bits

    def is_reached(self) -> bool:
        """Whether the last evaluation found it."""
        log2_pass_rates = self.meter.log2_pass_rates
        if not log2_pass_rates or None in (log2_pass_rates[0], log2_pass_rates[-1]):
            return False
        gain = log2_pass_rates[-1] - log2_pass_rates[0]
        return gain >= self.target_bits or gain <= -LOST_BITS

    def on_step_end(self, args, state, control, **kwargs):
        """To be added after the meter, which evaluates at the end of a step."""
        control.should_training_stop |= self.is_reached()


def end_before_the_first_step(trainer, stops: Sequence[FlopBudget | TargetGain]) -> None:
    """Let a resume train nothing where the checkpoint's step was the last: transformers asks only after a step."""

    def around(original, *args, **kwargs):
        is_over = trainer.state.global_step >= trainer.state.max_steps or any(stop.is_reached() for stop in stops)
        trainer.control.should_training_stop |= is_over
        return None if is_over else original(*args, **kwargs)

    wrap(trainer, "_run_epoch", around)


class ProgressLine(TrainerCallback):
    """A progress bar over FLOPs where there is a budget, over steps where there is none, in place of TRL's."""

    def __init__(self, meter: InformationMeter, flop_budget: float | None):
        self.meter = meter
        self.flop_budget = flop_budget
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar on the first process."""
        if state.is_world_process_zero and not args.disable_tqdm:
            if self.flop_budget:
                self.bar = tqdm(total=self.flop_budget, unit="FLOP", unit_scale=True, dynamic_ncols=True)
            else:
                self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        """Show how far the run is, and what its last step told."""
        if self.bar is None:
            return
        self.bar.n = min(self.meter.total_flops, self.flop_budget) if self.flop_budget else state.global_step
        self.bar.set_postfix(self.meter.progress)

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
