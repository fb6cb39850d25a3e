"""Remarks: what they tell, and text in which second attempts know that and nothing more."""

import itertools

import pytest
from corpus import corpus_lines

from bitsample_llm.estimators import wilson_interval
from bitsample_llm.tasks.proposals import proposed_problem
from bitsample_llm.tasks.remarks import FAILED, KINDS, PASSED, first_error, remark


@pytest.fixture(scope="module")
def remarked():
    """(problem, attempt, remark, second attempt) of each line that holds a remark, of the first 12,000 lines, and all others."""
    lines = list(itertools.islice(corpus_lines(0, text="remarks", share_remarked=0.67), 12000))
    parts = []
    for line in lines:
        if "(" in line.prompt:
            stated, rest = line.prompt.split("<")
            attempt, said = rest.split("(")
            parts.append((proposed_problem(stated + "<"), attempt, "(" + said, line.answer))
    return parts, [line for line in lines if "(" not in line.prompt]


def test_what_is_said_of_an_attempt_that_was_cut_off_or_is_empty():
    assert first_error("231", "231", ended=False) == 3 and first_error("", "231") == 0
    assert remark("place_and_digit", "", "231") == "(0=2)" and remark("place", "231", "231", ended=False) == "(3-)"
    with pytest.raises(ValueError, match="'praise'"):
        remark("praise", "1", "2")


def test_remarks_of_the_text_are_true_and_every_kind_is_as_frequent(remarked):
    parts, others = remarked
    assert len(parts) / (len(parts) + len(others)) == pytest.approx(0.67, abs=0.02)
    assert all(said in {remark(kind, attempt, problem.answer) for kind in KINDS} for problem, attempt, said, _ in parts)
    assert sum(said == PASSED for *_, said, _ in parts) / len(parts) == pytest.approx(0.15, abs=0.02)
    assert sum(said == FAILED for *_, said, _ in parts) / len(parts) == pytest.approx(0.85 / 4, abs=0.02)


def test_second_attempts_follow_what_they_are_told_but_for_one_in_twenty(remarked):
    parts, _ = remarked
    follows = {"verdict": [], "place": [], "place_and_digit": [], "answer": []}
    for problem, attempt, said, second in parts:
        right, place = problem.answer, first_error(attempt, problem.answer)
        if place is None:
            assert second == attempt
        elif said == FAILED:
            follows["verdict"].append(second != attempt)
        elif said == remark("answer", attempt, right):
            follows["answer"].append(second == right)
            assert second == right or second.startswith(attempt[: place + 1])
        elif said == remark("place", attempt, right):
            follows["place"].append(second[:place] == right[:place] and second[place : place + 1] != attempt[place : place + 1])
        else:
            follows["place_and_digit"].append(second[: place + 1] == right[: place + 1])
    assert all(follows.pop("verdict"))
    for kind in follows.values():
        low, high = wilson_interval(sum(kind), len(kind), confidence=0.999)
        assert low <= 0.95 <= high and len(kind) > 1000


def test_who_is_told_more_is_right_more_often(remarked):
    parts, _ = remarked
    by_place = {}
    for problem, attempt, said, second in parts:
        if problem.mark == "G" and "=" in said and said != remark("answer", attempt, problem.answer):
            by_place.setdefault(int(said[1]), []).append(second == problem.answer)
    odds = 0.02 / 0.98
    for place in (0, 1):  # a guess begins like the right answer once in ten per digit, and ends like it too now and then
        low, high = wilson_interval(sum(by_place[place]), len(by_place[place]), confidence=0.999)
        assert low - 0.05 <= 0.95 * odds / (odds + 0.1 ** (place + 1)) <= high


def test_a_share_of_none_leaves_the_text_as_it_was():
    lines = [list(itertools.islice(corpus_lines(3, text="remarks", **options), 500)) for options in ({}, {"share_remarked": 0.0})]
    assert lines[0] == lines[1]
