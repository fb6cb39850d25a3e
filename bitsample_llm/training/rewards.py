"""What does a rollout earn? Reward functions in the form that TRL calls, on top of the verdicts."""

from typing import ClassVar

import numpy as np
import torch

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.training.credit import right_prefix_share, right_step_share


def passed_rollouts(rewards_BF: torch.Tensor) -> torch.Tensor:
    """Which of B rollouts passed (B), by the outcome as their reward, of F functions."""
    return rewards_BF.nansum(dim=1) > 0


class VerdictReward:
    """What the verdict on a completion is worth: 1 for a pass and 0 for any other, or a share of its steps, a denser reward and still one
    number.
    """

    WORTH: ClassVar = {
        "outcome": lambda verdict, num_steps: float(verdict.passed),
        "process_sum": right_step_share,
        "process_prefix": right_prefix_share,
    }

    def __init__(self, verifier: RolloutVerifier, name: str = "outcome"):
        self.verifier = verifier
        self.__name__ = name  # TRL logs it

    def __call__(self, completion_ids, problem_id, **kwargs) -> list[float]:
        worth, judged = self.WORTH[self.__name__], self.verifier.judged(problem_id, completion_ids)
        num_steps = [self.verifier.problem_by_id[name].num_steps for name in problem_id]
        return [worth(verdict, num) for (_, _, verdict), num in zip(judged, num_steps, strict=True)]


class RandomReward:
    """A fair coin: the control that shows what an update does when the reward tells nothing.

    Drawn from the seed, the step and the process, so that a resumed run tosses the same coins.
    """

    __name__ = "random"

    def __init__(self, seed: int, process_index: int = 0):
        self.seed = seed
        self.process_index = process_index

    def __call__(self, completion_ids, trainer_state, **kwargs) -> list[float]:
        rng = np.random.default_rng([self.seed, trainer_state.global_step, self.process_index])
        return rng.integers(0, 2, size=len(completion_ids)).astype(float).tolist()
