"""How many bits does one training signal tell, given the probabilities the model assigned beforehand?

Functions take scalars or numpy arrays and return the same, in bits (log base 2). They tell what was on offer; what a learner
made of it is measured elsewhere.
"""

import numpy as np
from scipy import optimize


def _probabilities(values, name: str, lowest_allowed: bool = True) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    inside = (array >= 0 if lowest_allowed else array > 0) & (array <= 1)  # NaN compares false
    if not inside.all():
        interval = "[0, 1]" if lowest_allowed else "(0, 1]"
        raise ValueError(f"{name} must lie in {interval}, got {array[~inside].flat[0]}")
    return array


def _like(result: np.ndarray, *inputs) -> float | np.ndarray:
    """A float where every input was a scalar."""
    return float(result) if all(np.ndim(value) == 0 for value in inputs) else result


def _binary_entropy(p: np.ndarray) -> np.ndarray:
    """H(p) in bits with its limit 0 at both ends; log1p keeps the digits of a tiny p."""
    inner = np.where((p > 0) & (p < 1), p, 0.5)
    nats = -inner * np.log(inner) - (1 - inner) * np.log1p(-inner)
    return np.where((p > 0) & (p < 1), nats / np.log(2), 0.0)


def surprisal_bits(probability):
    """Bits that an event of this probability tells when it happens: -log2 p.

    Raises:
        ValueError: for a probability outside (0, 1], or NaN.

    >>> surprisal_bits(0.125)
    3.0
    """
    return _like(-np.log2(_probabilities(probability, "probability", lowest_allowed=False)) + 0.0, probability)


def binary_entropy_bits(pass_rate):
    """Expected bits of a pass/fail verdict on one rollout: H(p) = -p log2 p - (1-p) log2 (1-p).

    Average it over prompts; the entropy of a mean pass rate is another quantity.

    Raises:
        ValueError: for a pass rate outside [0, 1], or NaN.

    >>> binary_entropy_bits(0.5)
    1.0
    >>> round(binary_entropy_bits(0.11), 3)
    0.5
    """
    return _like(_binary_entropy(_probabilities(pass_rate, "pass_rate")), pass_rate)


def first_error_entropy_bits(step_pass_rates):
    """Entropy of the position of the first wrong step: what a process reward offers for one rollout.

    Args:
        step_pass_rates: (..., K) probabilities that step k is right given that the steps before it are.

    Returns:
        Bits, of shape (...): sum_k (prod_{j<k} p_j) H(p_k), by the chain rule. Never less than the entropy of the outcome,
        which is a function of the position.

    Raises:
        ValueError: for no steps, a rate outside [0, 1], or NaN.

    >>> round(first_error_entropy_bits([0.001 ** (1 / 8)] * 8), 4), round(binary_entropy_bits(0.001), 4)
    (1.6968, 0.0114)
    """
    p = _probabilities(step_pass_rates, "step_pass_rates")
    if p.ndim == 0 or p.shape[-1] == 0:
        raise ValueError("step_pass_rates needs at least one step on its last axis")
    reached = np.cumprod(np.concatenate([np.ones_like(p[..., :1]), p[..., :-1]], axis=-1), axis=-1)
    result = (reached * _binary_entropy(p)).sum(axis=-1)
    return float(result) if result.ndim == 0 else result


def informative_group_probability(pass_rate, group_size):
    """Probability that G rollouts of one prompt do not all get the same verdict: 1 - p^G - (1-p)^G.

    A group of equal rewards has no advantage and moves no weight.

    Raises:
        ValueError: for a pass rate outside [0, 1], NaN, or a group smaller than 1.

    >>> informative_group_probability(0.5, 2)
    0.5
    """
    p = _probabilities(pass_rate, "pass_rate")
    g = np.asarray(group_size)
    if not (g >= 1).all():
        raise ValueError(f"group_size must be at least 1, got {group_size}")
    with np.errstate(divide="ignore"):  # log 0 at p = 1, whose exponential is the 0 that is meant
        some_pass = -np.expm1(g * np.log1p(-p))  # 1 - (1 - p)^G without losing a tiny p
    return _like(some_pass - p**g, pass_rate, group_size)


def believed_reward_bits(completion_surprisal_bits):
    """Bits that a verdict on one's own sample of surprisal s is expected to tell: H(2^-s).

    The learner believes its answer to be right with the probability it gave it. Compare means over its own samples: by data
    processing E[H(2^-s)] is never more than E[s], what a label is expected to tell (for a single sample it can be). Holds
    for one rollout, not for a group.

    Raises:
        ValueError: for a negative surprisal, or NaN.

    >>> believed_reward_bits(1.0)
    1.0
    """
    s = np.asarray(completion_surprisal_bits, dtype=float)
    if not (s >= 0).all():
        raise ValueError(f"completion_surprisal_bits must not be negative, got {s[~(s >= 0)].flat[0]}")
    return binary_entropy_bits(_like(np.exp2(-s), completion_surprisal_bits))


def verdict_sequence_bits(tried_masses, index_of_right: int | None) -> float:
    """Bits that verdicts on distinct answers, tried one after the other, told of which one is right.

    The k-th verdict tells H of the answer's mass over the mass not yet ruled out, and nothing is left to tell after a pass.
    In the mean over what is right, for a learner whose masses are calibrated, no sequence of verdicts tells more; with V
    equal masses and M tries it is log2 V - ((V - M) / V) log2(V - M).

    Args:
        tried_masses: prior probabilities of the distinct answers in the order of the tries.
        index_of_right: place of the right one among them; None if it was not tried.

    Raises:
        ValueError: for masses outside [0, 1] or of a sum above 1.

    >>> round(verdict_sequence_bits([0.25, 0.25, 0.25], None), 3), verdict_sequence_bits([0.5], 0)
    (2.73, 1.0)
    """
    masses = _probabilities(tried_masses, "tried_masses")
    until = len(masses) if index_of_right is None else index_of_right + 1
    left_before = 1.0 - np.concatenate([[0.0], np.cumsum(masses)])[:until]
    if (left_before < masses[:until] - 1e-6).any():
        raise ValueError(f"masses of distinct answers sum to at most 1, got {masses[:until].sum()}")
    shares = np.minimum(masses[:until] / np.maximum(left_before, 1e-300), 1.0)
    return float(np.sum(_binary_entropy(shares)))


def break_even_pass_rate(cost_ratio: float) -> float | None:
    """Pass rate above which the essay's formula has a verdict tell more per FLOP than a label: H(p) / -log2 p = cost_ratio.

    H(p) / -log2 p rises from 0 at p = 0 through 1 at p = 1/2 without a bound, so there is always a crossing; None where it
    lies closer to 1 than one part in a million, where neither has anything left to tell. The crossing is the essay's: it sets
    a realised surprisal against an expected entropy. In one convention a label never tells less.

    Args:
        cost_ratio: FLOPs of an RL sample over FLOPs of a label, above 0.

    Raises:
        ValueError: for a ratio that is not positive.

    >>> break_even_pass_rate(1.0)
    0.5
    >>> round(break_even_pass_rate(2.0), 3), break_even_pass_rate(30.0)
    (0.759, None)
    """
    if not cost_ratio > 0:
        raise ValueError(f"cost_ratio must be above 0, got {cost_ratio}")

    def excess(p: float) -> float:
        return _binary_entropy(np.float64(p)) / -np.log2(p) - cost_ratio

    low, high = 1e-300, 1 - 1e-6
    return None if excess(high) < 0 else float(optimize.brentq(excess, low, high, xtol=1e-12))
