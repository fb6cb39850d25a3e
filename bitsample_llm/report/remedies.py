"""What does a remedy save? The price of plain training over the price with the remedy, to the same kept target, runs counted that never got there.

A factor above 1 says that the remedy pays. Its interval comes from a bootstrap in two levels, over pretraining seeds and over training seeds.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bitsample_llm.report.estimates import UNMEASURED, Estimate, number_text
from bitsample_llm.report.prices import PricedRun, Target, median_price

NUM_DRAWS = 10_000


@dataclass(frozen=True)
class Factor:
    """Price of plain training over that with a remedy; `bound` in place of the estimate where one of the two has no price: the factor lies above it
    where plain training has none (`is_above`), else below.
    """

    estimate: Estimate
    bound: float | None = None
    is_above: bool = False

    @property
    def is_known(self) -> bool:
        """Whether there is a factor, or a bound of it."""
        return self.bound is not None or self.estimate.mean is not None

    def text(self) -> str:
        """The factor with its interval, or what it lies above or below."""
        if self.bound is not None:
            return f"{'>' if self.is_above else '<'} {number_text(self.bound)}"
        return self.estimate.text()


@dataclass(frozen=True)
class Prices:
    """What the runs of one arm at one rung paid for one target, by pretraining seed: (price, True) or (lower bound, False) of each run."""

    by_model: dict[str, list[tuple[float, bool]]]

    @cached_property
    def _medians(self) -> dict[tuple, float | None]:
        return {}

    def median(self, model: str, indices: Sequence[int] | None = None) -> float | None:
        """Kaplan-Meier median over the training seeds, or over a draw of them."""
        prices = self.by_model[model]
        key = (model, *(range(len(prices)) if indices is None else sorted(indices)))
        if key not in self._medians:  # few draws of few runs differ
            self._medians[key] = median_price([prices[index] for index in key[1:]])
        return self._medians[key]

    def least(self, model: str) -> float:
        """The median, or where there is none what it is known to lie above: the median of all that was spent without getting there."""
        median = self.median(model)
        return float(np.median([value for value, _ in self.by_model[model]])) if median is None else median

    def kept_text(self) -> str:
        """How many runs are known to have kept the target, of how many."""
        runs = [is_kept for prices in self.by_model.values() for _, is_kept in prices]
        return f"{sum(runs)} of {len(runs)}"


def prices_of(runs: Sequence[PricedRun], rung: str, arm: str, target: Target) -> Prices:
    """What an arm paid at a rung."""
    by_model = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.model, run.seed)):
        if (run.rung, run.arm) == (rung, arm):
            by_model[run.model].append(run.price(target))
    return Prices(dict(by_model))


def factor(plain: Prices, remedy: Prices, seed: int = 0, num_draws: int = NUM_DRAWS) -> Factor:
    """Geometric mean over pretraining seeds of the ratio of medians, with a 95 % interval: pretraining seeds are drawn anew where there are
    several, and training seeds of each arm by themselves. What a draw does not know, because an arm has no median in it, widens the interval without end. Two or three pretraining
    seeds stand for themselves: where they differ as much as training seeds do, the interval of the others is wider than this one.
    """
    models = sorted(plain.by_model.keys() & remedy.by_model.keys())
    medians = [(plain.median(model), remedy.median(model)) for model in models]
    if not models or any(0 in pair for pair in medians):  # the target held before training
        return Factor(Estimate(None, None, 0))
    if any(None in pair for pair in medians):
        unpriced = [any(pair[place] is None for pair in medians) for place in (0, 1)]
        bound = float(np.exp(np.mean([np.log(plain.least(model) / remedy.least(model)) for model in models])))
        return Factor(Estimate(None, None, len(models)), None if all(unpriced) else bound, unpriced[0])
    values = [above / below for above, below in medians]
    rng, lows, highs = np.random.default_rng(seed), np.empty(num_draws), np.empty(num_draws)
    for number in range(num_draws):
        drawn = [models[index] for index in rng.integers(len(models), size=len(models))]
        low_M, high_M = zip(*(_drawn_log_ratio(plain, remedy, model, rng) for model in drawn), strict=True)
        lows[number] = -np.inf if -np.inf in low_M else np.mean(low_M)
        highs[number] = np.inf if np.inf in high_M else np.mean(high_M)
    ends = np.quantile(lows, 0.025, method="inverted_cdf"), np.quantile(highs, 0.975, method="inverted_cdf")
    interval = tuple(float(np.exp(end)) for end in ends)
    return Factor(Estimate(float(np.exp(np.mean(np.log(values)))), interval, len(models), tuple(values)))


def _drawn_log_ratio(plain: Prices, remedy: Prices, model: str, rng: np.random.Generator) -> tuple[float, float]:
    """Least and most that the log of the ratio of medians can be in one draw of the training seeds of each arm."""
    sizes = [(prices, len(prices.by_model[model])) for prices in (plain, remedy)]
    above, below = (prices.median(model, rng.integers(size, size=size).tolist()) for prices, size in sizes)
    if above is None or below is None:
        return np.inf if below else -np.inf, -np.inf if above else np.inf
    return (float(np.log(above / below)),) * 2


def price_text(prices: Prices, scale: float = 1.0) -> str:
    """Geometric mean over pretraining seeds of the medians, or what it lies above."""
    if not prices.by_model:
        return UNMEASURED
    is_bound = any(prices.median(model) is None for model in prices.by_model)
    mean = np.exp(np.mean([np.log(prices.least(model)) for model in prices.by_model]))
    return f"{'> ' * is_bound}{number_text(float(mean) * scale)}"
