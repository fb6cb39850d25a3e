"""Stop at a FLOP budget or once enough was learned, and show on one line how far a run has come and what it has told so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm
from transformers import TrainerCallback

from bitsample_llm.estimators import first_kept
from bitsample_llm.meter.callback import InformationMeter
from bitsample_llm.meter.heldout import State
from bitsample_llm.meter.hooks import wrap


def charge_reward_model(counter, flops: float) -> None:
    """Add to a meter's FLOP counter, if there is one, what a small head of ours cost that no forward pass of a model shows."""
    if counter is not None:
        for counted_flops in (counter.executed_flops, counter.useful_flops):
            counted_flops["reward_model"] += flops


class FlopBudget(TrainerCallback):
    """Stops training after the step at which the training FLOPs of all processes reach the budget."""

    def __init__(self, meter: InformationMeter, flop_budget: float):
        self.meter = meter
        self.flop_budget = flop_budget

    def is_reached(self) -> bool:
        return self.meter.total_flops >= self.flop_budget

    def on_step_end(self, args, state, control, **kwargs):
        """The overshoot is less than the FLOPs of one step."""
        control.should_training_stop |= self.is_reached()


LOST_BITS = 8.0  # below the start, a run that was to rise has diverged


@dataclass(frozen=True)
class Targets:
    """What is to be reached on the held-out problems; None asks for nothing."""

    bits: float | None = None  # rise of the mean log2 pass rate; where pass rates come from rollouts, of log2 of their mean
    share: float | None = None  # the same, as a share of all that there is to gain
    pass_rate: float | None = None  # mean
    keep_for: float = 1.0  # each counts once it was kept until so many times the FLOPs to it were spent

    def __bool__(self) -> bool:
        return not self.bits is self.share is self.pass_rate is None

    def are_reached(self, states: Sequence[State]) -> bool:
        """Whether a training is done, by what its evaluations found."""
        known = [state for state in states if state.pass_rate is not None]
        flops, levels = [state.flops for state in known], [([state.pass_rate for state in known], self.pass_rate)]
        if not (self.bits is self.share is None):
            before = states[0].log2_pass_rate
            if before is None:  # no rollout had passed, so there is nothing to count bits from
                return False
            gains = [(-math.inf if state.log2_pass_rate is None else state.log2_pass_rate) - before for state in known]
            levels += [(gains, self.bits), (gains, None if self.share is None else -self.share * before)]
        kept = [first_kept(flops, values, level, self.keep_for) for values, level in levels if level is not None]
        return None not in kept


class TargetReached(TrainerCallback):
    """Stops training once all targets were reached and kept, or the held-out mean of log2 p has fallen by `LOST_BITS`.

    An evaluation in which no rollout passed has no log2: a target in bits is not kept there, and nothing says that the training diverged.
    """

    def __init__(self, meter: InformationMeter, targets: Targets):
        self.meter = meter
        self.targets = targets

    def is_reached(self) -> bool:
        """Whether the evaluations so far say so."""
        states = self.meter.heldout_states
        if not states:
            return False
        before, now = states[0].log2_pass_rate, states[-1].log2_pass_rate
        has_diverged = None not in (before, now) and now - before <= -LOST_BITS
        return has_diverged or self.targets.are_reached(states)

    def on_step_end(self, args, state, control, **kwargs):
        """To be added after the meter, which evaluates at the end of a step."""
        control.should_training_stop |= self.is_reached()


def end_before_the_first_step(trainer, stops: Sequence[FlopBudget | TargetReached]) -> None:
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
        if state.is_world_process_zero and not args.disable_tqdm:
            if self.flop_budget:
                self.bar = tqdm(total=self.flop_budget, unit="FLOP", unit_scale=True, dynamic_ncols=True)
            else:
                self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is None:
            return
        self.bar.n = min(self.meter.total_flops, self.flop_budget) if self.flop_budget else state.global_step
        self.bar.set_postfix(self.meter.progress)

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """Leave the terminal's line to what is said next."""
        if self.bar is not None:
            self.bar.close()
