"""Worked steps: lines that arithmetic agrees with, verdicts line by line, an outcome judged on the answer alone."""

import itertools

import pytest
from corpus import corpus_lines
from hypothesis import given
from hypothesis import strategies as st

from bitsample_llm.tasks import load_task

TASKS = {name: load_task(name, "scratchpad", difficulty=3, mark="A") for name in ("addition", "multiplication")}


@given(st.sampled_from(sorted(TASKS)), st.integers(100, 999), st.integers(100, 999))
def test_every_worked_line_is_true_and_the_answer_can_be_read_off_them(name, first, second):
    second = second if name == "addition" else 2 + second % 8
    problem = TASKS[name].problem(first, second)
    for line in problem.lines:
        left, _, right = line.removesuffix(";").partition("=")
        terms = [term.split("*") for term in left.split("+")]
        products = [int(term[0]) * int(term[1]) if len(term) == 2 else int(term[0]) for term in terms]
        assert sum(products) == int(right)
    results = [line.removesuffix(";").partition("=")[2] for line in problem.lines]
    assert results[-1] + "".join(result[-1] for result in reversed(results[:-1])) == problem.answer
    assert problem.answer == str(first + second if name == "addition" else first * second)
    verdict = TASKS[name].verify(problem, problem.completion)
    assert verdict.passed and all(step.correct for step in verdict.steps)
    assert len(verdict.steps) == problem.num_steps == 5


@pytest.mark.parametrize(
    ("completion", "ended", "passed", "reason", "correct"),
    [
        ("7+5=12;4+8+1=13;132", True, True, "correct", [1, 1, 1, 1]),
        ("7+5=12;4+8+1=13;132", False, False, "not_ended", [1, 1, 1, 0]),
        ("7+5=11;4+8+1=13;132", True, True, "correct", [0, 1, 1, 1]),  # the right answer after a wrong step
        ("7+5=12;4+8+1=13;133", True, False, "wrong_answer", [1, 1, 0, 1]),  # and the reverse
        ("132", True, True, "correct", [1, 1]),
        ("7+5=12;132", True, True, "correct", [1, 1, 1]),
        ("7+5=12;4+8+1=13;4+8+1=13;132", True, True, "correct", [1, 1, 0, 1, 1]),
        ("7+5=12;4+8+1=13;", True, False, "wrong_answer", [1, 1, 1]),
        (";;132", True, True, "correct", [0, 0, 1, 1]),
        ("", True, False, "empty", [0]),
        ("7+5=1", False, False, "not_ended", [0, 0]),
    ],
)
def test_lines_are_steps_and_the_outcome_is_the_answers(completion, ended, passed, reason, correct):
    task = load_task("addition", "scratchpad", difficulty=2)
    verdict = task.verify(task.problem(47, 85), completion, ended)
    assert (verdict.passed, [int(step.correct) for step in verdict.steps]) == (passed, correct)
    assert verdict.reason == reason


@pytest.mark.parametrize("answer_format", ["reversed", "scratchpad"])
@given(st.integers(10, 99), st.integers(10, 99), st.data())
def test_a_completion_has_erred_once_a_complete_step_is_wrong_and_not_before(answer_format, first, second, data):
    task = load_task("addition", answer_format, difficulty=2)
    problem = task.problem(first, second)
    right = problem.completion
    cut = data.draw(st.integers(0, len(right)))
    assert not task.has_erred(problem, right[:cut])
    digit = data.draw(st.sampled_from("0123456789"))
    wrong = right[:cut] + digit
    if cut < len(right) and right[cut] == digit:
        assert not task.has_erred(problem, wrong)
    elif answer_format == "reversed" or cut >= len("".join(problem.lines)):
        assert task.has_erred(problem, wrong)
    else:
        assert not task.has_erred(problem, wrong)  # its line is not complete
        assert task.has_erred(problem, wrong + ";")


def test_wrong_authors_guess_the_results_and_keep_the_form():
    for line in itertools.islice(corpus_lines(0, "scratchpad"), 500):
        if line.prompt[-1] == ":":
            task = TASKS["multiplication" if "*" in line.prompt else "addition"]
            operands = line.prompt[1:-1].replace("*", "+").split("+")
            problem = task.problem(*map(int, operands), line.size)
            worked, written = problem.completion.split(";"), line.answer.split(";")
            assert len(worked) == len(written)
            assert all(a[:3] == b[:3] for a, b in zip(worked[:-1], written[:-1], strict=True))
            if line.prompt[0] == "A":
                assert line.answer == problem.completion


def test_subtraction_has_no_scratchpad():
    with pytest.raises(ValueError, match="subtraction has no scratchpad"):
        load_task("subtraction", "scratchpad")
