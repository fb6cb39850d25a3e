"""What would it cost to train on? A forecast from a run's own beginning.

A run has spent F FLOPs and gained a share s of the bits that there are to gain on held-out problems. What it pays until it has half of them, and keeps them, is forecast
as log-normal around `F * 0.5 / s * factor`; the smaller the share, the wider. The factor and the width stand in calibration.json, which `python -m eval.studies.forecast calibrate` makes
from recorded runs. Knowing the pass rate, its spread, the learning rate or the reason of a low pass rate as well changed little at starts that were left out (the study's record).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy import stats

from bitsample_llm.records import RecordError, Run
from bitsample_llm.report.checks import check_reported
from bitsample_llm.report.metered import with_names
from bitsample_llm.report.prices import HALF, PricedRun, priced_run

CALIBRATION = Path(__file__).with_name("calibration.json")
LEAST_SHARE = 0.03  # a smaller gain says no more than that there is little; below it the noise of a held-out set begins
TYPICAL_SHARE = math.exp(-2)  # at which a law's `log_sd` holds
INTERVAL = 0.8
LEARNS_FROM = {"sft": "labels", "rl": "rollouts"}  # by the regime of a run
KNOWN_LOG_SD = 1e-12  # of a price that was seen: between two evaluations, and not yet known to be kept
NUM_DRAWS = 20_000  # of a ratio or a difference of two forecasts


@dataclass(frozen=True)
class Law:
    """How the price of half of the bits follows from a beginning; logs are natural.

    Attributes:
        log_factor: mean of ln(price / (F * 0.5 / s)).
        log_sd: its standard deviation where the share is `TYPICAL_SHARE`.
        log_sd_slope: by how much ln(log_sd) changes with ln(share).
    """

    log_factor: float
    log_sd: float
    log_sd_slope: float

    def sd(self, share: float) -> float:
        """Standard deviation of the logarithm after a beginning with this share."""
        return self.log_sd * math.exp(self.log_sd_slope * math.log(max(share, LEAST_SHARE) / TYPICAL_SHARE))


@dataclass(frozen=True)
class Beginning:
    """The first updates of a run.

    Attributes:
        share: of the available bits that is gained; negative where bits were lost.
        flops_to_half: where half of them is gained, what was spent until an evaluation found it; else None.
    """

    updates: float
    samples: float
    flops: float
    share: float
    flops_to_half: float | None

    @property
    def log_extrapolated(self) -> float:
        """ln of the FLOPs to half of the bits if every further bit cost what the first ones did."""
        return math.log(self.flops * HALF.share / max(self.share, LEAST_SHARE))


@dataclass(frozen=True)
class Forecast:
    """FLOPs to half of the available bits: log-normal, and at least what was spent without getting there.

    Attributes:
        least: FLOPs that were not enough.
        samples_per_flop: of the run so far.
    """

    log_median: float
    log_sd: float
    least: float
    samples_per_flop: float

    def quantile(self, probability: float) -> float:
        """FLOPs that are enough with this probability."""
        return max(self.least, math.exp(self.log_median + self.log_sd * stats.norm.ppf(probability)))

    @property
    def median(self) -> float:
        """FLOPs that are enough in one case of two."""
        return self.quantile(0.5)

    @property
    def interval(self) -> tuple[float, float]:
        """The middle 80 % of the FLOPs."""
        return self.quantile((1 - INTERVAL) / 2), self.quantile((1 + INTERVAL) / 2)

    def probability_within(self, flops: float) -> float:
        """That so many FLOPs, the beginning's included, are enough."""
        if flops < self.least:
            return 0.0
        return float(stats.norm.cdf((math.log(flops) - self.log_median) / self.log_sd))

    def draws(self, rng: np.random.Generator) -> np.ndarray:
        """FLOPs at random (NUM_DRAWS)."""
        return np.maximum(self.least, np.exp(rng.normal(self.log_median, self.log_sd, NUM_DRAWS)))


def beginning_of(run: PricedRun, most_updates: float = math.inf) -> Beginning | None:
    """The run until its last evaluation after at most so many updates; None where there was none after the start."""
    index = int(np.searchsorted(run.updates, most_updates, side="right")) - 1
    if index < 1:
        return None
    shares = [(value - run.log2_p[0]) / run.available_bits for value in run.log2_p[: index + 1]]
    to_half = None
    if shares[-1] >= HALF.share:
        to_half = next(flops for flops, share in zip(run.flops, shares, strict=False) if share >= HALF.share)
    return Beginning(run.updates[index], run.samples[index], run.flops[index], shares[-1], to_half)


@cache
def calibration() -> dict:
    """What the forecasts were fitted on, how good they were at starts that were left out, and the laws."""
    return json.loads(CALIBRATION.read_text())


def law_of(kind: str) -> Law:
    """The law of runs that learn from `labels` or from `rollouts`."""
    return Law(**calibration()["laws"][kind])


def forecast_of(beginning: Beginning, law: Law) -> Forecast:
    """What half of the available bits will have cost; where they are there, what they did cost."""
    samples_per_flop = beginning.samples / beginning.flops
    if beginning.flops_to_half is not None:
        return Forecast(math.log(beginning.flops_to_half), KNOWN_LOG_SD, 0.0, samples_per_flop)
    median = beginning.log_extrapolated + law.log_factor
    return Forecast(median, law.sd(beginning.share), beginning.flops, samples_per_flop)


@dataclass(frozen=True)
class Money:
    """What a FLOP costs, and the unit of costs: FLOPs themselves where no price is named."""

    per_flop: float
    unit: str

    @classmethod
    def of(cls, gpu_hour_price: float | None, gpu_flops_per_second: float | None) -> "Money":
        """From the price of an hour of a GPU and the FLOPs per second that a training reaches on it."""
        if gpu_hour_price is None or gpu_flops_per_second is None:
            return cls(1.0, "FLOPs")
        return cls(gpu_hour_price / (3600 * gpu_flops_per_second), "money")


@dataclass(frozen=True)
class ShortRun:
    """A run that has begun, and what that says of its price."""

    run: Run
    kind: str  # of what it learns from: `labels` or `rollouts`
    beginning: Beginning
    forecast: Forecast
    learning_rate: float | None

    def fields(self, flop_budget: float | None) -> dict:
        """What the plan says of it; the probability is that of half of the bits within a budget."""
        forecast, scale = self.forecast, self.forecast.samples_per_flop
        return {
            "run": str(self.run.run_dir),
            "arm": self.run.manifest["arm"],
            "learns_from": self.kind,
            "learning_rate": self.learning_rate,
            "updates": self.beginning.updates,
            "samples": self.beginning.samples,
            "flops": self.beginning.flops,
            "share_gained": self.beginning.share,
            "flops_to_half": {"median": forecast.median, "interval": list(forecast.interval)},
            "samples_to_half": {"median": forecast.median * scale, "interval": [bound * scale for bound in forecast.interval]},
            "probability_within_budget": None if flop_budget is None else forecast.probability_within(flop_budget),
        }


def short_run(run: Run) -> ShortRun:
    """What a run forecasts of itself.

    Raises:
        RecordError: if it was not scored after its first update, has no exact pass rates, or learns from something else than labels or rewards.
    """
    check_reported(run)
    if run.manifest["regime"] not in LEARNS_FROM:
        raise RecordError(
            f"{run.run_dir} learns from {run.manifest['regime']}, of which no forecast was ever checked: name a run of SFT or of RL"
        )
    run = with_names(run)
    priced = priced_run(run)
    beginning = beginning_of(priced)
    if beginning is None:
        raise RecordError(f"{run.run_dir} was not scored on held-out problems after its first update: let it run longer")
    kind = LEARNS_FROM[run.manifest["regime"]]
    return ShortRun(run, kind, beginning, forecast_of(beginning, law_of(kind)), priced.settings.get("learning_rate"))


def label_price(labels: Forecast, rollouts: Forecast, label_cost: float | None, money: Money) -> dict:
    """What a label may cost: below it half of the bits is cheaper by labels, above it by rollouts; median and the middle 80 %, and with a
    `label_cost` the probability that rollouts are cheaper at that.

    Negative where labels take more FLOPs than rollouts: rollouts are cheaper then even if labels are free.
    """
    rng = np.random.default_rng(0)
    from_labels = labels.draws(rng)
    prices = (rollouts.draws(rng) - from_labels) / (from_labels * labels.samples_per_flop) * money.per_flop
    low, median, high = np.quantile(prices, [(1 - INTERVAL) / 2, 0.5, (1 + INTERVAL) / 2])
    cheaper = None if label_cost is None else float((prices < label_cost).mean())
    bounds = {"median": float(median), "interval": [float(low), float(high)]}
    return bounds | {"unit": money.unit, "label_cost": label_cost, "probability_rollouts_cheaper": cheaper}


def training_costs(
    short_runs: Sequence[ShortRun], flop_budget: float | None, label_cost: float | None, money: Money
) -> dict | None:
    """What the plan says of the short runs: each one's forecast, what a label may cost between the cheapest of either kind, and how good such forecasts
    were. None without short runs.
    """
    if not short_runs:
        return None
    best = {
        kind: min((one.forecast for one in short_runs if one.kind == kind), key=lambda forecast: forecast.median, default=None)
        for kind in ("labels", "rollouts")
    }
    both = None not in best.values()
    return {
        "short_runs": [one.fields(flop_budget) for one in short_runs],
        "flop_budget": flop_budget,
        "label_price": label_price(best["labels"], best["rollouts"], label_cost, money) if both else None,
        "scores": calibration()["scores"],
        "made_by": calibration()["made_by"],
    }
