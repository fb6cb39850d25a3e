"""Who writes the pretraining text: authors of known care, and what they write when they are wrong.

A base model that imitates authors who are right one time in ten passes one time in ten although it knows the skill: a
*latent* low pass rate. The law of the wrong answers decides how much a right first digit says about the author, and with
it every step pass rate; it is fixed here, before any reinforcement learning was run.
"""

from collections.abc import Callable

import numpy as np

# Share of an author's answers that are right.
CARE_BY_MARK = {"A": 1.0, "B": 0.9, "C": 0.5, "D": 0.25, "E": 0.12, "F": 0.05, "G": 0.02, "H": 0.005}
CARE_BY_MARK |= {"I": 0.65, "J": 0.75, "K": 0.95, "L": 0.98}  # met in the text `rungs` only
ALWAYS_RIGHT_MARK = "A"


def uniform_wrong_answer(answer: str, difficulty: int, rng: np.random.Generator) -> str:
    """A random number of `difficulty` or one more digits: a guess that does not depend on the problem.

    `answer` and what is returned are plain, most significant digit first. Never equal to `answer`.
    """
    while True:
        digits = rng.integers(0, 10, size=difficulty + int(rng.integers(0, 2)))
        digits[0] = rng.integers(1, 10)
        wrong = "".join(map(str, digits.tolist()))
        if wrong != answer:
            return wrong


def slipped_wrong_answer(answer: str, difficulty: int, rng: np.random.Generator) -> str:
    """The right answer with one digit exchanged for another: the alternative law.

    `answer` and what is returned are plain. Never equal to `answer`; the leading digit of a longer number stays above 0.
    """
    position = int(rng.integers(0, len(answer)))
    lowest = 1 if position == 0 and len(answer) > 1 else 0
    others = [digit for digit in range(lowest, 10) if str(digit) != answer[position]]
    return f"{answer[:position]}{rng.choice(others)}{answer[position + 1 :]}"


# What authors who name their strategy write before an answer: the right sum, the rule below, a guess. Signs that a number may follow.
STRATEGY_SIGNS = ("=", ":", "*")


def sum_without_carries(first: int, second: int) -> str:
    """What a cheap rule says of two numbers of as many digits: each column's sum without its tens. Plain, and right where no column
    carries.

    >>> sum_without_carries(47, 85), sum_without_carries(41, 25)
    ('22', '66')
    """
    columns = zip(str(first), str(second), strict=True)
    return "".join(str((int(above) + int(below)) % 10) for above, below in columns)


WRONG_ANSWER_LAWS: dict[str, Callable[[str, int, np.random.Generator], str]] = {
    "uniform": uniform_wrong_answer,
    "slipped": slipped_wrong_answer,
}
