"""The numbers of a run that reports show, each declared once: its name, unit, heading, definition, and how it is computed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bitsample_llm.records.glossary import TRAINING_PHASES
from bitsample_llm.report.curve import Curve, evaluated_curve

if TYPE_CHECKING:
    from bitsample_llm.report.runs import MeasuredRun

PETA = 1e15
TARGET_BITS = 1.0  # the gain whose price in samples and FLOPs is compared, where the run names no other
Value = Callable[["MeasuredRun"], float | None]


@dataclass(frozen=True)
class Column:
    """A number of a run. `value` gives None or NaN where it was not measured."""

    name: str
    unit: str
    heading: str
    definition: str
    value: Value

    @property
    def titled(self) -> str:
        """The heading with its unit."""
        return self.heading if self.unit == "1" else f"{self.heading} ({self.unit})"

    @property
    def scale(self) -> float:
        """What turns the value into the unit of the heading: FLOPs are computed and GFLOP are shown."""
        return 1e-9 if self.unit == "GFLOP" else 1.0


# ---- places on a curve -----------------------------------------------------------------------------------------------


def first_crossing(x: np.ndarray, y: np.ndarray, level: float) -> float | None:
    """x at which the piecewise linear y first reaches `level`; None if it never does.

    >>> first_crossing(np.array([0.0, 10.0]), np.array([0.0, 4.0]), 1.0)
    2.5
    """
    above = np.flatnonzero(y >= level)
    if not above.size:
        return None
    index = int(above[0])
    if index == 0:
        return float(x[0])
    share = (level - y[index - 1]) / (y[index] - y[index - 1])
    return float(x[index - 1] + share * (x[index] - x[index - 1]))


def mean_over_log(x: np.ndarray, y: np.ndarray) -> float:
    """Mean of the piecewise linear y over the logarithm of x, from 1/256 of the last x to the last.

    A score of a whole learning curve: early gains count, and so do later losses.

    >>> round(mean_over_log(np.array([0.0, 1.0, 256.0]), np.array([0.0, 3.0, 3.0])), 6)
    3.0
    """
    grid = np.geomspace(x[-1] / 256, x[-1], 257)
    return float(np.trapezoid(np.interp(grid, x, y), np.log(grid)) / np.log(256))


def cumulative_at(run: "MeasuredRun", key: str, flops: float) -> float | None:
    """A cumulative metric of the records when the run had cost `flops`, linear between steps; None where not measured."""
    steps = run.run.steps
    if key == "flops/total" or steps[-1].get(key) is None:
        return flops if key == "flops/total" else None
    spent = [float(run.curve.flops[0]), *[line["flops/total"] for line in steps]]
    return float(np.interp(flops, spent, [0.0, *[line[key] for line in steps]]))


def _flops_at(run: "MeasuredRun", gain_bits: float) -> float | None:
    known = ~np.isnan(run.curve.absorbed_bits)
    return first_crossing(run.curve.flops[known], run.curve.absorbed_bits[known], gain_bits)


def flops_before_saturation(run: "MeasuredRun") -> float:
    """FLOPs until half of the available bits were absorbed; all of the run's where they never were."""
    return _flops_at(run, run.curve.available_bits / 2) or run.run.steps[-1]["flops/total"]


# ---- ways to compute a column ----------------------------------------------------------------------------------------


def _last(key: str) -> Value:
    """A metric of the last step."""
    return lambda run: run.run.steps[-1].get(key)


def _mean(key: str) -> Value:
    """Mean of a metric over the steps that have it."""

    def value(run: "MeasuredRun") -> float | None:
        values = [line[key] for line in run.run.steps if line.get(key) is not None]
        return float(np.mean(values)) if values else None

    return value


def _before_saturation(key: str, per: str, scale: float = 1.0) -> Value:
    """One cumulative metric over another, until half of the available bits were absorbed: later samples say nothing of the rate."""

    def value(run: "MeasuredRun") -> float | None:
        amount, divisor = (cumulative_at(run, name, flops_before_saturation(run)) for name in (key, per))
        return None if amount is None else amount / divisor * scale

    return value


def _flops_to_target(run: "MeasuredRun") -> float | None:
    """Linear between evaluations; at least the FLOPs of the first update, which is the least that can be bought."""
    crossing = _flops_at(run, run.value(TARGET))
    return None if crossing is None else max(crossing, run.run.steps[0]["flops/total"])


def _at_target(key: str) -> Value:
    """A cumulative metric when the target was reached."""

    def value(run: "MeasuredRun") -> float | None:
        flops = run.value(FLOPS_TO_TARGET)
        return None if flops is None else cumulative_at(run, key, flops)

    return value


def _over_problems(of: Callable[[np.ndarray], float]) -> Value:
    """A statistic of the problems' gains, which single problems have where pass rates are exact."""

    def value(run: "MeasuredRun") -> float | None:
        return None if run.curve.is_sampled else float(of(run.curve.log2_p_TP[-1] - run.curve.log2_p_TP[0]))

    return value


def _surprisal(index: int, is_sampled: bool) -> Value:
    """Mean surprisal of the answers at an evaluation, of runs whose pass rates are sampled (of the reference answer) or are not."""
    return lambda run: float(run.curve.surprisal_bits[index]) if run.curve.is_sampled == is_sampled else None


def _on(split: str, of: Callable[[Curve], float]) -> Value:
    """A number of the curve of another evaluation set."""

    def value(run: "MeasuredRun") -> float | None:
        is_measured = split in run.run.table("evals")["split"].unique().to_pylist()
        return float(of(evaluated_curve(run.run, split))) if is_measured else None

    return value


def _absorbed(run: "MeasuredRun") -> float:
    return float(run.curve.absorbed_bits[-1])


def _rate_before_saturation(run: "MeasuredRun") -> float:
    half = run.curve.available_bits / 2
    absorbed = half if _flops_at(run, half) else _absorbed(run)
    return absorbed / flops_before_saturation(run) * PETA


def _pass_rate_bits(run: "MeasuredRun") -> float | None:
    if run.curve.is_sampled:
        return _absorbed(run)  # the same thing there
    before, after = run.curve.pass_rate[[0, -1]]
    return math.log2(after / before) if before and after else None


def _events_per_thousand_passes(run: "MeasuredRun") -> float | None:
    last = run.run.steps[-1]
    samples, tokens = last["samples/total"], last.get("tokens/completion")
    if tokens is None or (run.regime == "sft" and last["flops/decode"]):  # labels that rollouts were searched for
        return None
    return 1000 * samples / (samples + tokens * (run.regime != "sft"))


# ---- columns ---------------------------------------------------------------------------------------------------------

GLOSSARY = {  # name: unit, heading, definition
    "total_flops": ("GFLOP", "FLOPs", "executed training FLOPs, rollouts included"),
    "total_seconds": ("s", "time", "wall clock of training, evaluation left out"),
    "samples": ("1", "samples", "labels (passing rollouts where these are the labels) or rollouts that were trained on"),
    "updates": ("1", "updates", "optimizer steps"),
    "offered_bits_per_sample": (
        "bits",
        "offered bits per sample",
        "surprisal of a label, H(p) of a rollout; mean over samples until half of the available held-out bits were absorbed (all "
        "samples where they never were); not measured where the reward is not the verdict",
    ),
    "offered_bits_per_petaflop": (
        "bits / PFLOP",
        "offered bits per PFLOP",
        "sum of the offered bits over FLOPs, of the same samples",
    ),
    "offered_bits_per_second": ("bits / s", "offered bits per second", "of the same samples, on the wall clock of training"),
    "absorbed_bits": (
        "bits",
        "absorbed bits",
        "mean over held-out problems of log2 p after - log2 p before; where pass rates come from rollouts, log2 of the ratio of "
        "their means",
    ),
    "absorbed_bits_median": ("bits", "median", "median over held-out problems"),
    "absorbed_bits_gains": ("bits", "gains", "mean over held-out problems, those that lost counted as 0"),
    "absorbed_bits_losses": ("bits", "losses", "mean over held-out problems, those that gained counted as 0"),
    "absorbed_bits_per_petaflop": ("bits / PFLOP", "absorbed bits per PFLOP", "absorbed bits over all training FLOPs"),
    "absorbed_bits_per_second": ("bits / s", "absorbed bits per second", "absorbed bits over the wall clock of training"),
    "unsaturated_bits_per_petaflop": (
        "bits / PFLOP",
        "absorbed bits per PFLOP before saturation",
        "up to the point where half of the available bits are absorbed, so that a saturated run shows its rate",
    ),
    "pass_rate_before": ("1", "pass rate before", "mean over held-out problems"),
    "pass_rate_after": ("1", "pass rate after", "the same after training"),
    "pass_rate_bits": ("bits", "pass-rate bits", "log2 of the ratio of the two means"),
    "surprisal_bits_before": ("bits", "surprisal before", "mean over held-out problems of -log2 of the probability of the answer"),
    "surprisal_bits_after": ("bits", "surprisal after", "the same after training"),
    "absorbed_bits_over_log_flops": (
        "bits",
        "curve score",
        "absorbed bits averaged over the log of the FLOPs; what settings were tuned for",
    ),
    "reference_surprisal_bits_before": (
        "bits",
        "surprisal of the reference answer before",
        "the same of one of several answers that pass",
    ),
    "reference_surprisal_bits_after": ("bits", "surprisal of the reference answer after", "the same after training"),
    "flops_to_target": ("GFLOP", "FLOPs to the target", "at which the held-out gain first reached the target"),
    "target_bits": ("bits", "target", "held-out gain whose price is compared"),
    "updates_to_target": ("1", "updates to the target", "optimizer steps until then"),
    "samples_to_target": ("1", "samples to the target", "labels or rollouts until then"),
    "dead_group_flops_fraction": ("1", "share of FLOPs in dead groups", "groups whose rewards are all equal"),
    "informative_group_fraction": ("1", "informative groups", "share of groups whose rewards are not all equal, mean over steps"),
    "informative_group_fraction_predicted": (
        "1",
        "informative groups, predicted",
        "1 - p^G - (1-p)^G from the pass rates of the prompts",
    ),
    "update_norm": ("1", "norm of the update", "how far the weights moved"),
    "samples_per_petaflop": (
        "1 / PFLOP",
        "samples per PFLOP",
        "samples over FLOPs, until half of the available held-out bits were absorbed",
    ),
    "useful_share": ("1", "useful share of FLOPs", "real, distinct tokens with causal attention only"),
    "feedback_per_thousand_passes": (
        "1",
        "labels or verdicts per 1,000 forward passes",
        "a label takes one pass; a rollout one for each of its tokens and one to train on it",
    ),
}


def _column(name: str, value: Value) -> Column:
    return Column(name, *GLOSSARY[name], value)


TOTAL_FLOPS = _column("total_flops", _last("flops/total"))
TOTAL_SECONDS = _column("total_seconds", _last("seconds/total"))
SAMPLES = _column("samples", _last("samples/total"))
UPDATES = _column("updates", lambda run: float(run.run.steps[-1]["step"]))
OFFERED_PER_SAMPLE = _column("offered_bits_per_sample", _before_saturation("bits/offered_total", "samples/total"))
OFFERED_PER_PETAFLOP = _column("offered_bits_per_petaflop", _before_saturation("bits/offered_total", "flops/total", PETA))
OFFERED_PER_SECOND = _column("offered_bits_per_second", _before_saturation("bits/offered_total", "seconds/total"))
ABSORBED_BITS = _column("absorbed_bits", _absorbed)
ABSORBED_MEDIAN = _column("absorbed_bits_median", _over_problems(np.median))
ABSORBED_GAINS = _column("absorbed_bits_gains", _over_problems(lambda gains: np.maximum(gains, 0).mean()))
ABSORBED_LOSSES = _column("absorbed_bits_losses", _over_problems(lambda gains: np.minimum(gains, 0).mean()))
ABSORBED_PER_PETAFLOP = _column("absorbed_bits_per_petaflop", lambda run: _absorbed(run) / run.value(TOTAL_FLOPS) * PETA)
ABSORBED_PER_SECOND = _column("absorbed_bits_per_second", lambda run: _absorbed(run) / run.value(TOTAL_SECONDS))
RATE_BEFORE_SATURATION = _column("unsaturated_bits_per_petaflop", _rate_before_saturation)
PASS_RATE_BEFORE = _column("pass_rate_before", lambda run: float(run.curve.pass_rate[0]))
PASS_RATE_AFTER = _column("pass_rate_after", lambda run: float(run.curve.pass_rate[-1]))
PASS_RATE_BITS = _column("pass_rate_bits", _pass_rate_bits)
SURPRISAL_BEFORE = _column("surprisal_bits_before", _surprisal(0, is_sampled=False))
SURPRISAL_AFTER = _column("surprisal_bits_after", _surprisal(-1, is_sampled=False))
# NaN where an evaluation has no value
CURVE_SCORE = _column("absorbed_bits_over_log_flops", lambda run: mean_over_log(run.curve.flops, run.curve.absorbed_bits))
REFERENCE_SURPRISAL_BEFORE = _column("reference_surprisal_bits_before", _surprisal(0, is_sampled=True))
REFERENCE_SURPRISAL_AFTER = _column("reference_surprisal_bits_after", _surprisal(-1, is_sampled=True))
FLOPS_TO_TARGET = _column("flops_to_target", _flops_to_target)
TARGET = _column("target_bits", lambda run: run.run.manifest.get("config", {}).get("study", {}).get("target_bits") or TARGET_BITS)
UPDATES_TO_TARGET = _column("updates_to_target", _at_target("step"))
SAMPLES_TO_TARGET = _column("samples_to_target", _at_target("samples/total"))
DEAD_SHARE = _column("dead_group_flops_fraction", _last("flops/dead_group_fraction"))
INFORMATIVE = _column("informative_group_fraction", _mean("group/informative_fraction"))
INFORMATIVE_PREDICTED = _column("informative_group_fraction_predicted", _mean("group/informative_fraction_predicted"))
UPDATE_NORM = _column("update_norm", lambda run: float(run.run.table("evals")["update_norm"][-1].as_py()))
SAMPLES_PER_PETAFLOP = _column("samples_per_petaflop", _before_saturation("samples/total", "flops/total", PETA))
USEFUL_SHARE = _column(
    "useful_share", lambda run: sum(run.value(c) for c in USEFUL_FLOPS_BY_PHASE.values()) / run.value(TOTAL_FLOPS)
)
EVENTS_PER_THOUSAND_PASSES = _column("feedback_per_thousand_passes", _events_per_thousand_passes)
SPLITS = {
    "train": "trained on",
    "seen": "seen in pretraining",
    "shifted": "one digit more",
    "marked": "same pairs, right mark",
    "other_operation": "the other operation",
    "other_format": "the other format",
}
ABSORBED_ON = {
    split: Column(
        f"absorbed_bits_{split}",
        "bits",
        kind,
        f"absorbed bits on problems of this kind: {kind}",
        _on(split, lambda curve: curve.absorbed_bits[-1]),
    )
    for split, kind in SPLITS.items()
}
PASS_RATE_BEFORE_ON = {
    split: Column(
        f"pass_rate_before_{split}",
        "1",
        f"pass rate before, {kind}",
        "mean over its problems",
        _on(split, lambda curve: curve.pass_rate[0]),
    )
    for split, kind in SPLITS.items()
}
FLOPS_BY_PHASE = {
    phase: Column(f"flops_{phase}", "GFLOP", phase, f"executed FLOPs of phase {phase}", _last(f"flops/{phase}"))
    for phase in TRAINING_PHASES
}
USEFUL_FLOPS_BY_PHASE = {
    phase: Column(
        f"useful_flops_{phase}", "GFLOP", f"{phase}, useful", f"useful FLOPs of phase {phase}", _last(f"flops_useful/{phase}")
    )
    for phase in TRAINING_PHASES
}
FAMILIES = (ABSORBED_ON, PASS_RATE_BEFORE_ON, FLOPS_BY_PHASE, USEFUL_FLOPS_BY_PHASE)
COLUMNS = (
    *(column for column in list(vars().values()) if isinstance(column, Column)),
    *(column for family in FAMILIES for column in family.values()),
)
