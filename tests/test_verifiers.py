"""Verdicts on answers from data: right ones pass, wrong ones do not, and nothing a model writes hangs or runs."""

import sys
import time

import pytest

from bitsample_llm.dataset_task import DatasetTask
from bitsample_llm.judge import Judge, NoVerdict, gym_dataset
from bitsample_llm.tasks import Problem


def task_of(verifier: str, answer: str) -> tuple[DatasetTask, Problem]:
    problem = Problem("row/1", "What is it?", answer, 0, verifier=verifier)
    return DatasetTask("rows", [problem]), problem


def test_a_right_answer_that_never_ends_does_not_pass():
    for verifier in ("exact", "numeric"):
        task, problem = task_of(verifier, "42")
        assert task.verify(problem, "42", True).passed
        unended = task.verify(problem, "42", False)
        assert not unended.passed and unended.reason == "not_ended"
        assert task.verify(problem, "", True).reason == "empty"


def test_a_long_completion_is_judged_at_once():
    task, problem = task_of("numeric", "42")
    started = time.perf_counter()
    for text in ("1" * 10**6, "{" * 10**6 + "\\boxed{", "1," * 10**6, "\\boxed{" * 10**5 + "42", "#### " * 10**6 + "42"):
        task.verify(problem, text, True)
    assert time.perf_counter() - started < 2


def test_an_exact_task_judges_characters_and_a_numeric_one_only_the_whole():
    task, problem = task_of("exact", "42")
    assert [step.correct for step in task.verify(problem, "43", True).steps] == [True, False, True]
    assert task.verify(problem, "x2", True).reason == "wrong_answer" and task.judges_steps
    assert task.has_erred(problem, "5") and not task.has_erred(problem, "4") and not task.has_erred(problem, "4\ufffd")
    task, problem = task_of("numeric", "42")
    assert [step.correct for step in task.verify(problem, "is 42", True).steps] == [True, True] and not task.judges_steps


SYMBOLIC = {
    ("x^2+2x+1", "(x+1)^2"): True,
    ("so it is \\boxed{\\frac{1}{2}}", "0.5"): True,
    ("$\\{2,1\\}$", "\\{1,2\\}"): True,
    ("3", "2"): False,
    ("no idea", "2"): False,
    ("", "2"): False,
    ("__import__('os').system('true')", "2"): False,
}


@pytest.mark.parametrize(("completion", "answer"), SYMBOLIC)
def test_symbolic_answers_pass_when_they_are_equal(completion, answer):
    pytest.importorskip("math_verify")
    task, problem = task_of("symbolic", answer)
    assert task.verify(problem, completion, True).passed == SYMBOLIC[completion, answer]


def test_a_verdict_that_takes_forever_is_none_and_the_next_one_is_right():
    pytest.importorskip("math_verify")
    judge = Judge("symbolic", seconds=1.0)
    assert judge.ask({"kind": "symbolic", "completion": "2", "answer": "2"})
    started = time.perf_counter()
    with pytest.raises(NoVerdict, match="timed_out"):
        judge.ask({"kind": "symbolic", "completion": "100000000!", "answer": "2"})
    assert time.perf_counter() - started < 5
    assert judge.ask({"kind": "symbolic", "completion": "2", "answer": "2"})
    judge.close()


def test_no_verdict_is_in_the_record_as_such(monkeypatch):
    def undecided(completion, answer, details):
        raise NoVerdict("timed_out")

    monkeypatch.setitem(sys.modules["bitsample_llm.dataset_task"].VERIFIERS, "symbolic", undecided)
    task, problem = task_of("symbolic", "2")
    verdict = task.verify(problem, "2", True)
    assert not verdict.passed and verdict.reason == "no_verdict:timed_out"


def test_a_task_whose_scoring_evaluates_text_is_refused():
    pytest.importorskip("reasoning_gym")
    for task in ("countdown", "polynomial_multiplication", "n_queens"):
        with pytest.raises(ValueError, match="would evaluate the model's text"):
            gym_dataset(task, 0, 4)
    with pytest.raises(ValueError, match="no task 'knitting'; it has ab, "):
        gym_dataset("knitting", 0, 4)
