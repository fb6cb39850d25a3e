"""What does a rollout earn? Reward functions in the form that TRL calls, on top of the task's verifier.

TRL decodes completions without special tokens, which would let a completion pass that holds one in its middle; here the
verdict is on all that was sampled.
"""

from collections.abc import Sequence

import numpy as np

from bitsample_llm.answer_end import AnswerEnd
from bitsample_llm.credit import right_step_share
from bitsample_llm.tasks import Problem, Verdict


class RolloutVerifier:
    """Turns sampled token ids into verdicts of a task on its problems; completions end as `end` says, by default with the
    tokenizer's end of sequence.
    """

    def __init__(self, task, problems: Sequence[Problem], tokenizer, end: AnswerEnd | None = None):
        self.task = task
        self.tokenizer = tokenizer
        self.end = end or AnswerEnd.of(None, tokenizer)
        self.problem_by_id = {problem.problem_id: problem for problem in problems}
        self._last_asked: tuple = ()
        self._last_judged: list[tuple[str, bool, Verdict]] = []

    def judged(self, problem_ids: Sequence[str], completion_ids: Sequence[list[int]]) -> list[tuple[str, bool, Verdict]]:
        """Text, whether it stopped by itself, and verdict of each completion.

        A reward function and the meter ask for the same completions one after the other: they are judged once.

        Raises:
            KeyError: for a problem it does not know.
        """
        asked = (list(problem_ids), list(completion_ids))
        if asked != self._last_asked:
            texts_and_ends = self.end.texts_and_ends(completion_ids)
            self._last_judged = [
                (text, ended, self.verdict(problem_id, text, ended))
                for problem_id, (text, ended) in zip(problem_ids, texts_and_ends, strict=True)
            ]
            self._last_asked = asked
        return self._last_judged

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
        return [float(verdict.passed) for _, _, verdict in self.verifier.judged(problem_id, completion_ids)]


class ProcessSumReward:
    """The share of right steps: a denser reward, still one number."""

    __name__ = "process_sum"

    def __init__(self, verifier: RolloutVerifier):
        self.verifier = verifier

    def __call__(self, completion_ids, problem_id, **kwargs) -> list[float]:
        judged = self.verifier.judged(problem_id, completion_ids)
        num_steps = [self.verifier.problem_by_id[name].num_steps for name in problem_id]
        return [right_step_share(verdict.steps, num) for (_, _, verdict), num in zip(judged, num_steps, strict=True)]


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


def judged_completions(
    verifier: RolloutVerifier | None, inputs: list[dict], completion_ids: list[list[int]], end: AnswerEnd
) -> list[dict]:
    """Rows of what was sampled, with verdicts where there is a verifier; without one they end as `end` says, and `passed` is
    null.
    """
    rows = [
        {"problem_id": example.get("problem_id"), "num_tokens": len(ids)}
        for example, ids in zip(inputs, completion_ids, strict=True)
    ]
    if verifier is None:
        for row, (text, ended) in zip(rows, end.texts_and_ends(completion_ids), strict=True):
            row |= {"text": text, "ended": ended, "passed": None}
        return rows
    judged = verifier.judged([row["problem_id"] for row in rows], completion_ids)
    for row, (text, ended, verdict) in zip(rows, judged, strict=True):
        row |= {
            "text": text,
            "ended": ended,
            "passed": verdict.passed,
            "reason": verdict.reason,
            "num_steps": len(verdict.steps),
            "num_correct_before_first_error": verdict.num_correct_before_first_error,
        }
    return rows
