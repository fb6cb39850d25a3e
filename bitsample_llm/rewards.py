"""What does a rollout earn? Reward functions in the form that TRL calls, on top of the task's verifier.

TRL decodes completions without special tokens, which would let a completion pass that holds one in its middle; here the
verdict is on all that was sampled.
"""

from collections.abc import Sequence

import numpy as np

from bitsample_llm.tasks import Problem, Verdict


class RolloutVerifier:
    """Turns sampled token ids into verdicts of a task on its problems."""

    def __init__(self, task, problems: Sequence[Problem], tokenizer):
        self.task = task
        self.tokenizer = tokenizer
        self.problem_by_id = {problem.problem_id: problem for problem in problems}

    def text_and_end(self, completion_ids: list[int]) -> tuple[str, bool]:
        """All that was sampled, special tokens included, and whether it stopped by itself."""
        ended = bool(completion_ids) and completion_ids[-1] == self.tokenizer.eos_token_id
        kept = completion_ids[:-1] if ended else completion_ids
        return self.tokenizer.decode(kept, skip_special_tokens=False), ended

    def verdict(self, problem_id: str, text: str, ended: bool) -> Verdict:
        """Verdict on one completion.

        Raises:
            KeyError: for a problem it does not know.
        """
        return self.task.verify(self.problem_by_id[problem_id], text, ended)


class OutcomeReward:
    """1.0 for a completion that passes, 0.0 for any other."""

    __name__ = "outcome"

    def __init__(self, verifier: RolloutVerifier):
        self.verifier = verifier

    def __call__(self, completion_ids, problem_id, **kwargs) -> list[float]:
        rewards = []
        for ids, name in zip(completion_ids, problem_id, strict=True):
            text, ended = self.verifier.text_and_end(ids)
            rewards.append(float(self.verifier.verdict(name, text, ended).passed))
        return rewards


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
