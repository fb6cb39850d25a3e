"""Prices and their slopes against the length of the answer, by pretraining seed, with a bootstrap in two levels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bitsample_llm.report.estimates import UNMEASURED, Estimate, number_text
from bitsample_llm.report.prices import PricedRun, Target, median_price
from bitsample_llm.report.remedies import NUM_DRAWS
from eval.studies.price.cells import Cell, rollouts_per_informative_update

TOKENS = {"reversed": 4, "restated4": 13, "restated8": 25, "restated16": 49}  # at most, the end included
PROMPT = {4: 7, 13: 9, 25: 10, 49: 11}  # tokens of the prompt by those of the answer
ARMS = ("sft", "grpo", "reinforce")
SAME = "_same"  # at the end of an arm's name: at the one setting for all lengths
SAME_RATE, SMALLEST = 1e-4, {"sft": 1, "grpo": 2, "reinforce": 2}  # learning rate, samples per update
Bounds = tuple[float, float]  # least and most that a log can be


@dataclass(frozen=True)
class Slope:
    """Slope of a log against ln(tokens), the mean over pretraining seeds, and that of each; None where a cell of it has no price."""

    estimate: Estimate
    by_model: dict[str, float | None]

    def text(self) -> str:
        """With its interval, and each pretraining seed's."""
        if self.estimate.mean is None:
            return UNMEASURED
        return f"{self.estimate.text()} ({', '.join(f'{model} {number_text(value)}' for model, value in self.by_model.items())})"


class Lengths:
    """The runs by pretraining seed, tokens of the answer and arm."""

    def __init__(self, runs: Sequence[PricedRun]):
        grouped: dict[tuple[str, int, str], list[PricedRun]] = {}
        for run in sorted(runs, key=lambda run: (run.model, TOKENS[run.settings["answer_format"]], ARMS.index(run.arm), run.seed)):
            grouped.setdefault((run.model, TOKENS[run.settings["answer_format"]], run.arm), []).append(run)
        self.cells = {place: Cell(runs[0].rung, place[2], {place[0]: runs}) for place, runs in grouped.items()}

    @property
    def models(self) -> list[str]:
        """Pretraining seeds."""
        return list(dict.fromkeys(model for model, _, _ in self.cells))

    def tokens(self, model: str) -> list[int]:
        """Lengths that were run from a pretraining seed."""
        return list(dict.fromkeys(tokens for other, tokens, _ in self.cells if other == model))

    def runs(self, model: str, tokens: int, arm: str) -> list[PricedRun]:
        """The runs of a cell, by training seed."""
        return self.cells[model, tokens, arm].runs[model]

    def log_price(self, arm: str, target: Target, amount: str = "flops") -> Callable[..., Bounds]:
        """Of a cell and a draw of its training seeds, least and most that the log of the median price can be."""
        prices = {
            place[:2]: [run.price(target, amount) for run in cell.runs[place[0]]]
            for place, cell in self.cells.items()
            if place[2] == arm
        }
        known: dict[tuple, Bounds] = {}

        def bounds(model: str, tokens: int, indices: Sequence[int] | None = None) -> Bounds:
            paid = prices[model, tokens]
            key = (model, tokens, *(range(len(paid)) if indices is None else sorted(indices)))
            if key not in known:
                drawn = [paid[index] for index in key[2:]]
                median = median_price(drawn)
                least = math.log(np.median([value for value, _ in drawn]) if median is None else median)
                known[key] = (least, math.inf if median is None else least)
            return known[key]

        return bounds

    def log_cost(self, arm: str) -> Callable[..., Bounds]:
        """Of a cell and a draw, the log of the median over its runs of FLOPs per sample."""

        def bounds(model: str, tokens: int, indices: Sequence[int] | None = None) -> Bounds:
            runs = self.runs(model, tokens, arm)
            chosen = runs if indices is None else [runs[index] for index in indices]
            return (math.log(np.median([run.flops[-1] / run.samples[-1] for run in chosen])),) * 2

        return bounds

    def slope(
        self,
        above: tuple[str, Callable],
        below: tuple[str, Callable] | None = None,
        less: Callable[[str, int], float] = lambda model, tokens: 0.0,
    ) -> Slope:
        """Slope of what `above` says of an arm, less what `below` says of another, less a number of each cell. The interval: pretraining seeds are drawn
        anew, and training seeds of each cell by themselves; a price that a draw does not know widens it without end on its own side.
        """

        def of_model(model: str, rng: np.random.Generator | None) -> Bounds:
            lows, highs = [], []
            for tokens in self.tokens(model):
                ends = []
                for arm, bounds in (above, *([below] if below else [])):
                    num = len(self.runs(model, tokens, arm))
                    ends.append(bounds(model, tokens, None if rng is None else rng.integers(num, size=num).tolist()))
                (low, high), (other_low, other_high) = ends[0], ends[1] if below else (0.0, 0.0)
                lows.append(low - other_high - less(model, tokens))
                highs.append(high - other_low - less(model, tokens))
            return slope_bounds(self.tokens(model), lows, highs)

        by_model = {model: low if low == high else None for model in self.models for low, high in [of_model(model, None)]}
        if None in by_model.values():
            return Slope(Estimate(None, None, len(by_model)), by_model)
        rng = np.random.default_rng(0)
        draws = [
            [of_model(self.models[index], rng) for index in rng.integers(len(by_model), size=len(by_model))]
            for _ in range(NUM_DRAWS)
        ]
        lows, highs = np.array(draws).mean(axis=1).T
        ends = (np.quantile(lows, 0.025, method="inverted_cdf"), np.quantile(highs, 0.975, method="inverted_cdf"))
        mean = float(np.mean(list(by_model.values())))
        return Slope(Estimate(mean, tuple(map(float, ends)), len(by_model), tuple(by_model.values())), by_model)

    def log_ratio(self, model: str, tokens: int, arm: str, target: Target, amount: str = "flops") -> float | None:
        """ln of the price of an arm over that of SFT."""
        paid = [self.cells[model, tokens, name].price(model, target, amount) for name in (arm, "sft")]
        return math.log(paid[0] / paid[1]) if None not in paid else None

    def ratio_interval(self, model: str, tokens: int, arm: str, target: Target) -> tuple[float, float]:
        """95 % interval of the ratio of FLOPs by a bootstrap over the training seeds of both arms."""
        sides, rng = [self.log_price(name, target) for name in (arm, "sft")], np.random.default_rng(0)
        sizes = [len(self.runs(model, tokens, name)) for name in (arm, "sft")]
        draws = [
            [bounds(model, tokens, rng.integers(num, size=num).tolist()) for bounds, num in zip(sides, sizes, strict=True)]
            for _ in range(NUM_DRAWS // 5)
        ]
        lows, highs = zip(*((rl[0] - sft[1], rl[1] - sft[0]) for rl, sft in draws), strict=True)
        return tuple(float(np.exp(np.quantile(ends, q, method="inverted_cdf"))) for ends, q in ((lows, 0.025), (highs, 0.975)))

    def informative(self, model: str, tokens: int, arm: str) -> float:
        """ln of the rollouts until an update informs, before training."""
        cell = self.cells[model, tokens, arm]
        return math.log(rollouts_per_informative_update(cell, cell.p(model)))


def at_one_setting(runs: Sequence[PricedRun]) -> list[PricedRun]:
    """The runs of the one setting under the names of their arms: those of its own arms, and those of cells for which the search chose it."""

    def is_it(run: PricedRun) -> bool:
        arm, settings = run.arm.removesuffix(SAME), run.settings
        return (settings["learning_rate"], settings["per_device_train_batch_size"]) == (SAME_RATE, SMALLEST[arm])

    return [replace(run, arm=run.arm.removesuffix(SAME)) for run in runs if is_it(run)]


def slope_bounds(tokens: Sequence[int], lows: Sequence[float], highs: Sequence[float]) -> Bounds:
    """Least and most that the slope against ln(tokens) can be, for values between their bounds.

    >>> slope_bounds([1, 10], [0.0, 0.0], [0.0, math.inf])
    (0.0, inf)
    """
    x = np.log(tokens) - np.mean(np.log(tokens))
    weights = x / np.sum(x**2)
    ends = [
        float(sum(w * (one if w > 0 else other) for w, one, other in zip(weights, first, second, strict=True)))
        for first, second in ((lows, highs), (highs, lows))
    ]
    return ends[0], ends[1]
