"""Estimators against independent computations, exact enumeration and published numbers."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bitsample_llm.estimators import (
    bootstrap_interval,
    jackknife_entropy_bits,
    noise_scale,
    pass_at_k,
    t_interval,
    wilson_interval,
)
from bitsample_llm.information import binary_entropy_bits

unhurried = settings(deadline=None)
counts = st.integers(2, 64).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
@unhurried
def test_jackknife_is_what_leaving_out_one_rollout_at_a_time_gives(count):
    passed, group_size = count
    verdicts = np.arange(group_size) < passed
    without_one = [binary_entropy_bits(np.delete(verdicts, index).mean()) for index in range(group_size)]
    expected = group_size * binary_entropy_bits(verdicts.mean()) - (group_size - 1) * np.mean(without_one)
    assert jackknife_entropy_bits(passed, group_size) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("group_size", [2, 3, 8, 100])
def test_all_pass_group_carries_no_information(group_size):
    assert jackknife_entropy_bits(0, group_size) == jackknife_entropy_bits(group_size, group_size) == 0


def test_jackknife_may_exceed_one_bit_and_is_not_clipped():
    assert jackknife_entropy_bits(1, 2) == 2


def test_jackknife_of_arrays_is_that_of_their_elements():
    passed = np.arange(9)
    assert jackknife_entropy_bits(passed, 8).tolist() == [jackknife_entropy_bits(c, 8) for c in range(9)]


def test_biases_at_group_size_eight_are_the_published_ones():
    """Mean over log-uniform pass rates in [0.001, 0.5], each binomial summed exactly."""
    p = np.geomspace(0.001, 0.5, 4001)[:, None]
    passed = np.arange(9)
    binomial = stats.binom.pmf(passed, 8, p)
    truth = binary_entropy_bits(p).mean()
    assert truth == pytest.approx(0.2940, abs=2e-4)
    assert (binomial @ binary_entropy_bits(passed / 8)).mean() - truth == pytest.approx(-0.060, abs=1e-3)
    assert (binomial @ jackknife_entropy_bits(passed, 8)).mean() - truth == pytest.approx(-0.014, abs=1e-3)


@pytest.mark.parametrize(("passed", "group_size"), [(-1, 4), (5, 4), (0, 0), (math.nan, 4), (1, math.nan), (1, 1), ([1, 5], 4)])
def test_jackknife_of_impossible_counts_is_refused(passed, group_size):
    with pytest.raises(ValueError, match=r"counts |at least 2"):
        jackknife_entropy_bits(passed, group_size)


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
@unhurried
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_pass(case):
    n, c, k = case
    subsets = list(itertools.combinations(range(n), k))
    share = sum(min(subset) < c for subset in subsets) / len(subsets)
    assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(("c", "k"), [(0, 1), (1, 1), (1, 50), (37, 1000), (50_000, 2), (99_999, 1), (3, 99_998), (10**5, 10**5)])
def test_pass_at_k_of_a_hundred_thousand_rollouts_is_the_exact_fraction(c, k):
    n = 10**5
    none_passes = Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(1 - none_passes), abs=1e-8)


def test_pass_at_k_is_unbiased():
    p, n, k = 0.07, 12, 5
    passed = np.arange(n + 1)
    assert stats.binom.pmf(passed, n, p) @ pass_at_k(n, passed, k) == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize(
    ("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1), (4, 2, math.nan), (4, math.nan, 1)]
)
def test_pass_at_k_of_impossible_counts_is_refused(n, c, k):
    with pytest.raises(ValueError, match=r"counts |k must lie"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("passed", "num", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_is_the_one_of_newcombe_1998_table_1(passed, num, low, high):
    assert wilson_interval(passed, num) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("num", [10, 50])
def test_wilson_interval_covers_its_share_of_the_exact_binomial(num):
    p = np.linspace(0.0005, 0.9995, 1000)[:, None]
    low, high = np.array([wilson_interval(passed, num) for passed in range(num + 1)]).T
    coverage = (stats.binom.pmf(np.arange(num + 1), num, p) * ((low <= p) & (p <= high))).sum(axis=1)
    assert coverage.mean() == pytest.approx(0.95, abs=0.01)
    assert coverage.min() > 0.83


def test_wilson_interval_widens_with_confidence_and_refuses_nonsense():
    (low, high), (lower, higher) = wilson_interval(3, 10, 0.8), wilson_interval(3, 10, 0.999)
    assert lower < low < 0.3 < high < higher
    for arguments in [(11, 10), (-1, 10), (0, 0), (math.nan, 10), (1, 10, 0.0), (1, 10, 1.0), (1, 10, math.nan)]:
        with pytest.raises(ValueError, match=r"counts |confidence"):
            wilson_interval(*arguments)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8).filter(lambda x: np.std(x) > 1e-3), st.floats(0.5, 0.999))
@unhurried
def test_t_interval_is_scipys(values, confidence):
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert t_interval(values, confidence) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)


def test_t_interval_of_one_seed_is_unmeasured():
    assert t_interval([]) is t_interval([0.7]) is None
    assert t_interval([0.7, 0.7]) == (0.7, 0.7)


def test_bootstrap_depends_on_its_generator_alone():
    values = np.random.default_rng(0).normal(size=40)
    first, again, other = (bootstrap_interval(values, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_bootstrap_of_a_normal_sample_has_the_theoretical_width_and_covers():
    rng = np.random.default_rng(0)
    samples = rng.normal(5.0, 2.0, size=(300, 60))
    intervals = np.array([bootstrap_interval(sample, rng, num_resamples=1000) for sample in samples])
    width = intervals[:, 1] - intervals[:, 0]
    assert width.mean() == pytest.approx(2 * 1.96 * 2.0 / math.sqrt(60), rel=0.05)
    covered = int(((intervals[:, 0] <= 5.0) & (intervals[:, 1] >= 5.0)).sum())
    low, high = wilson_interval(covered, len(samples), 0.999)
    assert low <= 0.945 <= high


def test_bootstrap_takes_another_statistic_and_refuses_nothing_to_resample():
    low, high = bootstrap_interval([1, 1, 1, 100], np.random.default_rng(0), statistic=np.median)
    assert low == 1 < high <= 100
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([], np.random.default_rng(0))


SCORE = np.array([0.6, -0.2, -0.4])  # gradient of the log-probability of the right answer; every scale has to be the same


def bandit_gradients(passed: int, rollouts: int) -> np.ndarray:
    """REINFORCE without a baseline on one prompt: the score where the rollout passed, else nothing."""
    return np.outer(np.arange(rollouts) < passed, SCORE)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_noise_scale_of_a_bandit_without_a_baseline_is_the_odds_against(p):
    rollouts = 400_000
    assert noise_scale(bandit_gradients(round(p * rollouts), rollouts)) == pytest.approx((1 - p) / p, rel=1e-3)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_both_parts_of_the_noise_scale_are_unbiased(p):
    """Summed over the exact binomial. The parts add up to the mean square, which gives them back from their ratio."""
    rollouts, square = 6, float(SCORE @ SCORE)
    binomial = stats.binom.pmf(np.arange(rollouts + 1), rollouts, p)
    mean_square = np.arange(rollouts + 1) / rollouts * square
    scale = np.array([noise_scale(bandit_gradients(passed, rollouts)) for passed in range(rollouts + 1)])
    signal = np.where(np.isnan(scale), 0.0, mean_square / (1 + scale))  # none or one pass: the estimate of |G|^2 is 0
    assert np.isnan(scale).tolist() == [True, True] + [False] * 5
    assert binomial @ signal == pytest.approx(p**2 * square)
    assert binomial @ (mean_square - signal) == pytest.approx(p * (1 - p) * square)


def test_noise_scale_is_the_ratio_of_sample_covariance_to_its_corrected_mean_square():
    gradients = np.random.default_rng(0).normal(1.0, 2.0, size=(50, 7))
    trace = np.trace(np.cov(gradients.T))
    signal = (gradients.mean(axis=0) ** 2).sum() - trace / len(gradients)
    assert noise_scale(gradients) == pytest.approx(trace / signal)


def test_noise_scale_without_a_positive_signal_is_unmeasured():
    assert math.isnan(noise_scale([[1.0, 1.0], [-1.0, -1.0]]))
    assert math.isnan(noise_scale(np.zeros((4, 3))))
    assert math.isnan(noise_scale([[math.nan], [1.0]]))
    assert noise_scale([[2.0, 1.0]] * 3) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("bad", [[[1.0, 2.0]], [1.0, 2.0], [], np.zeros((2, 2, 2))])
def test_noise_scale_of_fewer_than_two_units_is_refused(bad):
    with pytest.raises(ValueError, match="at least two units"):
        noise_scale(bad)
