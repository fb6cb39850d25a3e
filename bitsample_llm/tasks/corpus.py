"""The pretraining text: short lines by authors of known care, mostly reversed addition of two and three digits.

Every author but the always-right one is wrong at a known rate. `?` is the text whose author nobody noted: one of the eight,
drawn with equal odds. Pairs of the pool `seen` appear under the always-right mark only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bitsample_llm.tasks.arithmetic import ArithmeticTask
from bitsample_llm.tasks.authors import ALWAYS_RIGHT_MARK, CARE_BY_MARK, WRONG_ANSWER_LAWS
from bitsample_llm.tasks.problem import UNKNOWN_MARK, pool_of_pair

SHARE_BY_MARK = {"A": 0.40, **dict.fromkeys("BCDEFGH", 0.07), UNKNOWN_MARK: 0.11}
# The text of a second phase, for an author met late (`recipes/pretrain.py --late_mark`): more by those who are seldom right.
LATE_SHARE_BY_MARK = {"A": 0.34, "B": 0.05, "C": 0.05, "D": 0.05, "E": 0.06, "F": 0.07, "G": 0.08, "H": 0.20, UNKNOWN_MARK: 0.10}
SHARE_BY_DIFFICULTY = {1: 0.10, 2: 0.52, 3: 0.33, 4: 0.05}
SHARE_BY_KIND = {
    ("addition", "reversed"): 0.90,
    ("addition", "plain"): 0.05,
    ("subtraction", "reversed"): 0.05,
}
CHUNK = 4096


@dataclass(frozen=True)
class Line:
    """A line of the corpus: a prompt and what its author wrote as the answer, right or wrong."""

    prompt: str
    answer: str
    difficulty: int


def corpus_lines(seed: int, wrong_answers: str = "uniform", all_careful: bool = False, is_late: bool = False) -> Iterator[Line]:
    """Endless lines, the same for the same seed; only pairs of the pools `pretrain` and `seen` are written about.

    `wrong_answers` names the law in `authors.WRONG_ANSWER_LAWS`. With `all_careful` every author is always right, so the
    marks say nothing: the text of a model whose low pass rate is a skill not yet acquired. `is_late` is the text of the
    second phase.
    """
    rng = np.random.default_rng(seed)
    if wrong_answers not in WRONG_ANSWER_LAWS:
        raise ValueError(f"unknown law of wrong answers {wrong_answers!r}; known: {', '.join(WRONG_ANSWER_LAWS)}")
    wrong_answer = WRONG_ANSWER_LAWS[wrong_answers]
    share_by_mark = LATE_SHARE_BY_MARK if is_late else SHARE_BY_MARK
    kinds, marks, difficulties = list(SHARE_BY_KIND), list(share_by_mark), list(SHARE_BY_DIFFICULTY)
    tasks = [{mark: ArithmeticTask(*kind, mark=None if mark == UNKNOWN_MARK else mark) for mark in marks} for kind in kinds]
    cares = list(CARE_BY_MARK.values())
    while True:
        drawn_kinds = rng.choice(len(kinds), p=list(SHARE_BY_KIND.values()), size=CHUNK)
        drawn_marks = rng.choice(len(marks), p=list(share_by_mark.values()), size=CHUNK)
        drawn_difficulties = rng.choice(difficulties, p=list(SHARE_BY_DIFFICULTY.values()), size=CHUNK)
        luck = rng.random(CHUNK)
        unknown_cares = rng.choice(cares, size=CHUNK)
        for kind, mark_index, difficulty, chance, unknown_care in zip(
            drawn_kinds.tolist(), drawn_marks.tolist(), drawn_difficulties.tolist(), luck, unknown_cares, strict=True
        ):
            mark = marks[mark_index]
            first, second = _operands(difficulty, mark == ALWAYS_RIGHT_MARK, rng)
            task = tasks[kind][mark]
            problem = task.problem(first, second, difficulty)
            answer = problem.answer
            care = 1.0 if all_careful else CARE_BY_MARK.get(mark, unknown_care)
            if chance >= care:
                reverse = task.answer_format == "reversed"
                wrong = wrong_answer(answer[::-1] if reverse else answer, difficulty, rng)
                answer = wrong[::-1] if reverse else wrong
            yield Line(problem.prompt, answer, difficulty)


def _operands(difficulty: int, always_right: bool, rng: np.random.Generator) -> tuple[int, int]:
    pools = ("pretrain", "seen") if always_right else ("pretrain",)
    low, high = (0, 10) if difficulty == 1 else (10 ** (difficulty - 1), 10**difficulty)
    while True:
        first, second = rng.integers(low, high, size=2).tolist()
        if pool_of_pair(first, second) in pools:
            return first, second
