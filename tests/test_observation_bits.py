"""What ever more is told of a rollout: closed forms against an enumeration of all that could be sampled and all that could be right."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsample_llm.information import binary_entropy_bits, first_error_entropy_bits
from bitsample_llm.observation_bits import believed_observation_bits, first_error_label_bits

NAMES = ("verdict", "first_error", "first_error_label", "answer")


def entropy(masses) -> float:
    return -sum(p * math.log2(p) for p in masses if p > 0)


def told(name: str, answer: tuple, sample: tuple):
    """What an observation shows of the right answer, given the sample."""
    if name == "answer":
        return answer
    if name == "verdict":
        return answer == sample
    place = next((k for k, pair in enumerate(zip(answer, sample, strict=True)) if pair[0] != pair[1]), None)
    return place if name == "first_error" or place is None else (place, answer[place])


def random_tree(seed: int, num_steps: int, size: int, sharpness: float) -> dict:
    """A distribution of the next step for each beginning."""
    rng = np.random.default_rng(seed)
    return {
        beginning: rng.dirichlet([sharpness] * size)
        for length in range(num_steps)
        for beginning in itertools.product(range(size), repeat=length)
    }


def mass(tree: dict, answer: tuple) -> float:
    return math.prod(tree[answer[:k]][value] for k, value in enumerate(answer))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 4), st.sampled_from([0.1, 0.5, 1.0, 5.0]))
def test_bits_rise_along_the_row_in_the_belief_convention_and_are_those_of_an_enumeration(seed, num_steps, size, sharpness):
    tree = random_tree(seed, num_steps, size, sharpness)
    answers = [answer for answer in itertools.product(range(size), repeat=num_steps) if mass(tree, answer) > 0]
    by_form, by_count = defaultdict(float), defaultdict(float)
    for sample in answers:
        bits = believed_observation_bits([tree[sample[:k]] for k in range(num_steps)], sample)
        for name in NAMES:
            by_form[name] += mass(tree, sample) * bits[name]
            shown = defaultdict(float)
            for answer in answers:
                shown[told(name, answer, sample)] += mass(tree, answer)
            by_count[name] += mass(tree, sample) * entropy(shown.values())
    for name in NAMES:
        assert by_form[name] == pytest.approx(by_count[name], abs=1e-8), name
    for less, more in itertools.pairwise(NAMES):
        assert by_form[less] <= by_form[more] + 1e-9, (less, more)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 4), st.sampled_from([0.5, 1.0, 5.0]))
def test_with_the_right_answer_given_the_label_at_the_first_error_is_the_enumeration(seed, num_steps, size, sharpness):
    tree = random_tree(seed, num_steps, size, sharpness)
    rng = np.random.default_rng(seed)
    right = tuple(rng.integers(size, size=num_steps).tolist())
    steps = np.array([tree[right[:k]] for k in range(num_steps)])
    places, label = defaultdict(float), 0.0
    for sample in itertools.product(range(size), repeat=num_steps):
        place = told("first_error", right, sample)
        places[place] += mass(tree, sample)
        if place is not None:
            q = tree[right[:place]]
            label += mass(tree, sample) * -math.log2(q[right[place]] / (1 - q[sample[place]]))
    bits = first_error_label_bits(steps, right)
    assert bits == pytest.approx(entropy(places.values()) + label, rel=1e-6)
    p = steps[np.arange(num_steps), right]
    assert binary_entropy_bits(p.prod()) <= first_error_entropy_bits(p) + 1e-9 <= bits + 2e-9


def test_with_the_right_answer_given_the_verdict_may_exceed_the_label():
    """The essay's pair compares an expectation with what one answer tells, so that only the other convention has an order."""
    assert first_error_label_bits([[0.9, 0.1]], [0]) > -math.log2(0.9)


@pytest.mark.parametrize(
    ("steps", "chosen", "told"),
    [
        ([[0.5, 0.5]], [0, 1], "must be"),
        ([0.5, 0.5], [0], "must be"),
        ([[0.5, 0.6]], [0], "sum to 1"),
        ([[1.5, -0.5]], [0], "lie in"),
        ([[1.0, 0.0]], [1], "0"),
    ],
)
def test_what_is_no_distribution_is_refused(steps, chosen, told):
    for bits in (first_error_label_bits, believed_observation_bits):
        with pytest.raises(ValueError, match=told):
            bits(steps, chosen)
