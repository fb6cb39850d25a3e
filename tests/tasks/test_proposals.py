"""Proposals: which texts state a problem, what its answer is, and whose operands they are; the text that teaches a model to propose."""

import itertools

import pytest
from corpus import corpus_lines

from bitsample_llm.tasks.problem import POOL_BOUNDS, pool_of_pair
from bitsample_llm.tasks.proposals import EVALUATED_POOLS, PROPOSE_MARK, is_evaluated, proposed_problem


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("G47+85<", "231"),
        ("?47+85=", "132"),
        ("A9+9<", "81"),
        ("B85-47<", "83"),
        ("C12*9<", "801"),
        ("D12+34<;;", "64646464"),
        ("E" + "9" * 100 + "+" + "1" * 100 + "<", "0" + "1" * 100),
    ],
)
def test_what_states_a_problem_is_solved(text, answer):
    problem = proposed_problem(text)
    assert (problem.prompt, problem.answer) == (text, answer) and problem.has_one_accepted_string


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ".",
            "G",
            "47+85<",
            "Z47+85<",
            "G47+85",
            "G47+85<231",
            "G47+085<",
            "G047+085<",
            "G00+11<",
            "G47+852<",
            " G47+85<",
            "G47+85<\n",
        ),
        *("G47-85<", "G12*1<", "G12*34<", "G47/85<", "G47+85:", "G47+85<;;;;;", "G4７+85<", "G47++85<", "g47+85<", "G-4+85<"),
        *("G" + "9" * 101 + "+" + "1" * 101 + "<", "G" + "9" * 1_000_000, "__import__('os')", "\0", "(" * 10_000),
    ],
)
def test_what_states_none_is_refused_at_once(text):
    assert proposed_problem(text) is None


def test_operands_that_are_evaluated_on_are_known_in_either_order():
    pools = {}
    for first, second in itertools.product(range(10, 60), repeat=2):
        problem = proposed_problem(f"G{first}+{second}<")
        pools.setdefault(pool_of_pair(first, second), set()).add(is_evaluated(problem))
    assert pools == {name: {name in EVALUATED_POOLS} for name in POOL_BOUNDS}


def test_text_with_proposals_states_problems_by_every_author_equally_often_and_changes_no_other_line():
    lines = list(itertools.islice(corpus_lines(0, share_proposed=0.25), 8000))
    proposed = [line.answer for line in lines if line.prompt == PROPOSE_MARK]
    assert len(proposed) / len(lines) == pytest.approx(0.25, abs=0.02)
    problems = [proposed_problem(text) for text in proposed]
    assert all(problems) and not any(map(is_evaluated, problems))
    by_author = [sum(text.startswith(mark) for text in proposed) / len(proposed) for mark in "ABCDEFGH?"]
    assert by_author == pytest.approx([1 / 9] * 9, abs=0.025)
    others = [line for line in lines if line.prompt != PROPOSE_MARK]
    assert others[0] in itertools.islice(corpus_lines(0), 20)
