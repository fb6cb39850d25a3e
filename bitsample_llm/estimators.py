"""What do a few rollouts or a few seeds say of the quantity behind them, and how sure is it?

Estimators of pass@k and gradient noise, and intervals; those of entropy come from `jackknife.py`. Every random draw takes the
generator it draws from.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, special, stats

from bitsample_llm.jackknife import checked_counts, jackknife_categorical_entropy_bits, jackknife_entropy_bits  # noqa: F401


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")


def pass_at_k(num_samples, num_passed, k):
    """Unbiased estimate of pass@k, the probability that one of k rollouts passes: 1 - C(n-c, k) / C(n, k).

    Raises:
        ValueError: unless 0 <= num_passed <= num_samples and 1 <= k <= num_samples.

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1.

    >>> round(pass_at_k(4, 1, 2), 6)
    0.5
    """
    c, n = checked_counts(num_passed, num_samples)
    if not ((np.asarray(k) >= 1) & (np.asarray(k) <= n)).all():
        raise ValueError(f"k must lie between 1 and num_samples, got k={k} of {num_samples}")
    result = stats.hypergeom.sf(0, n, c, k)
    return float(result) if np.ndim(result) == 0 else result


def group_pass_probabilities(num_passed, num_samples, group_size: int) -> np.ndarray:
    """Unbiased estimate of the probability that k of g rollouts pass, k = 0 to g, from c passes of n: shape (prompts, g + 1).

    It is how many passes g of the n rollouts hold, drawn without putting back. Column 0 is C(n-c, g) / C(n, g), the last
    column C(c, g) / C(n, g); what they leave of 1 estimates the probability of an informative group.

    Raises:
        ValueError: for impossible counts, or g not between 1 and n.

    Source: Hoeffding 1948 (U-statistics); with k = 0 it is the estimator of pass@k.

    >>> group_pass_probabilities([1], [4], 2).round(3).tolist()
    [[0.5, 0.5, 0.0]]
    """
    c, n = (np.atleast_1d(counts)[:, None] for counts in checked_counts(num_passed, num_samples))
    if not 1 <= group_size <= n.min():
        raise ValueError(f"group_size must lie between 1 and num_samples, got {group_size} of {n.min()}")
    return stats.hypergeom.pmf(np.arange(group_size + 1), n, c, group_size)


def beta_binomial_fit(num_passed, num_samples) -> tuple[float, float]:
    """Parameters (a, b) of the Beta distribution of pass rates that makes the counts most likely.

    For group sizes beyond the rollouts at hand, and for what a prompt's own few rollouts leave open. Where the likelihood
    grows without end (all passed, none passed, no spread) the parameters stop at a mean of 6e-6 from the edge, or at a
    concentration a + b of 3,000.

    Raises:
        ValueError: for impossible counts.

    Source: Skellam 1948.

    >>> a, b = beta_binomial_fit(np.arange(9), np.full(9, 8))  # every count equally often
    >>> round(a, 2), round(b, 2)
    (1.0, 1.0)
    """
    c, n = (np.atleast_1d(counts) for counts in checked_counts(num_passed, num_samples))
    (distinct_c, distinct_n), weights = np.unique(np.stack([c, n]), axis=1, return_counts=True)

    def parameters(x: np.ndarray) -> tuple[float, float]:
        mean, concentration = special.expit(x[0]), np.exp(x[1])
        return float(mean * concentration), float((1 - mean) * concentration)

    def negative_log_likelihood(x: np.ndarray) -> float:
        a, b = parameters(x)
        return float(special.betaln(a, b) - weights @ special.betaln(distinct_c + a, distinct_n - distinct_c + b) / weights.sum())

    start = [special.logit((c.sum() + 0.5) / (n.sum() + 1)), 0.0]
    # two parameters need no gradient, and L-BFGS-B would wake every BLAS thread at each of its tiny steps
    found = optimize.minimize(negative_log_likelihood, start, method="Nelder-Mead", bounds=[(-12, 12), (-9, 8)])
    return parameters(found.x)


def wilson_interval(num_passed, num_samples, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a pass rate.

    Raises:
        ValueError: for impossible counts or a confidence outside (0, 1).

    >>> [round(bound, 4) for bound in wilson_interval(0, 10)]
    [0.0, 0.2775]
    """
    checked_counts(num_passed, num_samples)
    _check_confidence(confidence)
    interval = stats.binomtest(int(num_passed), int(num_samples)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def t_interval(values, confidence: float = 0.95) -> tuple[float, float] | None:
    """Student t interval of the mean of a few independent values (seeds); None for fewer than two.

    >>> [round(bound, 3) for bound in t_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    _check_confidence(confidence)
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return None
    half = float(stats.t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return float(x.mean()) - half, float(x.mean()) + half


def bootstrap_interval(
    values, rng: np.random.Generator, statistic: Callable = np.mean, confidence: float = 0.95, num_resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over many independent values (prompts; for seeds use `t_interval`).

    `statistic` takes an array and an `axis`.

    Raises:
        ValueError: for no values.
    """
    _check_confidence(confidence)
    x = np.asarray(values)
    if x.size == 0:
        raise ValueError("no values to bootstrap")
    resamples = x[rng.integers(0, len(x), size=(num_resamples, len(x)))]
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(resamples, axis=1), [tail, 1 - tail])
    return float(low), float(high)


def first_kept(spent, values, level: float, factor: float = 1.0) -> float | None:
    """First of the ascending amounts `spent` from which all values stay at `level` or above until `factor` times that amount was spent.

    None where there is none, or where what was spent in all does not tell: a level that was reached late may still be lost.

    >>> first_kept([1, 2, 4, 8], [0, 5, 5, 5], 5, factor=3), first_kept([1, 2, 4], [0, 5, 5], 5, factor=3)
    (2.0, None)
    >>> first_kept([1, 2, 4, 8, 16], [0, 5, 4, 5, 5], 5, factor=2)  # lost at 4
    8.0
    """
    spent, is_above = np.asarray(spent, float), np.asarray(values, float) >= level
    for start in spent[is_above]:
        if start * factor > spent[-1]:
            return None
        if is_above[(spent >= start) & (spent <= start * factor)].all():
            return float(start)
    return None


def noise_scale(gradients) -> float:
    """Gradient noise scale tr(Sigma) / |G|^2 from the gradients of B independent units, a (B, D) array.

    In reinforcement learning the independent unit is the prompt group. The ratio has a noisy denominator: over many
    batches average both parts before dividing. NaN where the estimate of |G|^2 is not positive: unmeasured.

    Raises:
        ValueError: for fewer than two units.

    Source: McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1.

    >>> noise_scale([[1.0, 1.0], [1.0, -1.0]])
    nan
    >>> round(noise_scale([[3.0, 1.0], [3.0, -1.0]]), 4)  # tr(Sigma) = 2, |G|^2 = 8
    0.25
    """
    g = np.asarray(gradients, dtype=float)
    if g.ndim != 2 or len(g) < 2:
        raise ValueError(f"gradients must be a (B, D) array of at least two units, got shape {g.shape}")
    mean_square = float((g**2).sum(axis=1).mean())
    square_of_mean = float((g.mean(axis=0) ** 2).sum())
    units = len(g)
    signal = (units * square_of_mean - mean_square) / (units - 1)
    noise = units * (mean_square - square_of_mean) / (units - 1)
    return noise / signal if signal > 0 else math.nan
