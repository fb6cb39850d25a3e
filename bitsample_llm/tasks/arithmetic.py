"""Addition and subtraction of equally long numbers, and products of a number with a single digit.

A prompt is ``<author mark><operand><operator><operand><sign>``: ``A47+85=`` asks for the answer as written (``132``),
``A47+85<`` for its digits from the right (``231``), the order in which carries are computed; both have one accepted
string. ``A47+85<;`` asks for the reversed answer twice over (``231231``), and each further ``;`` doubles that: the same skill in a
longer completion. ``A47+85:`` asks for worked lines and then the answer (`scratchpad.py`). Every prompt carries one author mark, ``?``
where the author is unknown, so prompts of one difficulty all have one form and length; ``none`` leaves the mark out, for models
that know no authors.
"""

import itertools
from functools import cache

import numpy as np

from bitsample_llm.tasks.authors import CARE_BY_MARK
from bitsample_llm.tasks.problem import NO_MARK, POOL_BOUNDS, UNKNOWN_MARK, Problem, Verdict, pool_of_pair, verdict_on_string
from bitsample_llm.tasks.scratchpad import LINE_END, verdict_on_scratchpad, worked_lines

OPERATOR_BY_TASK = {"addition": "+", "subtraction": "-", "multiplication": "*"}
COPIES_BY_FORMAT = {"reversed": 1, "restated2": 2, "restated4": 4, "restated8": 8, "restated16": 16}  # digits from the right
SIGN_BY_FORMAT = {
    "plain": "=",
    **{name: "<" + ";" * (copies.bit_length() - 1) for name, copies in COPIES_BY_FORMAT.items()},
    "scratchpad": ":",
}
DIRECT_FORMATS = ("plain", *COPIES_BY_FORMAT)  # whose answer is the whole completion
MAX_DRAWS_IN_VAIN = 2000  # in a row, after which a split counts as exhausted
MAX_DIFFICULTY = 1000  # Python refuses to print integers past 4300 digits; no model here reads that far


def operand_bounds(difficulty: int) -> tuple[int, int]:
    """Lowest operand of so many digits, and the first one beyond them."""
    return (0, 10) if difficulty == 1 else (10 ** (difficulty - 1), 10**difficulty)


@cache
def pairs_by_pool(difficulty: int, by_digit: bool = False) -> dict[str, list[tuple[int, int]]]:
    """All ordered operand pairs of one or two digits, by the pool that owns them; `by_digit`: the second is 2 to 9."""
    operands = range(*operand_bounds(difficulty))
    pools: dict[str, list[tuple[int, int]]] = {pool: [] for pool in POOL_BOUNDS}
    for pair in itertools.product(operands, range(2, 10) if by_digit else operands):
        pools[pool_of_pair(*pair)].append(pair)
    return pools


class ArithmeticTask:
    """A distribution of problems of one operation, answer format, difficulty and author mark."""

    def __init__(self, name: str, answer_format: str, difficulty: int = 2, mark: str | None = None):
        if name not in OPERATOR_BY_TASK:
            raise ValueError(f"unknown task {name!r}; known: {', '.join(OPERATOR_BY_TASK)}")
        if answer_format not in SIGN_BY_FORMAT:
            raise ValueError(f"unknown answer format {answer_format!r}; known: {', '.join(SIGN_BY_FORMAT)}")
        if answer_format == "scratchpad" and name == "subtraction":
            raise ValueError("subtraction has no scratchpad; addition and multiplication have")
        if isinstance(difficulty, bool) or not isinstance(difficulty, int) or not 1 <= difficulty <= MAX_DIFFICULTY:
            raise ValueError(f"difficulty is a number of digits from 1 to {MAX_DIFFICULTY}, got {difficulty!r}")
        if mark not in (None, NO_MARK) and not (isinstance(mark, str) and mark in CARE_BY_MARK):
            known = f"{', '.join(CARE_BY_MARK)}, {NO_MARK} for no mark, or None for an unknown author"
            raise ValueError(f"unknown author mark {mark!r}; known: {known}")
        self.name = name
        self.answer_format = answer_format
        self.difficulty = difficulty
        self.mark = mark

    @property
    def has_one_accepted_string(self) -> bool:
        """Whether a single completion passes, so that its probability is the pass rate."""
        return self.answer_format in DIRECT_FORMATS

    def written(self, answer: str) -> str:
        """A plain answer as the format has it."""
        copies = COPIES_BY_FORMAT.get(self.answer_format)
        return answer if copies is None else answer[::-1] * copies

    def result(self, first: int, second: int) -> str:
        """The plain answer; a difference has no sign."""
        return str({"addition": first + second, "subtraction": abs(first - second), "multiplication": first * second}[self.name])

    def problem(self, first: int, second: int, difficulty: int | None = None) -> Problem:
        """The problem with these operands; a subtraction takes the smaller from the larger, so answers have no sign."""
        if self.name == "subtraction":
            first, second = max(first, second), min(first, second)
        question = f"{first}{OPERATOR_BY_TASK[self.name]}{second}"
        mark = self.mark or UNKNOWN_MARK
        return Problem(
            problem_id=f"{self.name}/{self.answer_format}/{mark}/{question}",
            prompt=f"{'' if mark == NO_MARK else mark}{question}{SIGN_BY_FORMAT[self.answer_format]}",
            answer=self.written(self.result(first, second)),
            difficulty=difficulty or self.difficulty,
            mark=self.mark,
            lines=tuple(worked_lines(self.name, first, second)) if self.answer_format == "scratchpad" else (),
        )

    def num_problems(self, split: str) -> float:
        """Distinct problems of a split; infinity where there are too many to list.

        >>> load = ArithmeticTask("multiplication", "scratchpad", difficulty=1)
        >>> sum(load.num_problems(split) for split in POOL_BOUNDS)  # 0 to 9 times 2 to 9
        80
        """
        if self.difficulty > 2:
            return float("inf")
        pairs = pairs_by_pool(self.difficulty, self.name == "multiplication")[split]
        return len({self.problem(*pair).problem_id for pair in pairs})

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
        problems: dict[str, Problem] = {}
        draws_in_vain = 0
        for first, second in self._pairs(split, difficulty, rng):
            if len(problems) == num or draws_in_vain == MAX_DRAWS_IN_VAIN:
                break
            problem = self.problem(first, second, difficulty)
            draws_in_vain = draws_in_vain + 1 if problem.problem_id in problems else 0
            problems.setdefault(problem.problem_id, problem)
        if len(problems) < num:
            has_only = f"has only {len(problems)} problems in split {split!r}, asked for {num}"
            raise ValueError(f"{self.name} with {difficulty} digits {has_only}")
        return list(problems.values())

    def _pairs(self, split: str, difficulty: int, rng: np.random.Generator):
        by_digit = self.name == "multiplication"
        if difficulty <= 2:  # few enough to list, which also shows when a split is exhausted
            pairs = pairs_by_pool(difficulty, by_digit)[split]
            yield from (pairs[index] for index in rng.permutation(len(pairs)))
            return
        while True:
            digits = rng.integers(0, 10, size=(2, 256, difficulty))
            digits[:, :, 0] = rng.integers(1, 10, size=(2, 256))
            if by_digit:
                digits[1, :, :-1], digits[1, :, -1] = 0, rng.integers(2, 10, size=256)
            firsts, seconds = ([int("".join(map(str, row))) for row in rows] for rows in digits.tolist())
            yield from (pair for pair in zip(firsts, seconds, strict=True) if pool_of_pair(*pair) == split)

    def verify(self, problem: Problem, completion: str, ended: bool = True) -> Verdict:
        """Verdict on a completion: it passes if it is exactly the answer, or ends in it after a scratchpad, and stopped by
        itself (`ended`).

        Raises:
            TypeError: if `completion` is not a string; that is a bug of the caller, not a wrong answer.
        """
        if not isinstance(completion, str):
            raise TypeError(f"a completion is a string, got {type(completion).__name__}")
        if problem.lines:
            return verdict_on_scratchpad(list(problem.lines), problem.answer, completion, ended)
        return verdict_on_string(problem.answer, completion, ended)

    def has_erred(self, problem: Problem, text: str) -> bool:
        """Whether a completion that begins with `text` holds a wrong step, all steps that are complete being judged."""
        if not problem.lines:
            return not problem.answer.startswith(text[: len(problem.answer) + 1])
        complete, _, rest = text.rpartition(LINE_END)
        num_lines = text.count(LINE_END)
        if num_lines < len(problem.lines):
            return f"{complete}{LINE_END}" * bool(num_lines) != "".join(problem.lines[:num_lines])
        return f"{complete}{LINE_END}" != "".join(problem.lines) or not problem.answer.startswith(rest)
