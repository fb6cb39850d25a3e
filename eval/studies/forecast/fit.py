"""A line with log-normal errors through prices, of which some are lower bounds; the width may depend on something too. N prices, K columns."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

SHRINK = 1e-2  # weight of the squared slopes, so that a slope that nothing tells of is 0


@dataclass(frozen=True)
class Line:
    """Means and widths of ln price, as linear forms of two sets of columns."""

    mean_K: np.ndarray
    log_sd_K: np.ndarray

    def predicted(self, mean_NK: np.ndarray, sd_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of ln price."""
        return mean_NK @ self.mean_K, np.exp(sd_NK @ self.log_sd_K)


def log_scores(y_N: np.ndarray, is_known_N: np.ndarray, mean_N: np.ndarray, sd_N: np.ndarray) -> np.ndarray:
    """Log density of a known price, log probability of lying above a bound."""
    z_N = (y_N - mean_N) / sd_N
    return np.where(is_known_N, stats.norm.logpdf(z_N) - np.log(sd_N), stats.norm.logsf(z_N))


def fitted_line(mean_NK, sd_NK, y_N, is_known_N, weight_N) -> Line:
    """The likeliest line; the first column of both sets is one."""
    num_means = mean_NK.shape[1]

    def loss(parameters: np.ndarray) -> float:
        line = Line(parameters[:num_means], parameters[num_means:])
        scores_N = log_scores(y_N, is_known_N, *line.predicted(mean_NK, sd_NK))
        return -(weight_N * scores_N).sum() + SHRINK * ((line.mean_K[1:] ** 2).sum() + (line.log_sd_K[1:] ** 2).sum())

    first = np.concatenate([np.linalg.lstsq(mean_NK, y_N, rcond=None)[0], np.zeros(sd_NK.shape[1])])
    best = optimize.minimize(loss, first, method="BFGS").x
    return Line(best[:num_means], best[num_means:])


def start_weights(starts: Sequence[str]) -> np.ndarray:
    """Weights under which every start counts the same."""
    counts = Counter(starts)
    return np.array([1 / counts[start] for start in starts])


def left_out(mean_NK, sd_NK, y_N, is_known_N, starts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of ln price of each, by a line that saw nothing of its start."""
    starts_N, weight_N = np.array(starts), start_weights(starts)
    mean_N, sd_N = np.empty(len(y_N)), np.empty(len(y_N))
    for start in set(starts):
        out = starts_N == start
        line = fitted_line(mean_NK[~out], sd_NK[~out], y_N[~out], is_known_N[~out], weight_N[~out])
        mean_N[out], sd_N[out] = line.predicted(mean_NK[out], sd_NK[out])
    return mean_N, sd_N
