"""Bits of single signals against enumeration, closed forms and the data processing inequality."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitsample_llm.information import (
    believed_reward_bits,
    binary_entropy_bits,
    first_error_entropy_bits,
    informative_group_probability,
    surprisal_bits,
)

ROUNDING_BITS = 1e-9
unhurried = settings(deadline=None)
probabilities = st.floats(0, 1)


def entropy_bits(distribution) -> float:
    """Entropy of a list of probabilities, written independently of the library."""
    return -math.fsum(p * math.log2(p) for p in distribution if p > 0)


def first_error_distribution(step_pass_rates) -> list[float]:
    """Probability that the first error is at step k, for each k, then that there is none."""
    errors = [math.prod(step_pass_rates[:k]) * (1 - p) for k, p in enumerate(step_pass_rates)]
    return [*errors, math.prod(step_pass_rates)]


@pytest.mark.parametrize(("probability", "bits"), [(1, 0), (0.5, 1), (0.125, 3), (0.1, math.log2(10)), (2.0**-1074, 1074)])
def test_surprisal_is_the_number_of_halvings(probability, bits):
    assert surprisal_bits(probability) == pytest.approx(bits, abs=1e-12)


def test_certain_event_tells_positive_zero():
    assert math.copysign(1, surprisal_bits(1.0)) == 1


@pytest.mark.parametrize(("pass_rate", "bits"), [(0, 0), (1, 0), (0.5, 1), (0.25, 2 - 0.75 * math.log2(3)), (0.001, 0.0114)])
def test_entropy_of_a_verdict_has_its_closed_form(pass_rate, bits):
    assert binary_entropy_bits(pass_rate) == pytest.approx(bits, abs=1e-4 if pass_rate == 0.001 else 1e-12)


@given(probabilities)
@unhurried
def test_entropy_of_a_verdict_is_symmetric_and_at_most_one_bit(p):
    assert 0 <= binary_entropy_bits(p) <= 1
    assert binary_entropy_bits(p) == pytest.approx(binary_entropy_bits(1 - p), abs=ROUNDING_BITS)


def test_entropy_of_the_mean_is_not_the_mean_entropy():
    pass_rates = np.array([0.001] * 60 + [0.97] * 40)
    assert binary_entropy_bits(pass_rates).mean() == pytest.approx(0.0846, abs=1e-4)
    assert binary_entropy_bits(pass_rates.mean()) == pytest.approx(0.9639, abs=1e-4)


@pytest.mark.parametrize(("outcome", "position_bits", "outcome_bits"), [(0.001, 1.6968, 0.0114), (0.9, 0.7689, 0.4690)])
def test_eight_equal_steps_offer_the_published_bits(outcome, position_bits, outcome_bits):
    assert first_error_entropy_bits([outcome ** (1 / 8)] * 8) == pytest.approx(position_bits, abs=5e-5)
    assert binary_entropy_bits(outcome) == pytest.approx(outcome_bits, abs=5e-5)


@given(st.lists(probabilities, min_size=1, max_size=8))
@unhurried
def test_first_error_entropy_is_that_of_the_enumerated_position(rates):
    assert first_error_entropy_bits(rates) == pytest.approx(entropy_bits(first_error_distribution(rates)), abs=ROUNDING_BITS)


@given(st.lists(probabilities, min_size=1, max_size=12))
@example([0.5])
@example([1.0, 0.0, 0.5])
@unhurried
def test_an_outcome_never_tells_more_than_the_position_of_the_first_error(rates):
    assert binary_entropy_bits(math.prod(rates)) <= first_error_entropy_bits(rates) + ROUNDING_BITS


def test_single_step_process_reward_is_the_outcome_reward():
    assert first_error_entropy_bits([0.3]) == pytest.approx(binary_entropy_bits(0.3))


@given(probabilities, st.integers(1, 7))
@unhurried
def test_informative_group_probability_is_that_of_the_enumerated_outcomes(p, group_size):
    mixed = (o for o in itertools.product((0, 1), repeat=group_size) if 0 < sum(o) < group_size)
    by_enumeration = math.fsum(p ** sum(o) * (1 - p) ** (group_size - sum(o)) for o in mixed)
    assert informative_group_probability(p, group_size) == pytest.approx(by_enumeration, abs=1e-12)


@pytest.mark.parametrize("pass_rate", [0, 1])
def test_all_pass_or_all_fail_group_carries_no_information(pass_rate):
    assert informative_group_probability(pass_rate, 8) == 0 == binary_entropy_bits(pass_rate)


def test_group_of_one_is_never_informative():
    assert informative_group_probability(np.linspace(0, 1, 101), 1) == pytest.approx(0, abs=1e-15)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20).filter(any))
@example([999_999, 1])
@unhurried
def test_verdicts_on_own_answers_are_expected_to_tell_no_more_than_labels(weights):
    pi = np.array([weight for weight in weights if weight]) / sum(weights)
    surprisals = surprisal_bits(pi)
    expected_label_bits, expected_verdict_bits = pi @ surprisals, pi @ believed_reward_bits(surprisals)
    assert expected_label_bits == pytest.approx(entropy_bits(pi), abs=ROUNDING_BITS)
    assert expected_verdict_bits <= expected_label_bits + ROUNDING_BITS
    assert believed_reward_bits(surprisals).max() <= expected_label_bits + ROUNDING_BITS


def test_verdict_on_one_confident_answer_can_tell_more_than_its_own_surprisal():
    assert believed_reward_bits(0.1) > 0.3


@pytest.mark.parametrize(("surprisal", "bits"), [(0, 0), (1, 1), (2, 2 - 0.75 * math.log2(3)), (math.inf, 0)])
def test_believed_bits_are_the_entropy_of_the_own_probability(surprisal, bits):
    assert believed_reward_bits(surprisal) == pytest.approx(bits, abs=1e-12)


@pytest.mark.parametrize("bad", [math.nan, -1e-9, -math.inf, [0.5, math.nan], [[0.5], [-2]]])
@pytest.mark.parametrize(
    "function",
    [
        surprisal_bits,
        binary_entropy_bits,
        believed_reward_bits,
        lambda values: first_error_entropy_bits(np.atleast_1d(values)),
        lambda values: informative_group_probability(values, 4),
        lambda values: informative_group_probability(0.5, values),
    ],
)
def test_nan_and_negative_numbers_are_refused_everywhere(function, bad):
    with pytest.raises(ValueError, match="must"):
        function(bad)


@pytest.mark.parametrize("function", [surprisal_bits, binary_entropy_bits, lambda p: first_error_entropy_bits([p])])
@pytest.mark.parametrize("bad", [1 + 1e-9, 2, math.inf])
def test_probability_above_one_is_refused(function, bad):
    with pytest.raises(ValueError, match=str(bad)):
        function(bad)


@pytest.mark.parametrize(
    "call",
    [
        lambda: surprisal_bits(0),
        lambda: surprisal_bits([0.5, 0.0]),
        lambda: informative_group_probability(1.1, 4),
        lambda: informative_group_probability(0.5, 0),
        lambda: first_error_entropy_bits([]),
        lambda: first_error_entropy_bits(np.empty((3, 0))),
        lambda: first_error_entropy_bits(0.5),
    ],
)
def test_impossible_event_group_and_chain_are_refused(call):
    with pytest.raises(ValueError, match=r"must lie in|at least"):
        call()


@pytest.mark.parametrize("function", [surprisal_bits, binary_entropy_bits, believed_reward_bits])
def test_scalars_give_floats_and_arrays_give_arrays_of_the_same_values(function):
    values = np.array([[0.125, 0.5], [0.75, 1.0]])
    result = function(values)
    assert isinstance(result, np.ndarray)
    assert result.tolist() == [[function(value) for value in row] for row in values.tolist()]
    assert all(type(function(scalar)) is float for scalar in (1, 0.5, np.float32(0.5), np.array(0.5)))
    assert isinstance(function([0.5]), np.ndarray)


def test_groups_broadcast_and_step_rates_reduce_their_last_axis():
    assert informative_group_probability([[0.0], [0.5]], [1, 2, 3]) == pytest.approx(np.array([[0, 0, 0], [0, 0.5, 0.75]]))
    assert type(informative_group_probability(0.5, 2)) is type(first_error_entropy_bits([0.5, 0.5])) is float
    assert first_error_entropy_bits([[0.5, 0.5], [1.0, 0.5]]) == pytest.approx(np.array([1.5, 1.0]))
