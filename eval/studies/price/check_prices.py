"""Of the second program for the price study (check.py): runs, prices, intervals."""

import json
import math
from collections import defaultdict
from functools import cache

import numpy as np
import pyarrow.parquet
from scipy import stats

TARGETS = {"half of the bits": ("bits", 0.5), "90 % of the bits": ("bits", 0.9), "p = .5": ("p", 0.5), "p = .9": ("p", 0.9)}
HALF, NINETY = TARGETS["half of the bits"], TARGETS["90 % of the bits"]
HEADLINE = ("90 % of the bits", NINETY), ("half of the bits", HALF)
RL = "grpo", "rloo", "reinforce"
LEARNERS = *RL, "dr_grpo", "rejection"
ORDER = "sft", *LEARNERS, "exact"
UNITS = "flops", "samples", "updates"
ELSEWHERE = "shifted", "other_operation", "other_format"  # one digit more, another operation, another format
READINGS = {
    "evaluation": "README's words: censored at the last evaluation up to a third of what was spent",
    "third": "censored at a third of what was spent",
    "interpolated": "kept until three times the interpolated price, not three times the evaluation's",
}
DRAWS = 300

# Runs and prices


def read_runs(folder):
    runs = []
    for line in pyarrow.parquet.read_table(folder / "lines.parquet").to_pylist():
        run = line | {k: json.loads(line[k] or "{}") for k in ("tags", "settings", "gains_elsewhere")}
        run |= {k: run["tags"].get(k, "unknown") for k in ("rung", "model", "reason")}
        run |= {k: np.array(run[k], dtype=float) for k in (*UNITS, "log2_p", "pass_rate", "kl_bits", "log2_p_before")}
        if "sgd" in run["settings"].get("optim", "") and "sgd" not in run["arm"]:
            run["arm"] += "_sgd"
        if len(run["flops"]) > 1 and not run["tags"].get("part"):  # parts: rollout length and vocabulary, other questions
            runs.append(run)
    return runs


def find_price(run, target, keep, reading):
    """Per unit (what was spent, whether that is a price); where it is none the price is taken to lie above."""
    values, level = run["pass_rate"], target[1]
    if target[0] == "bits":
        values, level = run["log2_p"], (1 - level) * run["log2_p_before"].mean()
    flops = run["flops"]
    for i in range(1, len(values)):
        if values[i - 1] < level <= values[i]:
            # A run that had diverged has no number before: then the evaluation itself is the price.
            part = (level - values[i - 1]) / (values[i] - values[i - 1]) if math.isfinite(values[i - 1]) else 1.0
            spent = {u: run[u][i - 1] + part * (run[u][i] - run[u][i - 1]) for u in UNITS}
            until = keep * (spent["flops"] if reading == "interpolated" else flops[i])
            if until > flops[-1]:  # nobody saw whether it is kept
                break
            if (values[i:][flops[i:] <= until] >= level).all():
                return {u: (max(x, run[u][1] / run["updates"][1]), True) for u, x in spent.items()}  # at least one update
    last = flops[-1] / keep
    last = flops[flops <= last][-1] if reading == "evaluation" else last
    return {u: (float(np.interp(last, flops, run[u])), False) for u in UNITS}


def holds_before(run, target):
    return target[0] == "p" and run["pass_rate"][0] >= target[1]


def kaplan_meier_median(prices):
    """The first time at which no more than half are left, None where that is never seen; what is censored at a time outlives its events."""
    survival, left = 1.0, len(prices)
    for spent, is_price in sorted(prices, key=lambda x: (x[0], not x[1])):
        survival *= 1 - 1 / left if is_price else 1
        if survival <= 0.5 + 1e-12:
            return spent
        left -= 1
    return None


class Study:
    """The runs by cell: the same questions are asked of parts of the runs, and with other readings of README."""

    def __init__(self, runs, reading="evaluation"):
        self.runs, self.reading = runs, reading
        self.cells, starts = defaultdict(lambda: defaultdict(list)), defaultdict(dict)
        for run in runs:
            self.cells[run["rung"], run["arm"]][run["model"]].append(run)
            starts[run["rung"]][run["model"]] = run
        self.p = {rung: float(np.mean([r["pass_rate"][0] for r in models.values()])) for rung, models in starts.items()}
        self.reason = {rung: next(iter(models.values()))["reason"] for rung, models in starts.items()}
        self.starts = {rung: starts[rung] for rung in sorted(starts, key=lambda r: (self.reason[r], -self.p[r]))}
        self.prices, self.logs = cache(self.prices), cache(self.logs)

    def arms(self, rung):
        arms = (a for r, a in self.cells if r == rung)
        return sorted(arms, key=lambda a: (ORDER.index(a) if a in ORDER else len(ORDER), a))

    def prices(self, rung, arm, target, keep=3.0):
        """Pretraining seed -> prices of its runs; nothing where the target holds before at one of them."""
        models = self.cells.get((rung, arm), {})
        if any(holds_before(r, target) for runs in models.values() for r in runs):
            return {}
        return {m: [find_price(r, target, keep, self.reading) for r in runs] for m, runs in models.items()}

    def medians(self, rung, arm, target, unit, keep=3.0):
        return {m: kaplan_meier_median([x[unit] for x in ps]) for m, ps in self.prices(rung, arm, target, keep).items()}

    def price(self, rung, arm, target, unit):
        return interval(math.log(x) if x else None for x in self.medians(rung, arm, target, unit).values())

    def logs(self, rung, arm, target, unit, keep=3.0):
        """Pretraining seed -> log of RL over SFT; None where a median is not reached."""
        sft, learner = (self.medians(rung, a, target, unit, keep) for a in ("sft", arm))
        return {m: math.log(learner[m] / sft[m]) if sft[m] and learner[m] else None for m in sorted(sft.keys() & learner)}

    def ratio(self, rung, arm, target, unit, keep=3.0):
        return interval(self.logs(rung, arm, target, unit, keep).values())

    def places(self):
        return [(rung, arm) for rung in self.starts for arm in self.arms(rung)]

    def cases(self):
        """(rung, arm of RL, target, beginning of a line) of the headline questions, at all rungs."""
        for rung, arm in self.places():
            for name, target in HEADLINE if arm in RL else ():
                yield rung, arm, target, f"  {rung:15} {arm:10} {name:17}"


def mean_and_half(values):
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else math.nan
    return (float(np.mean(values)) if len(values) else math.nan), float(half)


def interval(logs):
    """Geometric mean and its 95 % t interval; None where one of the logs is missing."""
    logs = list(logs)
    if not logs or None in logs:
        return None
    mean, half = mean_and_half(logs)
    return tuple(math.exp(min(mean + x, 700.0)) for x in (0.0, -half, half))


def show(x):
    return f"{'not measured':30}" if x is None else f"{x[0]:9.4g} [{x[1]:8.3g}, {x[2]:8.3g}]"


def short(x):
    return "-" if x is None else f"{x[0]:.3g}"


def verdict(x, margin=1.25):
    if x is None or math.isnan(x[1]):
        return "not measured" if x is None else "one model"
    inside = "the same" if x[1] >= 1 / margin and x[2] <= margin else "open"
    return "more" if x[1] > margin else "less" if x[2] < 1 / margin else inside


def flops_per_sample(study, rung, arm, model):
    """RL over SFT, log, over whole runs, whatever was reached."""
    sft, learner = ([r["flops"][-1] / r["samples"][-1] for r in study.cells[rung, a][model]] for a in ("sft", arm))
    return math.log(np.median(learner) / np.median(sft))
