"""Verdicts on problems that come from data, in the form that the arithmetic tasks give them."""

from collections.abc import Sequence

from bitsample_llm.tasks import Problem, Step, Verdict
from bitsample_llm.tasks.judge import NoVerdict
from bitsample_llm.tasks.problem import verdict_on_string
from bitsample_llm.tasks.verifiers import VERIFIERS

MAX_REMEMBERED = 10_000  # verdicts: rollouts of a prompt repeat themselves, and a slow verdict is asked for once


class DatasetTask:
    """Problems of a data set with the verifiers of their rows; `details`: problem id -> what a verifier needs with the answer."""

    def __init__(self, name: str, problems: Sequence[Problem], details: dict[str, dict] | None = None):
        self.name = name
        self.has_one_accepted_string = all(problem.has_one_accepted_string for problem in problems)
        self._details = details or {}
        self._remembered: dict[tuple[str, str], tuple[bool, str]] = {}

    @property
    def judges_steps(self) -> bool:
        """Whether single characters are right or wrong, which they are where one string is accepted."""
        return self.has_one_accepted_string

    def verify(self, problem: Problem, completion: str, ended: bool = True) -> Verdict:
        """Verdict on a completion, which has to have stopped by itself (`ended`) to pass; a TypeError for what is no string. Under
        an exact verifier every character is a step, else all of them together; the end is one more.
        """
        if not isinstance(completion, str):
            raise TypeError(f"a completion is a string, got {type(completion).__name__}")
        if problem.verifier == "exact":
            verdict = verdict_on_string(problem.answer, completion, ended)
            is_wrong = verdict.reason in ("wrong_digit", "not_a_digit")
            return Verdict(verdict.passed, "wrong_answer" if is_wrong else verdict.reason, verdict.steps)
        is_right, reason = self._judged(problem, completion) if completion.strip() else (False, "empty")
        length = len(completion)
        steps = (Step(0, length, is_right), Step(length, length, bool(ended) and is_right))
        if is_right and not ended:
            reason = "not_ended"
        return Verdict(is_right and bool(ended), reason, steps)

    def _judged(self, problem: Problem, completion: str) -> tuple[bool, str]:
        key = (problem.problem_id, completion)
        if key not in self._remembered:
            try:
                is_right = VERIFIERS[problem.verifier](completion, problem.answer, self._details.get(problem.problem_id, {}))
                reason = "correct" if is_right else "wrong_answer"
            except NoVerdict as why:  # neither a pass nor a wrong answer: the record says why
                is_right, reason = False, f"no_verdict:{why}"
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = is_right, reason
        return self._remembered[key]

    def has_erred(self, problem: Problem, text: str) -> bool:
        """Whether a completion that begins so cannot be the answer; a character whose bytes are still to come is not judged."""
        text = text.rstrip("\ufffd")
        return not problem.answer.startswith(text[: len(problem.answer) + 1])
