"""The numbers of a run that reports show, each declared once: its name, unit, heading, definition, and how it is computed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bitsample_llm.records.glossary import TRAINING_PHASES

if TYPE_CHECKING:
    from bitsample_llm.report.runs import MeasuredRun

PETA = 1e15
TARGET_BITS = 1.0  # the gain whose price in samples and FLOPs is compared, where the run names no other


@dataclass(frozen=True)
class Column:
    """A number of a run. `value` gives None or NaN where it was not measured; `scale` turns it into the unit of the heading."""

    name: str
    unit: str
    heading: str
    definition: str
    value: Callable[["MeasuredRun"], float | None]
    scale: float = 1.0

    @property
    def titled(self) -> str:
        """The heading with its unit."""
        return self.heading if self.unit == "1" else f"{self.heading} ({self.unit})"


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
    if steps[-1].get(key) is None:
        return None
    spent = [float(run.curve.flops[0]), *[line["flops/total"] for line in steps]]
    return float(np.interp(flops, spent, [0.0, *[line[key] for line in steps]]))


def mean_of_steps(run: "MeasuredRun", key: str) -> float | None:
    """Mean of a metric over the steps that have it."""
    values = [line[key] for line in run.run.steps if line.get(key) is not None]
    return float(np.mean(values)) if values else None


def flops_to_gain(run: "MeasuredRun", gain_bits: float) -> float | None:
    """FLOPs at which the held-out gain was first reached, linear between evaluations; at least those of the first update,
    since an update is the least that can be bought. None if it never was.
    """
    crossing = _flops_at(run, gain_bits)
    return None if crossing is None else max(crossing, run.run.steps[0]["flops/total"])


def _flops_at(run: "MeasuredRun", gain_bits: float) -> float | None:
    known = ~np.isnan(run.curve.absorbed_bits)
    return first_crossing(run.curve.flops[known], run.curve.absorbed_bits[known], gain_bits)


def _absorbed(run: "MeasuredRun") -> float:
    return float(run.curve.absorbed_bits[-1])


def _over_problems(of: Callable[[np.ndarray], float]) -> Callable[["MeasuredRun"], float | None]:
    """A statistic of the problems' gains, which single problems have where pass rates are exact."""
    return lambda run: float(of(run.gains_bits)) if run.gains_bits.size else None


def _last(run: "MeasuredRun", key: str) -> float | None:
    return run.run.steps[-1].get(key)


def _flops_to_half(run: "MeasuredRun") -> float | None:
    return _flops_at(run, run.curve.available_bits / 2)


def flops_before_saturation(run: "MeasuredRun") -> float:
    """FLOPs until half of the available bits were absorbed; all of the run's where they never were."""
    return _flops_to_half(run) or _last(run, "flops/total")


def _offered(run: "MeasuredRun", per: Callable[["MeasuredRun", float], float]) -> float | None:
    until = flops_before_saturation(run)  # what is offered after saturation says nothing of the rate
    offered = cumulative_at(run, "bits/offered_total", until)
    return None if offered is None else offered / per(run, until)


def _at_target(key: str) -> Callable[["MeasuredRun"], float | None]:
    def value(run: "MeasuredRun") -> float | None:
        flops = run.value(FLOPS_TO_TARGET)
        return None if flops is None else cumulative_at(run, key, flops)

    return value


def _rate_before_saturation(run: "MeasuredRun") -> float:
    to_half = _flops_to_half(run)
    absorbed = run.curve.available_bits / 2 if to_half else _absorbed(run)
    return absorbed / flops_before_saturation(run) * PETA


def _pass_rate_bits(run: "MeasuredRun") -> float | None:
    if run.curve.is_sampled:
        return _absorbed(run)  # the same thing there
    before, after = run.curve.pass_rate[[0, -1]]
    return math.log2(after / before) if before and after else None


def _surprisal(index: int, is_sampled: bool) -> Callable[["MeasuredRun"], float | None]:
    """Mean surprisal of the answers at an evaluation, of runs whose pass rates are sampled (of the reference answer) or are not."""
    return lambda run: float(run.curve.surprisal_bits[index]) if run.curve.is_sampled == is_sampled else None


def _share_useful(run: "MeasuredRun") -> float:
    return sum(_last(run, f"flops_useful/{phase}") for phase in TRAINING_PHASES) / _last(run, "flops/total")


def _events_per_thousand_passes(run: "MeasuredRun") -> float | None:
    samples, tokens = _last(run, "samples/total"), _last(run, "tokens/completion")
    if tokens is None or (run.regime == "sft" and _last(run, "flops/decode")):  # labels that rollouts were searched for
        return None
    return 1000 * samples / (samples + tokens * (run.regime != "sft"))


# ---- columns ---------------------------------------------------------------------------------------------------------

TARGET = Column(
    "target_bits",
    "bits",
    "target",
    "held-out gain whose price is compared",
    lambda run: run.run.manifest.get("config", {}).get("study", {}).get("target_bits") or TARGET_BITS,
)
TOTAL_FLOPS = Column(
    "total_flops", "GFLOP", "FLOPs", "executed training FLOPs, rollouts included", lambda run: _last(run, "flops/total"), 1e-9
)
TOTAL_SECONDS = Column(
    "total_seconds", "s", "time", "wall clock of training, evaluation left out", lambda run: _last(run, "seconds/total")
)
SAMPLES = Column(
    "samples",
    "1",
    "samples",
    "labels (passing rollouts where these are the labels) or rollouts that were trained on",
    lambda run: _last(run, "samples/total"),
)
UPDATES = Column("updates", "1", "updates", "optimizer steps", lambda run: float(_last(run, "step")))
SAMPLES_PER_PETAFLOP = Column(
    "samples_per_petaflop",
    "1 / PFLOP",
    "samples per PFLOP",
    "samples over FLOPs, until half of the available held-out bits were absorbed",
    lambda run: cumulative_at(run, "samples/total", flops_before_saturation(run)) / flops_before_saturation(run) * PETA,
)
OFFERED_PER_SAMPLE = Column(
    "offered_bits_per_sample",
    "bits",
    "offered bits per sample",
    "surprisal of a label, H(p) of a rollout; mean over samples until half of the available held-out bits were absorbed (all "
    "samples where they never were); not measured where the reward is not the verdict",
    lambda run: _offered(run, lambda run, until: cumulative_at(run, "samples/total", until)),
)
OFFERED_PER_PETAFLOP = Column(
    "offered_bits_per_petaflop",
    "bits / PFLOP",
    "offered bits per PFLOP",
    "sum of the offered bits over FLOPs, of the same samples",
    lambda run: _offered(run, lambda run, until: until / PETA),
)
OFFERED_PER_SECOND = Column(
    "offered_bits_per_second",
    "bits / s",
    "offered bits per second",
    "of the same samples, on the wall clock of training",
    lambda run: _offered(run, lambda run, until: cumulative_at(run, "seconds/total", until)),
)
ABSORBED_BITS = Column(
    "absorbed_bits",
    "bits",
    "absorbed bits",
    "mean over held-out problems of log2 p after - log2 p before; where pass rates come from rollouts, log2 of the ratio of their means",
    _absorbed,
)
ABSORBED_MEDIAN = Column("absorbed_bits_median", "bits", "median", "median over held-out problems", _over_problems(np.median))
ABSORBED_GAINS = Column(
    "absorbed_bits_gains",
    "bits",
    "gains",
    "mean over held-out problems, those that lost counted as 0",
    _over_problems(lambda gains: np.maximum(gains, 0).mean()),
)
ABSORBED_LOSSES = Column(
    "absorbed_bits_losses",
    "bits",
    "losses",
    "mean over held-out problems, those that gained counted as 0",
    _over_problems(lambda gains: np.minimum(gains, 0).mean()),
)
ABSORBED_PER_PETAFLOP = Column(
    "absorbed_bits_per_petaflop",
    "bits / PFLOP",
    "absorbed bits per PFLOP",
    "absorbed bits over all training FLOPs",
    lambda run: _absorbed(run) / run.value(TOTAL_FLOPS) * PETA,
)
ABSORBED_PER_SECOND = Column(
    "absorbed_bits_per_second",
    "bits / s",
    "absorbed bits per second",
    "absorbed bits over the wall clock of training",
    lambda run: _absorbed(run) / run.value(TOTAL_SECONDS),
)
RATE_BEFORE_SATURATION = Column(
    "unsaturated_bits_per_petaflop",
    "bits / PFLOP",
    "absorbed bits per PFLOP before saturation",
    "up to the point where half of the available bits are absorbed, so that a saturated run shows its rate",
    _rate_before_saturation,
)
CURVE_SCORE = Column(
    "absorbed_bits_over_log_flops",
    "bits",
    "curve score",
    "absorbed bits averaged over the log of the FLOPs; what settings were tuned for",
    lambda run: mean_over_log(run.curve.flops, run.curve.absorbed_bits),  # NaN where an evaluation has no value
)
PASS_RATE_BEFORE = Column(
    "pass_rate_before", "1", "pass rate before", "mean over held-out problems", lambda run: float(run.curve.pass_rate[0])
)
PASS_RATE_AFTER = Column(
    "pass_rate_after", "1", "pass rate after", "the same after training", lambda run: float(run.curve.pass_rate[-1])
)
PASS_RATE_BITS = Column(
    "pass_rate_bits",
    "bits",
    "pass-rate bits",
    "log2 of the ratio of the two means",
    _pass_rate_bits,
)
SURPRISAL_BEFORE = Column(
    "surprisal_bits_before",
    "bits",
    "surprisal before",
    "mean over held-out problems of -log2 of the probability of the answer",
    _surprisal(0, is_sampled=False),
)
SURPRISAL_AFTER = Column(
    "surprisal_bits_after", "bits", "surprisal after", "the same after training", _surprisal(-1, is_sampled=False)
)
REFERENCE_SURPRISAL_BEFORE = Column(
    "reference_surprisal_bits_before",
    "bits",
    "surprisal of the reference answer before",
    "the same of one of several answers that pass",
    _surprisal(0, is_sampled=True),
)
REFERENCE_SURPRISAL_AFTER = Column(
    "reference_surprisal_bits_after",
    "bits",
    "surprisal of the reference answer after",
    "the same after training",
    _surprisal(-1, is_sampled=True),
)
FLOPS_TO_TARGET = Column(
    "flops_to_target",
    "GFLOP",
    "FLOPs to the target",
    "at which the held-out gain first reached the target",
    lambda run: flops_to_gain(run, run.value(TARGET)),
    1e-9,
)
UPDATES_TO_TARGET = Column("updates_to_target", "1", "updates to the target", "optimizer steps until then", _at_target("step"))
SAMPLES_TO_TARGET = Column(
    "samples_to_target", "1", "samples to the target", "labels or rollouts until then", _at_target("samples/total")
)
DEAD_SHARE = Column(
    "dead_group_flops_fraction",
    "1",
    "share of FLOPs in dead groups",
    "groups whose rewards are all equal",
    lambda run: _last(run, "flops/dead_group_fraction"),
)
INFORMATIVE = Column(
    "informative_group_fraction",
    "1",
    "informative groups",
    "share of groups whose rewards are not all equal, mean over steps",
    lambda run: mean_of_steps(run, "group/informative_fraction"),
)
INFORMATIVE_PREDICTED = Column(
    "informative_group_fraction_predicted",
    "1",
    "informative groups, predicted",
    "1 - p^G - (1-p)^G from the pass rates of the prompts",
    lambda run: mean_of_steps(run, "group/informative_fraction_predicted"),
)
UPDATE_NORM = Column(
    "update_norm",
    "1",
    "norm of the update",
    "how far the weights moved",
    lambda run: float(run.run.table("evals")["update_norm"][-1].as_py()),
)
USEFUL_SHARE = Column(
    "useful_share", "1", "useful share of FLOPs", "real, distinct tokens with causal attention only", _share_useful
)
EVENTS_PER_THOUSAND_PASSES = Column(
    "feedback_per_thousand_passes",
    "1",
    "labels or verdicts per 1,000 forward passes",
    "a label takes one pass; a rollout one for each of its tokens and one to train on it",
    _events_per_thousand_passes,
)
SPLITS = {
    "train": "trained on",
    "seen": "seen in pretraining",
    "shifted": "one digit more",
    "marked": "same pairs, right mark",
    "other_operation": "the other operation",
    "other_format": "the other format",
}


def _of_split(split: str, index: int) -> Callable[["MeasuredRun"], float | None]:
    def value(run: "MeasuredRun") -> float | None:
        found = run.pass_rate_before_and_gain(split)
        return None if found is None else found[index]

    return value


ABSORBED_ON = {
    split: Column(
        f"absorbed_bits_{split}", "bits", heading, f"absorbed bits on problems of this kind: {heading}", _of_split(split, 1)
    )
    for split, heading in SPLITS.items()
}
PASS_RATE_BEFORE_ON = {
    split: Column(f"pass_rate_before_{split}", "1", f"pass rate before, {heading}", "mean over its problems", _of_split(split, 0))
    for split, heading in SPLITS.items()
}
FLOPS_BY_PHASE = {
    phase: Column(
        f"flops_{phase}",
        "GFLOP",
        phase,
        f"executed FLOPs of phase {phase}",
        lambda run, phase=phase: _last(run, f"flops/{phase}"),
        1e-9,
    )
    for phase in TRAINING_PHASES
}
USEFUL_FLOPS_BY_PHASE = {
    phase: Column(
        f"useful_flops_{phase}",
        "GFLOP",
        f"{phase}, useful",
        f"useful FLOPs of phase {phase}",
        lambda run, phase=phase: _last(run, f"flops_useful/{phase}"),
        1e-9,
    )
    for phase in TRAINING_PHASES
}

COLUMNS = (
    *(TOTAL_FLOPS, TOTAL_SECONDS, SAMPLES, UPDATES, OFFERED_PER_SAMPLE, OFFERED_PER_PETAFLOP, OFFERED_PER_SECOND),
    *(ABSORBED_BITS, ABSORBED_MEDIAN, ABSORBED_GAINS, ABSORBED_LOSSES, ABSORBED_PER_PETAFLOP, ABSORBED_PER_SECOND),
    *(RATE_BEFORE_SATURATION, PASS_RATE_BEFORE, PASS_RATE_AFTER, PASS_RATE_BITS, SURPRISAL_BEFORE, SURPRISAL_AFTER, CURVE_SCORE),
    *(REFERENCE_SURPRISAL_BEFORE, REFERENCE_SURPRISAL_AFTER),
    *(FLOPS_TO_TARGET, TARGET, UPDATES_TO_TARGET, SAMPLES_TO_TARGET, DEAD_SHARE, INFORMATIVE, INFORMATIVE_PREDICTED, UPDATE_NORM),
    *ABSORBED_ON.values(),
    *PASS_RATE_BEFORE_ON.values(),
    *(SAMPLES_PER_PETAFLOP, USEFUL_SHARE, EVENTS_PER_THOUSAND_PASSES, *FLOPS_BY_PHASE.values(), *USEFUL_FLOPS_BY_PHASE.values()),
)
