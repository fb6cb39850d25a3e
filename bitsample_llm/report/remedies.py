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
        """The median, or where there is none the most that is known to have been spent."""
        return self.median(model) or max(value for value, _ in self.by_model[model])

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
    several, and training seeds of each arm by themselves. A draw without a price of the plain arm counts as infinite, one without a price of the remedy as 0.
    """
    models = sorted(plain.by_model.keys() & remedy.by_model.keys())
    if not models:
        return Factor(Estimate(None, None, 0))
    medians = [(plain.median(model), remedy.median(model)) for model in models]
    if any(None in pair for pair in medians):
        bound = float(np.exp(np.mean([np.log(plain.least(model) / remedy.least(model)) for model in models])))
        unpriced = [any(pair[place] is None for pair in medians) for place in (0, 1)]
        return Factor(Estimate(None, None, len(models)), None if all(unpriced) else bound, unpriced[0])
    values = [above / below for above, below in medians]
    rng, logs = np.random.default_rng(seed), np.empty(num_draws)
    for number in range(num_draws):
        drawn = [models[index] for index in rng.integers(len(models), size=len(models))]
        ratios = [_drawn_log_ratio(plain, remedy, model, rng) for model in drawn]
        logs[number] = 0.0 if {np.inf, -np.inf} <= set(ratios) else np.mean(ratios)  # one of each tells nothing
    interval = tuple(float(np.exp(bound)) for bound in np.quantile(logs, [0.025, 0.975], method="inverted_cdf"))
    return Factor(Estimate(float(np.exp(np.mean(np.log(values)))), interval, len(models), tuple(values)))


def _drawn_log_ratio(plain: Prices, remedy: Prices, model: str, rng: np.random.Generator) -> float:
    above, below = (
        prices.median(model, rng.integers(len(runs), size=len(runs)).tolist())
        for prices in (plain, remedy)
        for runs in [prices.by_model[model]]
    )
    if above is None:
        return 0.0 if below is None else np.inf
    return -np.inf if below is None else float(np.log(above / below))


def price_text(prices: Prices, scale: float = 1.0) -> str:
    """Geometric mean over pretraining seeds of the medians, or what it lies above."""
    if not prices.by_model:
        return UNMEASURED
    is_bound = any(prices.median(model) is None for model in prices.by_model)
    mean = np.exp(np.mean([np.log(prices.least(model)) for model in prices.by_model]))
    return f"{'> ' * is_bound}{number_text(float(mean) * scale)}"
