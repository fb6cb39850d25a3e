"""Problems, splits, the pretraining text, and verifiers that accept one string only."""

import dataclasses
import itertools
import re
import time

import numpy as np
import pytest
from corpus import TEXTS, corpus_lines
from fuzz_verifier import NASTY, REASONS, SCRATCHPAD_REASONS, Violation, complaint, disguises, fuzz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitsample_llm.estimators import wilson_interval
from bitsample_llm.tasks import load_task
from bitsample_llm.tasks.arithmetic import DIRECT_FORMATS, MAX_DIFFICULTY, OPERATOR_BY_TASK, SIGN_BY_FORMAT, ArithmeticTask
from bitsample_llm.tasks.authors import ALWAYS_RIGHT_MARK, CARE_BY_MARK, STRATEGY_SIGNS, WRONG_ANSWER_LAWS, sum_without_carries
from bitsample_llm.tasks.problem import POOL_BOUNDS, UNKNOWN_MARK, pool_of_pair

KINDS = list(itertools.product(OPERATOR_BY_TASK, DIRECT_FORMATS))
PROMPT = re.compile(r"([A-L?])([0-9]+)([+*-])([0-9]+)(=|<;*|:)")
NUM_LINES = 20_000
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def operands(prompt: str) -> tuple[int, int]:
    """The operand pair of a prompt, the smaller first."""
    _, first, _, second, _ = PROMPT.fullmatch(prompt).groups()
    return tuple(sorted((int(first), int(second))))


def right_answer(prompt: str) -> str:
    """What the prompt asks for, by Python's integers."""
    _, first, operator, second, sign = PROMPT.fullmatch(prompt).groups()
    first, second = int(first), int(second)
    result = str({"+": first + second, "-": first - second, "*": first * second}[operator])
    return result[::-1] * 2 ** sign.count(";") if sign[0] == "<" else result


@st.composite
def drawn_problems(draw):
    """A task of up to thirty digits and one of its problems."""
    kind, difficulty, mark = draw(st.sampled_from(KINDS)), draw(st.integers(1, 30)), draw(st.sampled_from([None, *CARE_BY_MARK]))
    task = load_task(*kind, difficulty=difficulty, mark=mark)
    numbers = st.integers(0 if difficulty == 1 else 10 ** (difficulty - 1), 10**difficulty - 1)
    return task, task.problem(draw(numbers), draw(numbers))


@given(drawn_problems())
@unhurried
def test_answers_are_those_of_python_integers_and_never_negative(drawn):
    task, problem = drawn
    assert problem.answer == right_answer(problem.prompt)
    assert re.fullmatch("[0-9]+", problem.answer)
    assert problem.prompt[0] == (task.mark or UNKNOWN_MARK)
    assert len(problem.prompt) == 2 * task.difficulty + 2 + len(SIGN_BY_FORMAT[task.answer_format])


def test_reversed_answers_start_with_the_digit_of_the_units():
    assert load_task("addition", "reversed", mark="A").problem(47, 85).prompt == "A47+85<"
    assert load_task("addition", "reversed").problem(47, 85).answer == "231"
    assert load_task("subtraction", "reversed").problem(15, 95).answer == "08"
    assert load_task("subtraction", "plain").problem(15, 95).prompt == "?95-15="


@given(drawn_problems(), st.data(), st.booleans())
@unhurried
def test_only_the_exact_answer_with_its_end_passes_and_steps_are_consistent(drawn, data, ended):
    task, problem = drawn
    digits_or_anything = st.one_of(st.just(problem.answer), st.text("0123456789"), st.text(st.characters(categories=None)))
    tail = st.sampled_from(["", "", "0", " "])
    start = problem.answer[: data.draw(st.integers(0, len(problem.answer)))]
    for completion in (data.draw(digits_or_anything), start + data.draw(st.text("0123456789", max_size=3)) + data.draw(tail)):
        verdict = task.verify(problem, completion, ended)
        assert verdict.passed == (ended and completion == problem.answer)
        assert complaint(problem.answer, completion, ended, verdict) is None


@pytest.mark.parametrize("kind", KINDS)
def test_nasty_completions_and_disguised_answers_get_a_verdict_and_never_pass(kind):
    task = load_task(*kind, difficulty=3)
    problem = task.problem(958, 147)
    for completion, ended in itertools.product([*NASTY, *disguises(problem.answer)], [True, False]):
        start = time.process_time()
        verdict = task.verify(problem, completion, ended)
        assert time.process_time() - start < 0.2, completion[:20]
        assert not verdict.passed, completion[:20]
        assert complaint(problem.answer, completion, ended, verdict) is None


@pytest.mark.parametrize(
    ("completion", "ended", "reason", "correct"),
    [
        ("1105", True, "correct", [1, 1, 1, 1, 1]),
        ("1105", False, "not_ended", [1, 1, 1, 1, 0]),
        ("110", True, "too_short", [1, 1, 1, 0]),
        ("110", False, "not_ended", [1, 1, 1, 0]),
        ("", True, "empty", [0]),
        ("", False, "not_ended", [0]),
        ("11050", True, "too_long", [1, 1, 1, 1, 0]),
        ("1205", True, "wrong_digit", [1, 0, 1, 1, 1]),
        ("12050", True, "wrong_digit", [1, 0, 1, 1, 0]),
        ("1 05", True, "not_a_digit", [1, 0, 1, 1, 1]),
        ("１105", True, "not_a_digit", [0, 1, 1, 1, 1]),
        ("9", False, "wrong_digit", [0, 0]),
    ],
)
def test_reason_names_the_first_error_and_every_digit_is_a_step(completion, ended, reason, correct):
    task = load_task("addition", difficulty=3)
    verdict = task.verify(task.problem(958, 147), completion, ended)
    assert verdict.reason == reason in REASONS
    assert [step.correct for step in verdict.steps] == [bool(value) for value in correct]
    assert verdict.steps[-1].start == verdict.steps[-1].end
    assert verdict.num_correct_before_first_error == [*correct, 0].index(0)


@pytest.mark.parametrize("not_a_string", [None, 1105, b"1105", ["1105"], float("nan")])
def test_completion_that_is_not_a_string_is_a_bug_and_raises(not_a_string):
    task = load_task("addition", difficulty=3)
    with pytest.raises(TypeError, match=type(not_a_string).__name__):
        task.verify(task.problem(958, 147), not_a_string)


def test_fuzz_finds_nothing_in_two_thousand_completions():
    reasons, _ = fuzz(2000, seed=1)
    assert sum(reasons.values()) == 2000
    assert set(reasons) == REASONS | SCRATCHPAD_REASONS


def dawdling(task, problem, completion, ended):
    """A right verdict after 60 ms of work."""
    until = time.process_time() + 0.06
    while time.process_time() < until:
        pass
    return task.verify(problem, completion, ended)


BROKEN_VERIFIERS = {
    "strips": (lambda task, problem, text, ended: task.verify(problem, text.strip(), ended), "false pass|inconsistent steps"),
    "ignores the end": (lambda task, problem, text, ended: task.verify(problem, text, True), "false pass|inconsistent steps"),
    "parses": (lambda task, problem, text, ended: task.verify(problem, str(int(text)), ended), "ValueError"),
    "passes all": (lambda *given: dataclasses.replace(ArithmeticTask.verify(*given), passed=True), "false pass"),
    "fails all": (lambda *given: dataclasses.replace(ArithmeticTask.verify(*given), passed=False), "false fail"),
    "no steps": (lambda *given: dataclasses.replace(ArithmeticTask.verify(*given), steps=()), "inconsistent steps"),
    "dawdles": (dawdling, "CPU time"),
}


@pytest.mark.parametrize("fault", BROKEN_VERIFIERS)
def test_fuzz_catches_a_broken_verifier(fault):
    broken, message = BROKEN_VERIFIERS[fault]
    with pytest.raises(Violation, match=message):
        fuzz(2000, seed=0, verify=broken)


def available(task, split: str) -> int:
    """Distinct problems of a split, counted over all pairs where they are few."""
    difficulty = task.difficulty + (split == "shifted")
    if difficulty > 2:
        return 150
    numbers = range(0 if difficulty == 1 else 10, 10**difficulty)
    seconds = range(2, 10) if task.name == "multiplication" else numbers
    pairs = (pair for pair in itertools.product(numbers, seconds) if pool_of_pair(*pair) == split)
    return len({task.problem(*pair).problem_id for pair in pairs})


def test_no_operand_pair_is_in_two_splits_in_either_order():
    owner: dict[tuple[int, int], str] = {}
    kinds = [*KINDS, ("addition", "scratchpad"), ("multiplication", "scratchpad")]
    for kind, difficulty, split in itertools.product(kinds, range(1, 5), POOL_BOUNDS):
        task = load_task(*kind, difficulty=difficulty)
        for problem in task.problems(split, available(task, split), seed=difficulty):
            assert problem.difficulty == difficulty + (split == "shifted")
            numbers = problem.difficulty + 1 if kind[0] == "multiplication" else 2 * problem.difficulty
            assert len(problem.prompt) == numbers + 2 + len(SIGN_BY_FORMAT[kind[1]])
            assert owner.setdefault(operands(problem.prompt), split) == split
    assert set(owner.values()) == set(POOL_BOUNDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", POOL_BOUNDS)
def test_more_problems_than_a_split_has_is_an_error_that_names_it(kind, split):
    task = load_task(*kind, difficulty=1)
    with pytest.raises(ValueError, match=f"split '{split}'"):
        task.problems(split, available(task, split) + 1, seed=0)


@pytest.mark.parametrize("difficulty", [2, 3, 12])
def test_problems_are_distinct_and_depend_on_seed_and_split_alone(difficulty):
    task = load_task("addition", "reversed", difficulty=difficulty, mark="C")
    problems = task.problems("train", 100, seed=3)
    assert problems == load_task("addition", "reversed", difficulty=difficulty, mark="C").problems("train", 100, seed=3)
    assert problems[:40] == task.problems("train", 40, seed=3)
    assert len({problem.prompt for problem in problems}) == len({problem.problem_id for problem in problems}) == 100
    assert problems != task.problems("train", 100, seed=4)


@pytest.mark.parametrize(
    ("arguments", "options", "named"),
    [
        (("division",), {}, "division"),
        (("addition", "roman"), {}, "roman"),
        (("addition",), {"digits": 3}, "digits"),
        *((("addition",), {"difficulty": bad}, re.escape(repr(bad))) for bad in (0, -1, MAX_DIFFICULTY + 1, 2.0, "2", None, True)),
        *((("addition",), {"mark": bad}, re.escape(repr(bad))) for bad in ("Z", "a", "", "AB", "?")),
    ],
)
def test_bad_option_is_an_error_that_names_it(arguments, options, named):
    with pytest.raises(ValueError, match=named):
        load_task(*arguments, **options)


def test_bad_split_and_negative_number_are_errors_that_name_them():
    with pytest.raises(ValueError, match="'test'"):
        load_task("addition").problems("test", 1, seed=0)
    with pytest.raises(ValueError, match="-1"):
        load_task("addition").problems("train", -1, seed=0)


@pytest.fixture(scope="module")
def lines():
    return list(itertools.islice(corpus_lines(seed=0), NUM_LINES))


@pytest.mark.parametrize("text", TEXTS)
def test_pretraining_text_uses_its_own_pools_and_seen_pairs_under_the_always_right_mark_only(text):
    pools_by_mark: dict[str, set[str]] = {}
    for line in itertools.islice(corpus_lines(seed=0, text=text), NUM_LINES):
        doublings = line.prompt.count(";")
        assert ("*" in line.prompt) or len(line.prompt) == 2 * (line.size >> doublings) + 3 + doublings
        pools_by_mark.setdefault(line.prompt[0], set()).add(pool_of_pair(*operands(line.prompt)))
    assert pools_by_mark.pop(ALWAYS_RIGHT_MARK) == {"pretrain", "seen"}
    others = TEXTS[text].share_by_mark.keys() - {ALWAYS_RIGHT_MARK}
    assert pools_by_mark == {mark: {"pretrain"} for mark in others}


@pytest.mark.parametrize(("text", "mark"), [*(("direct", mark) for mark in "ABCDEFGH?"), *(("rungs", mark) for mark in "AIJKL?")])
def test_authors_are_right_as_often_as_their_care_says(text, mark):
    lines = itertools.islice(corpus_lines(seed=0, text=text), NUM_LINES)
    written = [line.answer == right_answer(line.prompt) for line in lines if line.prompt[0] == mark]
    low, high = wilson_interval(sum(written), len(written), confidence=0.999)
    cares = [CARE_BY_MARK[author] for author in TEXTS[text].share_by_mark if author != UNKNOWN_MARK]
    assert low <= CARE_BY_MARK.get(mark, np.mean(cares)) <= high
    assert all(written) or mark != ALWAYS_RIGHT_MARK


@pytest.mark.parametrize(
    ("mark", "first_digits", "care"), [("A", "123456789", 1.0), ("E", "123456789", 0.12), ("B", "1268", 1.0), ("B", "34579", 0.12)]
)
def test_behind_gates_an_author_is_right_after_first_digits_of_their_own(mark, first_digits, care):
    lines = itertools.islice(corpus_lines(seed=0, text="gates"), NUM_LINES)
    asked = [line for line in lines if line.prompt[0] == mark and line.prompt[1] in first_digits]
    written = [line.answer == right_answer(line.prompt) for line in asked]
    low, high = wilson_interval(sum(written), len(written), confidence=0.999)
    assert len(written) > 50 and low <= care <= high


@pytest.mark.parametrize(("mark", "g", "h"), [("A", 1, 0), ("B", 0, 1), ("H", 0, 0), ("C", 0.35, 0.35), ("F", 0.08, 0.62)])
def test_authors_of_two_strategies_use_each_as_often_as_their_shares_say(mark, g, h):
    lines = [line for line in itertools.islice(corpus_lines(seed=0, text="named_strategies"), NUM_LINES) if line.prompt[0] == mark]
    signs = [line.answer[0] for line in lines]
    for sign, share in zip(STRATEGY_SIGNS, (g, h, 1 - g - h), strict=True):
        low, high = wilson_interval(signs.count(sign), len(signs), confidence=0.999)
        assert low <= share + 1e-9 and share - 1e-9 <= high
    for line in lines:
        operands = map(int, line.prompt[1:-1].split("+"))
        answers = {"=": right_answer(line.prompt), ":": sum_without_carries(*operands)[::-1]}
        assert line.answer[1:] == answers.get(line.answer[0], line.answer[1:])
    silent = itertools.islice(corpus_lines(seed=0, text="strategies"), NUM_LINES)
    assert [line.answer for line in silent if line.prompt[0] == mark] == [line.answer[1:] for line in lines]


def test_pretraining_text_is_fixed_by_its_seed_and_all_right_where_all_are_careful(lines):
    assert list(itertools.islice(corpus_lines(seed=0), 200)) == lines[:200] != list(itertools.islice(corpus_lines(seed=1), 200))
    assert all(line.answer == right_answer(line.prompt) for line in itertools.islice(corpus_lines(0, all_careful=True), 500))


@given(st.sampled_from(sorted(WRONG_ANSWER_LAWS)), drawn_problems(), st.integers(0, 2**32))
@unhurried
def test_wrong_answers_are_numbers_and_never_right(law, drawn, seed):
    task, problem = drawn
    answer = str(int(problem.answer if task.answer_format == "plain" else problem.answer[::-1]))
    rng = np.random.default_rng(seed)
    for wrong in (WRONG_ANSWER_LAWS[law](answer, task.difficulty, rng) for _ in range(30)):
        assert wrong != answer
        assert wrong == str(int(wrong))
        assert law != "slipped" or sum(a != b for a, b in zip(wrong, answer, strict=True)) == 1
