"""How noisy is the gradient of one label, or of one group of rollouts, at a given start?

Everything rests on a prompt having one accepted answer y*. Passing rollouts of a prompt are then all the same string, so a
group's gradient is made of two vectors only, grad log p with p = pi(y*|x) and the sum of the scores of the rollouts that
failed, and what a group is in expectation follows from the binomial law of its passes.

Shapes: P prompts, K units of each, A arms, N blocks of prompts, B basis vectors of a prompt, D parameters, G rollouts per group.
Gradients ascend, a rollout's score is the gradient of its summed token log-probabilities in nats, a group's the mean over G.
`make_noise.py` measures what is needed here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

ESTIMATORS = ("reinforce", "rloo", "grpo")
LABEL_NOISES = (0.0, 0.05, 0.2)
NUM_BLOCKS = 20
GRPO_EPSILON = 1e-4  # added to the standard deviation by TRL


def group_advantages(estimator: str, num_passed, group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Advantages of the rollouts that passed and of those that failed, in groups with `num_passed` passes.

    Source: TRL 1.16, GRPOTrainer with scale_rewards="group" (standard deviation with Bessel's correction) and RLOOTrainer.

    >>> [round(float(advantage), 3) for advantage in group_advantages("rloo", 2, 8)]
    [0.857, -0.286]
    """
    c, g = np.asarray(num_passed, dtype=float), group_size
    if estimator == "reinforce":
        return np.ones_like(c), np.zeros_like(c)
    if estimator == "rloo":
        return (g - c) / (g - 1), -c / (g - 1)
    if estimator == "grpo":
        std = np.sqrt(c * (g - c) / (g * (g - 1)))
        return (1 - c / g) / (std + GRPO_EPSILON), -c / g / (std + GRPO_EPSILON)
    raise ValueError(f"unknown estimator {estimator!r}; known: {', '.join(ESTIMATORS)}")


class PromptArm(NamedTuple):
    """One prompt in one arm: the mean of its units' gradients g in a basis, E|g|^2, and |E g|^2 (NaN from a single unit)."""

    weights_B: np.ndarray
    unit_square: float
    own_square: float


def sampled_arm(weights_KB: np.ndarray, gram_BB: np.ndarray) -> PromptArm:
    """The arm of K sampled units whose gradients are `weights_KB` times the basis."""
    inner_KK, k = weights_KB @ gram_BB @ weights_KB.T, len(weights_KB)
    own_square = (inner_KK.sum() - np.trace(inner_KK)) / (k * (k - 1)) if k > 1 else math.nan
    return PromptArm(weights_KB.mean(axis=0), float(np.trace(inner_KK) / k), float(own_square))


def label_arm(noise: float, weights_KB: np.ndarray, gram_BB: np.ndarray) -> PromptArm:
    """The arm of labels that are right (basis vector 0) or, with probability `noise`, wrong as one of the K rows.

    The coin is averaged out, not tossed: at 0.05 few tosses of a hundred would tell anything.
    """
    right_B = np.eye(len(gram_BB))[0]
    wrong_square = float(np.trace(weights_KB @ gram_BB @ weights_KB.T) / len(weights_KB))
    arm = sampled_arm((1 - noise) * right_B + noise * weights_KB, gram_BB)
    return arm._replace(unit_square=(1 - noise) * float(gram_BB[0, 0]) + noise * wrong_square)


def group_weights(estimator: str, num_passed_K: np.ndarray, group_size: int) -> np.ndarray:
    """Weights (K, 1 + K) of K group gradients on grad log p and the K sums of the scores of rollouts that failed."""
    passing_K, failing_K = group_advantages(estimator, num_passed_K, group_size)
    return np.column_stack([num_passed_K * passing_K, np.diag(failing_K)]) / group_size


def fail_square(num_failed_K: np.ndarray, sum_square_K: np.ndarray, odds: float, square: float, group_size: int) -> float:
    """Unbiased estimate of E[|score|^2, fails] for one rollout, from |sum of failing scores|^2 of K groups.

    Scores are 0 in expectation, so two failing ones have the inner product odds^2 `square`, with odds = p / (1 - p) and
    `square` = |grad log p|^2.
    """
    others_K = num_failed_K * (num_failed_K - 1) * odds**2 * square
    return float((sum_square_K - others_K).mean() / group_size)


def expected_arm(estimator: str, log_p: float, square: float, failing_square: float, group_size: int, basis_size: int) -> PromptArm:
    """The arm of groups of G rollouts, averaged exactly over the number of passes, which is binomial.

    Sampled groups rarely tell anything where p is small; this needs no pass. `square` is |grad log p|^2.
    """
    c = np.arange(group_size + 1)
    n = group_size - c
    p, q = pass_and_fail_probability(log_p)
    pmf = stats.binom.pmf(n, group_size, q)  # of the fails: 1 - p keeps its digits at a p near 1
    passing, failing = group_advantages(estimator, c, group_size)
    mean = (c * passing - n * failing * p / q) / group_size
    failing_sum_square = n * failing_square / q + n * (n - 1) * (p / q) ** 2 * square
    unit_square = (c * passing) ** 2 * square - 2 * c * passing * n * failing * p / q * square + failing**2 * failing_sum_square
    weight = float(pmf @ mean)
    return PromptArm(weight * np.eye(basis_size)[0], float(pmf @ unit_square) / group_size**2, weight**2 * square)


def pass_and_fail_probability(log_p: float) -> tuple[float, float]:
    """p and 1 - p, the latter kept above 0: float32 log-probabilities can be exactly 0."""
    return math.exp(min(log_p, 0.0)), max(-math.expm1(min(log_p, 0.0)), 1e-12)


class NoiseTally:
    """Sums over the prompts of each block, all that several arms' estimates and jackknife need; N A D floats of memory."""

    def __init__(self, arms: Sequence[str], num_parameters: int, num_blocks: int = NUM_BLOCKS):
        self.arms = list(arms)
        self._gradients_NAD = np.zeros((num_blocks, len(arms), num_parameters), dtype=np.float32)
        self._sums_NA4 = np.zeros((num_blocks, len(arms), 4))  # prompts, |mean|^2, unit_square, own_square

    def add(self, block: int, arms: dict[str, PromptArm], basis_BD: np.ndarray, gram_BB: np.ndarray) -> None:
        """Add one prompt, whose arms are spanned by one basis (float32)."""
        weights_AB = np.stack([arms[name].weights_B for name in self.arms])
        self._gradients_NAD[block] += weights_AB.astype(np.float32) @ basis_BD
        squares_A = np.einsum("ab,bc,ac->a", weights_AB, gram_BB, weights_AB)
        for index, name in enumerate(self.arms):
            self._sums_NA4[block, index] += [1, squares_A[index], arms[name].unit_square, arms[name].own_square]

    def gradient(self, arm: str) -> np.ndarray:
        """Mean gradient (D,) of one arm."""
        return self._gradients_NAD[:, self.arms.index(arm)].sum(axis=0) / self._sums_NA4[:, 0, 0].sum()

    def estimate(self, arm: str) -> "NoiseEstimate":
        """The noise of one arm."""
        index = self.arms.index(arm)
        gradients_ND = self._gradients_NAD[:, index].astype(float)
        return noise_estimate(gradients_ND @ gradients_ND.T, self._sums_NA4[:, index])


@dataclass(frozen=True)
class NoiseEstimate:
    """Gradient noise of one unit: tr(Sigma) / |G|^2, in units, with 95 % intervals. None is unmeasured."""

    noise_scale: float | None
    interval: tuple[float, float] | None
    squared_norm: float
    squared_norm_interval: tuple[float, float]
    trace: float | None
    within_fraction: float | None


def noise_estimate(gram_NN: np.ndarray, sums_N4: np.ndarray, confidence: float = 0.95) -> NoiseEstimate:
    """Noise of one arm from the Gram matrix of its blocks' summed gradients and from the other sums of `NoiseTally`.

    |G|^2 is one U-statistic over pairs of different prompts, which no unit's own noise biases. Its interval is a t interval of
    the delete-block jackknife: right where |G|^2 is well above 0, too wide where it is near 0, since the statistic is
    degenerate there and the jackknife overstates its variance (Efron and Stein 1981). The ratio has Fieller's interval, which
    is bounded exactly where that of |G|^2 excludes 0. With one unit per prompt the ratio is `estimators.noise_scale`.

    Raises:
        ValueError: for fewer than three blocks, or one without prompts.
    """
    num_blocks = len(sums_N4)
    if num_blocks < 3 or not (sums_N4[:, 0] > 0).all():
        raise ValueError(f"the jackknife needs at least three blocks, all with prompts, got {sums_N4[:, 0].tolist()}")
    signal, trace, within = _parts(gram_NN, sums_N4)
    left_out = [np.delete(np.arange(num_blocks), block) for block in range(num_blocks)]
    deleted_N2 = np.array([_parts(gram_NN[np.ix_(kept, kept)], sums_N4[kept])[:2] for kept in left_out])
    covariance = np.cov(deleted_N2.T) * (num_blocks - 1) ** 2 / num_blocks
    spread = covariance * stats.t.ppf((1 + confidence) / 2, num_blocks - 1) ** 2
    half = math.sqrt(spread[0, 0])
    measured = signal > half
    return NoiseEstimate(
        noise_scale=float(trace / signal) if measured else None,
        interval=fieller_interval(trace, signal, spread) if measured else None,
        squared_norm=float(signal),
        squared_norm_interval=(float(signal - half), float(signal + half)),
        trace=float(trace),
        within_fraction=float(within / trace) if math.isfinite(within) and trace > 0 else None,
    )


def _parts(gram_NN: np.ndarray, sums_N4: np.ndarray) -> tuple[float, float, float]:
    """Unbiased |G|^2, tr(Sigma) and the part of it within prompts."""
    prompts, mean_square, unit_square, own_square = sums_N4.sum(axis=0)
    signal = (gram_NN.sum() - mean_square) / (prompts * (prompts - 1))
    return signal, unit_square / prompts - signal, (unit_square - own_square) / prompts


def fieller_interval(trace: float, signal: float, spread: np.ndarray) -> tuple[float, float]:
    """All ratios r for which trace - r signal is within its interval around 0; `spread` is t^2 times the covariance."""
    a, b, c = signal**2 - spread[0, 0], trace * signal - spread[0, 1], trace**2 - spread[1, 1]
    root = math.sqrt(max(b * b - a * c, 0.0))
    return (b - root) / a, (b + root) / a
