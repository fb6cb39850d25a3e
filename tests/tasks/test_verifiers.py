"""Verdicts on answers from data: right ones pass, wrong ones do not, and nothing a model writes hangs or runs."""

import re
import sys
import time
from fractions import Fraction

import pytest
from fuzz_data_verifiers import Violation, fuzz_data

from bitsample_llm.tasks import Problem
from bitsample_llm.tasks.dataset_task import DatasetTask
from bitsample_llm.tasks.judge import Judge, NoVerdict, gym_dataset
from bitsample_llm.tasks.verifiers import VERIFIERS


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
    assert time.perf_counter() - started < 15  # one second of CPU time, ten at most by the clock
    assert judge.ask({"kind": "symbolic", "completion": "2", "answer": "2"})
    judge.close()


def test_no_verdict_is_in_the_record_as_such(monkeypatch):
    def undecided(completion, answer, details):
        raise NoVerdict("timed_out")

    monkeypatch.setitem(sys.modules["bitsample_llm.tasks.dataset_task"].VERIFIERS, "symbolic", undecided)
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


@pytest.mark.parametrize("verifier", ["exact", "numeric"])
def test_fuzz_finds_nothing_in_a_thousand_completions(verifier):
    reasons, _ = fuzz_data(verifier, 1000, seed=1)
    assert sum(reasons.values()) == 1000 and {"correct", "wrong_answer", "not_ended"} < set(reasons)


def last_digits(completion: str, answer: str, details: dict) -> bool:
    """A lenient verifier, as many are: the last number that a short expression finds."""
    found = re.findall(r"-?\d+(?:\.\d+)?(?:/\d+)?", completion.replace(",", ""))
    return bool(found) and not found[-1].endswith("/0") and Fraction(found[-1][-300:]) == Fraction(answer)


BROKEN = {
    "takes the last digits": (last_digits, "false pass|false fail|number that is not there"),
    "passes all": (lambda completion, answer, details: True, "false pass|number that is not there"),
    "fails all": (lambda completion, answer, details: False, "false fail"),
    "raises": (lambda completion, answer, details: Fraction(completion) == Fraction(answer), "ValueError"),
    "remembers": (lambda completion, answer, details, seen=[]: seen.append(answer) or len(seen) % 2 == 0, "false|what was asked before|not there"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_fuzz_catches_a_broken_numeric_verifier(fault, monkeypatch):
    broken, message = BROKEN[fault]
    monkeypatch.setitem(VERIFIERS, "numeric", broken)
    with pytest.raises(Violation, match=message):
        fuzz_data("numeric", 1000, seed=0)
