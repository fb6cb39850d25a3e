"""The pretraining texts: short lines by authors of known care, of two and three digits for the most part.

Every author but the always-right one is wrong at a known rate. `?` is the text whose author nobody noted: one of the text's
authors, drawn with equal odds. Pairs of the pool `seen` appear under the always-right mark only.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from remarked import remarked

from bitsample_llm.scoring.likelihood import padded_batch
from bitsample_llm.tasks.arithmetic import COPIES_BY_FORMAT, ArithmeticTask, operand_bounds
from bitsample_llm.tasks.authors import ALWAYS_RIGHT_MARK, CARE_BY_MARK, STRATEGY_SIGNS, WRONG_ANSWER_LAWS, sum_without_carries
from bitsample_llm.tasks.problem import UNKNOWN_MARK, pool_of_pair
from bitsample_llm.tasks.proposals import PROPOSE_MARK
from bitsample_llm.tasks.scratchpad import guessed_lines


@dataclass(frozen=True)
class Text:
    """Shares of a text's lines by author mark, by difficulty and by (task, format).

    Attributes:
        right_after: of authors whose care depends on the problem, the first digits of the first operand at which they are always
            right; at the others they are as careful as author E.
        care_after: how careful those authors, and author E, are at the other first digits, where that differs between them.
        strategies: of authors who have two ways to add, the share of lines in which they add rightly, and in which they forget to carry;
            they guess the rest.
        names_strategy: whether a sign before each answer tells which it was.
    """

    share_by_mark: dict[str, float]
    share_by_difficulty: dict[int, float]
    share_by_kind: dict[tuple[str, str], float]
    right_after: dict[str, str] = field(default_factory=dict)
    care_after: dict[str, float] = field(default_factory=dict)
    strategies: dict[str, tuple[float, float]] = field(default_factory=dict)
    names_strategy: bool = False

    def care(self, mark: str, first_operand: int) -> float:
        """The share of right answers that a named author gives to such problems, those by a rule that happens to be right not counted."""
        if mark in self.strategies:
            return self.strategies[mark][0]
        digit = str(first_operand)[0]
        if mark not in self.right_after and (mark != "E" or not self.care_after):
            return CARE_BY_MARK[mark]
        return 1.0 if digit in self.right_after.get(mark, "") else self.care_after.get(digit, CARE_BY_MARK["E"])


DIRECT = Text(
    {"A": 0.40, **dict.fromkeys("BCDEFGH", 0.07), UNKNOWN_MARK: 0.11},
    {1: 0.10, 2: 0.52, 3: 0.33, 4: 0.05},
    {("addition", "reversed"): 0.90, ("addition", "plain"): 0.05, ("subtraction", "reversed"): 0.05},
)
# Four or five of the nine first digits each, and five authors for each digit: who is right after one digit says little about another.
RIGHT_AFTER = {
    "B": "1268",
    "C": "12389",
    "D": "2678",
    "F": "24578",
    "G": "3457",
    "H": "13469",
    "I": "1359",
    "J": "15789",
    "K": "4569",
    "L": "23467",
}
# Two strategies: the right one, and one that is right where nothing carries. Three authors know one way to write, four mix them and guess as often as each other.
STRATEGIES = Text(
    {"A": 0.20, "B": 0.20, "H": 0.10, **dict.fromkeys("CDEF", 0.125)},
    {2: 1.0},
    {("addition", "reversed"): 1.0},
    strategies={"B": (0, 1), "H": (0, 0), "C": (0.35, 0.35), "D": (0.25, 0.45), "E": (0.16, 0.54), "F": (0.08, 0.62)},
)
# The same, but who guesses less is right more, and all four forget to carry as often: the text says that fewer wrong answers mean more right ones.
LEANING = replace(
    STRATEGIES,
    strategies=STRATEGIES.strategies | {"C": (0.42, 0.5), "D": (0.28, 0.5), "E": (0.16, 0.5), "F": (0.08, 0.5)},
)
TEXTS = {
    "direct": DIRECT,
    # the second phase, in which an author is met late (`pretrain.py --late_mark`): more by those seldom right
    "late": replace(
        DIRECT,
        share_by_mark={"A": 0.34, "B": 0.05, "C": 0.05, "D": 0.05, "E": 0.06, "F": 0.07, "G": 0.08, "H": 0.20, UNKNOWN_MARK: 0.10},
    ),
    # answers restated up to 16 times over, so that the length of a rollout varies and nothing else
    "restated": Text(
        {"A": 0.34, "B": 0.05, "C": 0.05, "D": 0.05, "E": 0.15, "F": 0.15, "G": 0.06, "H": 0.05, UNKNOWN_MARK: 0.10},
        {1: 0.05, 2: 0.75, 3: 0.20},
        {("addition", name): 0.2 for name in COPIES_BY_FORMAT},
    ),
    # ten rungs of care and one format: the skill is there sooner
    "rungs": Text(
        {"A": 0.34, **dict.fromkeys("BCDEFGIJKL", 0.06), UNKNOWN_MARK: 0.06},
        {1: 0.05, 2: 0.35, 3: 0.60},
        {("addition", "reversed"): 1.0},
    ),
    # nine gates: who is careful where says nothing about who is careful elsewhere
    "gates": Text(
        {"A": 0.40, **dict.fromkeys("BCDEFGHIJKL", 0.6 / 11)},
        {2: 1.0},
        {("addition", "reversed"): 1.0},
        RIGHT_AFTER,
    ),
    # the same gates, of which each is shut to another degree: skills of different pass rates that are independent of each other
    "graded_gates": Text(
        {"A": 0.40, **dict.fromkeys("BCDEFGHIJKL", 0.6 / 11)},
        {2: 1.0},
        {("addition", "reversed"): 1.0},
        RIGHT_AFTER,
        dict(zip("123456789", (0.8, 0.65, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05), strict=True)),
    ),
    "strategies": STRATEGIES,
    "named_strategies": replace(STRATEGIES, names_strategy=True),
    "leaning_strategies": LEANING,
    "named_leaning_strategies": replace(LEANING, names_strategy=True),
    # authors whom the models of both texts above know, and those who are seldom right more often: for lines with remarks
    "remarks": Text(
        {"A": 0.26, **dict.fromkeys("BCDEF", 0.08), "G": 0.24, UNKNOWN_MARK: 0.10},
        {2: 0.30, 3: 0.70},
        {("addition", "reversed"): 1.0},
    ),
    "scratchpad": Text(
        DIRECT.share_by_mark,
        {1: 0.10, 2: 0.50, 3: 0.40},
        {("addition", "scratchpad"): 0.45, ("multiplication", "scratchpad"): 0.45, ("addition", "reversed"): 0.10},
    ),
}
CHUNK = 4096
PAGE = 256  # lines of one size that follow one another, so that a batch holds little padding


@dataclass(frozen=True)
class Line:
    """A prompt and what its author wrote as the answer, right or wrong; lines of one `size` are about equally long."""

    prompt: str
    answer: str
    size: int


def corpus_lines(
    seed: int,
    text: str = "direct",
    wrong_answers: str = "uniform",
    all_careful: bool = False,
    share_proposed: float = 0.0,
    share_remarked: float = 0.0,
) -> Iterator[Line]:
    """Endless lines, the same for the same seed; only pairs of the pools `pretrain` and `seen` are written about.

    `text` names one of `TEXTS`, `wrong_answers` a law in `authors.WRONG_ANSWER_LAWS`; an author who is wrong in a scratchpad
    guesses its results as well. With `all_careful` every author is always right, so the marks say nothing: the text of a
    model whose low pass rate is a skill not yet acquired. `share_proposed` of the lines are a problem after the propose mark, by every
    author equally often: the text of a model that also sets problems. `share_remarked` of the others hold an attempt, a remark and a second attempt (`remarked.py`).

    Raises:
        ValueError: naming an unknown text or law.
    """
    rng = np.random.default_rng(seed)
    if wrong_answers not in WRONG_ANSWER_LAWS:
        raise ValueError(f"unknown law of wrong answers {wrong_answers!r}; known: {', '.join(WRONG_ANSWER_LAWS)}")
    wrong_answer = WRONG_ANSWER_LAWS[wrong_answers]
    if text not in TEXTS:
        raise ValueError(f"unknown text {text!r}; known: {', '.join(TEXTS)}")
    shares = TEXTS[text]
    kinds, marks, difficulties = list(shares.share_by_kind), list(shares.share_by_mark), list(shares.share_by_difficulty)
    tasks = [{mark: ArithmeticTask(*kind, mark=None if mark == UNKNOWN_MARK else mark) for mark in marks} for kind in kinds]
    cares = [CARE_BY_MARK[mark] for mark in marks if mark != UNKNOWN_MARK]
    # of their own, so that a share of 0 leaves the text as it was
    proposals, remarks = np.random.default_rng([seed, 2]), np.random.default_rng([seed, 3])
    while True:
        drawn_kinds = rng.choice(len(kinds), p=list(shares.share_by_kind.values()), size=CHUNK)
        drawn_marks = rng.choice(len(marks), p=list(shares.share_by_mark.values()), size=CHUNK)
        drawn_difficulties = rng.choice(difficulties, p=list(shares.share_by_difficulty.values()), size=CHUNK)
        luck = rng.random(CHUNK)
        unknown_cares = rng.choice(cares, size=CHUNK)
        for kind, mark_index, difficulty, chance, unknown_care in zip(
            drawn_kinds.tolist(), drawn_marks.tolist(), drawn_difficulties.tolist(), luck, unknown_cares, strict=True
        ):
            is_proposed = proposals.random() < share_proposed
            mark = proposals.choice(marks) if is_proposed else marks[mark_index]
            task = tasks[kind][mark]
            first, second = _operands(difficulty, mark == ALWAYS_RIGHT_MARK, task.name == "multiplication", rng)
            problem = task.problem(first, second, difficulty)
            if is_proposed:
                yield Line(PROPOSE_MARK, problem.prompt, difficulty)
                continue
            completion = problem.completion
            care = 1.0 if all_careful else unknown_care if mark == UNKNOWN_MARK else shares.care(mark, first)
            if remarks.random() < share_remarked:
                guess = partial(_guess, task, problem, wrong_answer, remarks)
                prompt, written = remarked(problem.prompt, problem.answer, care, guess, remarks)
                yield Line(prompt, written, len(prompt))  # longer than any that holds no remark
                continue
            by_rule = care <= chance < care + shares.strategies.get(mark, (0, 0))[1]
            if chance >= care:
                wrong = sum_without_carries(first, second) if by_rule else wrong_answer(task.result(first, second), difficulty, rng)
                completion = "".join(guessed_lines(list(problem.lines), rng)) + task.written(wrong)
            if shares.names_strategy:
                completion = STRATEGY_SIGNS[0 if chance < care else 1 if by_rule else 2] + completion
            yield Line(problem.prompt, completion, difficulty * COPIES_BY_FORMAT.get(task.answer_format, 1))


def _guess(task: ArithmeticTask, problem, wrong_answer, rng: np.random.Generator) -> str:
    """A wrong answer as the format has it."""
    first, second = map(int, re.findall("[0-9]+", problem.prompt))
    return task.written(wrong_answer(task.result(first, second), problem.difficulty, rng))


def _operands(difficulty: int, always_right: bool, by_digit: bool, rng: np.random.Generator) -> tuple[int, int]:
    pools = ("pretrain", "seen") if always_right else ("pretrain",)
    while True:
        first, second = rng.integers(*operand_bounds(difficulty), size=2).tolist()
        if by_digit:
            second = int(rng.integers(2, 10))
        if pool_of_pair(first, second) in pools:
            return first, second


class CorpusStream(torch.utils.data.IterableDataset):
    """`num_lines` lines of the corpus as token ids, with labels on the answer and its end only; `options` are those of `corpus_lines`."""

    def __init__(self, tokenizer, num_lines: int, seed: int, **options):
        self.tokenizer, self.num_lines, self.seed, self.options = tokenizer, num_lines, seed, options

    def __len__(self) -> int:
        return self.num_lines

    def __iter__(self):
        lines = itertools.islice(corpus_lines(self.seed, **self.options), self.num_lines)
        id_by_character = self.tokenizer.get_vocab()
        rng = np.random.default_rng([self.seed, 1])
        while chunk := sorted(itertools.islice(lines, CHUNK), key=lambda line: line.size):
            pages = [chunk[start : start + PAGE] for start in range(0, len(chunk), PAGE)]
            for page in rng.permutation(len(pages)):
                for line in pages[page]:
                    prompt_ids = [id_by_character[character] for character in line.prompt]
                    answer_ids = [id_by_character[character] for character in line.answer] + [self.tokenizer.eos_token_id]
                    yield {"input_ids": prompt_ids + answer_ids, "labels": [-100] * len(prompt_ids) + answer_ids}


def padded_examples(pad_token_id: int, examples: list[dict]) -> dict[str, torch.Tensor]:
    """Examples of the stream as tensors of shape (B, T)."""
    batch = padded_batch([example["input_ids"] for example in examples], pad_token_id)
    return batch | {"labels": padded_batch([example["labels"] for example in examples], -100)["input_ids"]}
