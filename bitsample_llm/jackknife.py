"""What do a few rollouts say of the entropy behind them? Jackknife estimates from counts, in bits."""

import numpy as np

from bitsample_llm.information import binary_entropy_bits


def checked_counts(num_passed, num_samples) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays; a ValueError unless they are whole numbers, 0 <= num_passed <= num_samples, and 1 <= num_samples."""
    c, n = np.asarray(num_passed), np.asarray(num_samples)
    if not (np.issubdtype(c.dtype, np.integer) and np.issubdtype(n.dtype, np.integer)):
        raise ValueError(f"counts are whole numbers, got {num_passed} of {num_samples}")
    if not ((c >= 0) & (c <= n) & (n >= 1)).all():
        raise ValueError(f"counts need 0 <= num_passed <= num_samples and a sample, got {num_passed} of {num_samples}")
    return c, n


def jackknife_entropy_bits(num_passed, group_size):
    """Jackknife estimate of H(p) in bits from c passes of G rollouts.

    The plug-in H(c/G) is biased low by about (ln 2 * 2G)^-1; no unbiased estimator exists. Values may exceed 1 bit and
    are not clipped, so that means over prompts stay nearly unbiased.

    Raises:
        ValueError: for counts that are not 0 <= c <= G, or a group smaller than 2.

    Source: Efron and Stein 1981; G h(c/G) - (G-1)/G (c h((c-1)/(G-1)) + (G-c) h(c/(G-1))).

    >>> round(jackknife_entropy_bits(1, 2), 3), jackknife_entropy_bits(0, 8)
    (2.0, 0.0)
    """
    c, g = checked_counts(num_passed, group_size)
    if not (g >= 2).all():
        raise ValueError(f"the jackknife leaves one rollout out, so group_size must be at least 2, got {group_size}")
    without_pass = np.clip((c - 1) / (g - 1), 0, 1)  # multiplied by c = 0 where it does not exist
    without_fail = np.clip(c / (g - 1), 0, 1)
    result = g * binary_entropy_bits(c / g) - (g - 1) / g * (
        c * binary_entropy_bits(without_pass) + (g - c) * binary_entropy_bits(without_fail)
    )
    return float(result) if np.ndim(result) == 0 else result


def jackknife_categorical_entropy_bits(counts) -> float:
    """Jackknife estimate in bits of the entropy of a categorical distribution from the counts of its categories.

    With two categories it is `jackknife_entropy_bits`. Not clipped.

    Raises:
        ValueError: for negative counts, or fewer than two samples.

    Source: as `jackknife_entropy_bits`; n h(c) - (n-1)/n sum_j c_j h(c less one of category j).

    >>> round(jackknife_categorical_entropy_bits([3, 5]), 6) == round(jackknife_entropy_bits(3, 8), 6)
    True
    """
    c = np.asarray(counts)
    n = int(c.sum())
    checked_counts(c, np.full_like(c, max(n, 1)))
    if n < 2:
        raise ValueError(f"the jackknife leaves one sample out, so it needs at least two, got {n}")
    c = c[c > 0]
    left_out = [_plug_in_entropy_bits(c - (np.arange(len(c)) == index)) for index in range(len(c))]
    return float(n * _plug_in_entropy_bits(c) - (n - 1) / n * (c * left_out).sum())


def _plug_in_entropy_bits(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0
