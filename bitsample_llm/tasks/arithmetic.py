"""Addition and subtraction of equally long numbers, with one accepted answer string each.

A prompt is ``<author mark><operand><operator><operand><sign>``: ``A47+85=`` asks for the answer as written (``132``),
``A47+85<`` for its digits from the right (``231``), the order in which carries are computed. Every prompt carries one
author mark, ``?`` where the author is unknown, so prompts of one difficulty all have one form and length.
"""

from functools import cache

import numpy as np

from bitsample_llm.tasks.authors import CARE_BY_MARK
from bitsample_llm.tasks.problem import POOL_BOUNDS, UNKNOWN_MARK, Problem, Verdict, pool_of_pair, verdict_on_string

OPERATOR_BY_TASK = {"addition": "+", "subtraction": "-"}
SIGN_BY_FORMAT = {"plain": "=", "reversed": "<"}
MAX_DRAWS_IN_VAIN = 2000  # in a row, after which a split counts as exhausted
MAX_DIFFICULTY = 1000  # Python refuses to print integers past 4300 digits; no model here reads that far


def operands_from_digits(digits: np.ndarray) -> list[int]:
    """Integers written by the rows of an (n, d) array of digits."""
    return [int("".join(map(str, row))) for row in digits.tolist()]


@cache
def pairs_by_pool(difficulty: int) -> dict[str, list[tuple[int, int]]]:
    """All ordered operand pairs of one or two digits, by the pool that owns them."""
    low, high = (0, 10) if difficulty == 1 else (10 ** (difficulty - 1), 10**difficulty)
    pools: dict[str, list[tuple[int, int]]] = {pool: [] for pool in POOL_BOUNDS}
    for first in range(low, high):
        for second in range(low, high):
            pools[pool_of_pair(first, second)].append((first, second))
    return pools


class ArithmeticTask:
    """A distribution of problems of one operation, answer format, difficulty and author mark."""

    def __init__(self, name: str, answer_format: str, difficulty: int = 2, mark: str | None = None):
        if name not in OPERATOR_BY_TASK:
            raise ValueError(f"unknown task {name!r}; known: {', '.join(OPERATOR_BY_TASK)}")
        if answer_format not in SIGN_BY_FORMAT:
            raise ValueError(f"unknown answer format {answer_format!r}; known: {', '.join(SIGN_BY_FORMAT)}")
        if isinstance(difficulty, bool) or not isinstance(difficulty, int) or not 1 <= difficulty <= MAX_DIFFICULTY:
            raise ValueError(f"difficulty is a number of digits from 1 to {MAX_DIFFICULTY}, got {difficulty!r}")
        if mark is not None and not (isinstance(mark, str) and mark in CARE_BY_MARK):
            raise ValueError(f"unknown author mark {mark!r}; known: {', '.join(CARE_BY_MARK)}, or None for an unknown author")
        self.name = name
        self.answer_format = answer_format
        self.difficulty = difficulty
        self.mark = mark

    def problem(self, first: int, second: int, difficulty: int | None = None) -> Problem:
        """The problem with these operands; a subtraction takes the smaller from the larger, so answers have no sign."""
        if self.name == "subtraction":
            first, second = max(first, second), min(first, second)
        result = first + second if self.name == "addition" else first - second
        question = f"{first}{OPERATOR_BY_TASK[self.name]}{second}"
        mark = self.mark or UNKNOWN_MARK
        return Problem(
            problem_id=f"{self.name}/{self.answer_format}/{mark}/{question}",
            prompt=f"{mark}{question}{SIGN_BY_FORMAT[self.answer_format]}",
            answer=str(result) if self.answer_format == "plain" else str(result)[::-1],
            difficulty=difficulty or self.difficulty,
            mark=self.mark,
        )

    def problems(self, split: str, num: int, seed: int) -> list[Problem]:
        """`num` distinct problems of a split, drawn from `seed`.

        `shifted` has one digit more, all others have this task's difficulty; `seen` and `pretrain` are pairs that the base
        model was trained on. No operand pair is in two splits.

        Raises:
            ValueError: for an unknown split, or where the split has fewer than `num` problems.
        """
        if split not in POOL_BOUNDS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(POOL_BOUNDS)}")
        if not isinstance(num, int) or num < 0:
            raise ValueError(f"the number of problems is a whole number of at least 0, got {num!r}")
        rng = np.random.default_rng([seed, list(POOL_BOUNDS).index(split)])
        difficulty = self.difficulty + (split == "shifted")
        found: dict[str, Problem] = {}
        draws_in_vain = 0
        for first, second in self._pairs(split, difficulty, rng):
            if len(found) == num or draws_in_vain == MAX_DRAWS_IN_VAIN:
                break
            problem = self.problem(first, second, difficulty)
            draws_in_vain = draws_in_vain + 1 if problem.problem_id in found else 0
            found.setdefault(problem.problem_id, problem)
        if len(found) < num:
            raise ValueError(
                f"{self.name} with {difficulty} digits has only {len(found)} problems in split {split!r}, asked for {num}"
            )
        return list(found.values())

    def _pairs(self, split: str, difficulty: int, rng: np.random.Generator):
        if difficulty <= 2:  # few enough to list, which also shows when a split is exhausted
            pairs = pairs_by_pool(difficulty)[split]
            yield from (pairs[index] for index in rng.permutation(len(pairs)))
            return
        while True:
            digits = rng.integers(0, 10, size=(2, 256, difficulty))
            digits[:, :, 0] = rng.integers(1, 10, size=(2, 256))
            for pair in zip(operands_from_digits(digits[0]), operands_from_digits(digits[1]), strict=True):
                if pool_of_pair(*pair) == split:
                    yield pair

    def verify(self, problem: Problem, completion: str, ended: bool = True) -> Verdict:
        """Verdict on a completion: it passes if it is exactly the answer and stopped by itself (`ended`).

        Raises:
            TypeError: if `completion` is not a string; that is a bug of the caller, not a wrong answer.
        """
        if not isinstance(completion, str):
            raise TypeError(f"a completion is a string, got {type(completion).__name__}")
        return verdict_on_string(problem.answer, completion, ended)
