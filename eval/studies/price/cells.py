"""The statistics of README.md: what a cell, one arm at one start, pays for a target, and what two cells pay compared with each other."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bitsample_llm.report.estimates import UNKNOWN, Estimate, number_text, ratio_over_seeds
from bitsample_llm.report.gains import essay_rate
from bitsample_llm.report.prices import PricedRun, Target, median_price

RL = ("grpo", "rloo", "reinforce")  # of the headline cells
OTHER = ("dr_grpo", "rejection", "exact")
SGD = ("rloo_sgd", "reinforce_sgd")  # compared with SFT by plain SGD, sft_sgd
STEPS = 32  # of the mean over the way to a target


@dataclass(frozen=True)
class Cell:
    """The runs of one arm at one rung, by pretraining seed."""

    rung: str
    arm: str
    runs: dict[str, list[PricedRun]]

    @property
    def first(self) -> PricedRun:
        """Any of its runs; they differ in their seeds."""
        return next(iter(self.runs.values()))[0]

    @property
    def reason(self) -> str:
        """Why the pass rate is below 1."""
        return self.first.tags["reason"]

    @property
    def num_runs(self) -> int:
        """Of all pretraining seeds."""
        return sum(map(len, self.runs.values()))

    def p(self, model: str) -> np.ndarray:
        """Pass rates of the held-out problems before training."""
        return self.runs[model][0].pass_rates_before

    @property
    def mean_pass_rate(self) -> float:
        """Mean over problems and pretraining seeds."""
        return float(np.mean([self.p(model).mean() for model in self.runs]))

    def has_before(self, target: Target) -> bool:
        """Whether the target holds before training at one of the pretraining seeds."""
        return any(runs[0].has_before(target) for runs in self.runs.values())

    def price(self, model: str, target: Target, amount: str = "flops") -> float | None:
        """Kaplan-Meier median over the training seeds of one pretraining seed; None where fewer than half are known to have got there."""
        return median_price([run.price(target, amount) for run in self.runs[model]])

    def prices(self, target: Target, amount: str = "flops") -> Estimate:
        """Geometric mean over pretraining seeds, all of which must have a price."""
        return complete([self.price(model, target, amount) for model in self.runs])

    def bound(self, target: Target, amount: str = "flops") -> float:
        """What the price is above, where it is not measured: with the most that was seen in place of each median that is not known."""
        least = []
        for runs in self.runs.values():
            prices = [run.price(target, amount) for run in runs]
            least.append(median_price(prices) or max(value for value, _ in prices))
        return float(np.exp(np.mean(np.log(least))))

    def price_text(self, target: Target, amount: str = "flops", scale: float = 1.0) -> str:
        """The price with its interval, or what it is above."""
        if self.has_before(target):
            return "before training"
        estimate = self.prices(target, amount)
        return f"> {number_text(self.bound(target, amount) * scale)}" if estimate.mean is None else estimate.text(scale)

    def variances(self, target: Target) -> tuple[float, float]:
        """Variance of log FLOPs between the pretraining seeds' means and, mean over them, within; of runs that got there."""
        logs = [
            [math.log(price) for run in runs for price, is_reached in [run.price(target)] if is_reached]
            for runs in self.runs.values()
        ]
        means = [np.mean(of_model) for of_model in logs if of_model]
        within = [np.var(of_model, ddof=1) for of_model in logs if len(of_model) > 1]
        between = float(np.var(means, ddof=1)) if len(means) > 1 else math.nan
        return between, float(np.mean(within)) if within else math.nan


def complete(values: Sequence[float | None]) -> Estimate:
    """Geometric mean with its t interval, if every value is known: those that are would be no fair sample of all."""
    return UNKNOWN if None in values else ratio_over_seeds(values)


def cells_of(runs: Sequence[PricedRun]) -> dict[tuple[str, str], Cell]:
    """(rung, arm) -> cell, latent rungs first, by falling pass rate."""
    grouped: dict[tuple[str, str], dict[str, list[PricedRun]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs, key=lambda run: (run.model, run.seed)):
        grouped[run.rung, run.arm][run.model].append(run)
    cells = [Cell(*place, dict(by_model)) for place, by_model in grouped.items()]
    return {(cell.rung, cell.arm): cell for cell in sorted(cells, key=lambda cell: (cell.reason, -cell.mean_pass_rate))}


def ratio(above: Cell, below: Cell, target: Target, amount: str = "flops") -> Estimate:
    """Price of one arm over that of another from the same starts, over pretraining seeds."""
    pairs = [
        (above.price(model, target, amount), below.price(model, target, amount)) for model in above.runs if model in below.runs
    ]
    return complete([a / b if a and b else None for a, b in pairs])


# ---- what rollouts per label should be -------------------------------------------------------------------------------


def rollouts_per_informative_update(rl: Cell, p_P: np.ndarray) -> float:
    """Rollouts until an update has an advantage that is not zero: a pass without a baseline, else a group of both verdicts."""
    per_update, group_size = (rl.first.settings[name] for name in ("per_device_train_batch_size", "num_generations"))
    informative_P = 1 - (1 - p_P) ** group_size - (0 if rl.arm.startswith("reinforce") else p_P**group_size)
    return float(per_update / (1 - (1 - informative_P.mean()) ** (per_update / group_size)))


def updates_ratio(rl: Cell, sft: Cell, p_P: np.ndarray) -> float:
    """Rollouts per informative update over labels per update."""
    return rollouts_per_informative_update(rl, p_P) / sft.first.settings["per_device_train_batch_size"]


def rates_ratio(rl: Cell, sft: Cell) -> float:
    """Learning rate of SFT over that of RL."""
    return sft.first.settings["learning_rate"] / rl.first.settings["learning_rate"]


Form = Callable[[Cell, Cell, np.ndarray], float]  # arms of RL and SFT, pass rates of the held-out problems
AT_THE_START: dict[str, Form] = {
    "1/p": lambda rl, sft, p_P: 1 / float(p_P.mean()),
    "essay, -log2 p / H(p)": lambda rl, sft, p_P: essay_rate(p_P),
    "rollouts per informative update": updates_ratio,
    "the same times the ratio of rates": lambda rl, sft, p_P: updates_ratio(rl, sft, p_P) * rates_ratio(rl, sft),
}


def on_the_way(form: Form, rl: Cell, sft: Cell, p_P: np.ndarray, share: float) -> float:
    """Mean of a form over the way to a share of the bits, in equal steps of log p, by which the pass rates rise. With one pass rate p, 1/p
    becomes the logarithmic mean of its values at both ends.
    """
    steps = (np.arange(STEPS) + 0.5) / STEPS * share
    return float(np.mean([form(rl, sft, p_P ** (1 - step)) for step in steps]))


# Name -> value for the arms of RL and SFT, the pass rates before training and the share of the bits that is the target.
FORMS: dict[str, Callable[[Cell, Cell, np.ndarray, float], float]] = {
    name: lambda rl, sft, p_P, share, form=form: form(rl, sft, p_P) for name, form in AT_THE_START.items()
} | {f"{name}, on the way": partial(on_the_way, form) for name, form in AT_THE_START.items()}


@dataclass(frozen=True)
class Point:
    """Rollouts per label of one arm of RL at one start."""

    rl: Cell
    sft: Cell
    model: str
    target: Target
    rollouts_per_label: float

    @property
    def p(self) -> np.ndarray:
        """Pass rates of the held-out problems before training."""
        return self.rl.p(self.model)


def points_of(cells: dict[tuple[str, str], Cell], target: Target) -> list[Point]:
    """All starts at which both arms have a price."""
    points = []
    for (rung, arm), rl in cells.items():
        sft = cells.get((rung, "sft"))
        if arm not in RL or sft is None or rl.has_before(target):
            continue
        for model in rl.runs:
            paid = rl.price(model, target, "samples"), sft.price(model, target, "samples") if model in sft.runs else None
            if all(paid):
                points.append(Point(rl, sft, model, target, paid[0] / paid[1]))
    return points


def form_errors(points: Sequence[Point]) -> dict[str, tuple[float, int]]:
    """Form -> root mean square log error and number of starts. Null models are fitted to the points of all other pretraining seeds: a
    constant, a line in the log of the ratio of learning rates, the reason's own constant.
    """
    errors: dict[str, list[float]] = defaultdict(list)
    for point in points:
        log_rate = math.log(point.rollouts_per_label)
        for name, form in FORMS.items():
            errors[name].append(log_rate - math.log(form(point.rl, point.sft, point.p, point.target.share)))
        others = [other for other in points if other.model != point.model]
        logs = [math.log(other.rollouts_per_label) for other in others]
        same = [log for other, log in zip(others, logs, strict=True) if other.rl.reason == point.rl.reason]
        if others:
            errors["null: a constant"].append(log_rate - float(np.mean(logs)))
        if same:
            errors["null: the reason"].append(log_rate - float(np.mean(same)))
        x = [math.log(rates_ratio(other.rl, other.sft)) for other in others]
        if len(set(x)) > 1:
            line = np.polyfit(x, logs, 1)
            errors["null: the learning rates"].append(
                log_rate - float(np.polyval(line, math.log(rates_ratio(point.rl, point.sft))))
            )
    return {name: (float(np.sqrt(np.mean(np.square(values)))), len(values)) for name, values in errors.items()}
