"""From recorded runs to numbers: what each run absorbed and paid, and what the seeds of an arm say together.

Reads run directories only. An arm is one way to train from one start; its runs differ in their seed.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bitsample_llm.estimators import t_interval
from bitsample_llm.glossary import TRAINING_PHASES
from bitsample_llm.records import RecordError, Run

PETA = 1e15
TARGET_BITS = 1.0  # the gain whose price in samples and FLOPs is compared, where the run names no other


@dataclass(frozen=True)
class Curve:
    """Held-out state of a run at its evaluations: arrays of equal length, the start first."""

    step: np.ndarray
    flops: np.ndarray
    seconds: np.ndarray
    surprisal_bits: np.ndarray  # of the answer; of the reference answer where several pass; mean over problems
    pass_rate: np.ndarray  # mean over problems
    num_passed_TP: np.ndarray | None = None  # of the rollouts of each problem; None where pass rates are exact
    num_rollouts_P: np.ndarray | None = None

    @property
    def is_sampled(self) -> bool:
        """Whether pass rates come from rollouts."""
        return self.num_passed_TP is not None

    @property
    def evaluations_without_a_pass(self) -> tuple[int, int]:
        """How many evaluations found no pass, and how many there are."""
        return int((self.pass_rate == 0).sum()), len(self.pass_rate)

    @property
    def absorbed_bits(self) -> np.ndarray:
        """Gain since the start: mean over problems of that in log2 p; of rollouts, log2 of the ratio of mean pass rates, NaN where
        one of them is 0.
        """
        if not self.is_sampled:
            return self.surprisal_bits[0] - self.surprisal_bits
        log2_rate = np.log2(np.where(self.pass_rate > 0, self.pass_rate, np.nan))
        return log2_rate - log2_rate[0]

    @property
    def available_bits(self) -> float:
        """What there is to gain before training, NaN where no rollout passed."""
        if not self.is_sampled:
            return float(self.surprisal_bits[0])
        return -math.log2(self.pass_rate[0]) if self.pass_rate[0] > 0 else math.nan


@dataclass(frozen=True)
class RunResult:
    """One run in numbers; a value that was not measured is None."""

    run: Run
    start: str
    arm: str
    regime: str
    seed: int
    curve: Curve
    log2_before: dict[str, float] = field(repr=False)  # held-out problem -> exact log2 pass rate before training; else empty
    log2_after: dict[str, float] = field(repr=False)
    values: dict[str, float | None] = field(repr=False)


@dataclass(frozen=True)
class Arm:
    """The runs of one arm from one start, ordered by seed."""

    start: str
    name: str
    regime: str
    results: list[RunResult]

    def seeds(self) -> list[int]:
        """Seeds, ascending."""
        return [result.seed for result in self.results]

    def measured(self, key: str) -> list[float]:
        """Values of the seeds that have one."""
        return [result.values[key] for result in self.results if result.values[key] is not None]

    def summary(self, key: str) -> dict:
        """Mean, 95 % t interval over seeds, count and values."""
        return with_interval(self.measured(key)) | {"values": [result.values[key] for result in self.results]}


def evaluated_curve(run: Run, split: str) -> tuple[Curve, dict[str, float], dict[str, float]]:
    """Curve of a split, and its log2 pass rates by problem at the first and the last evaluation, empty where they are not exact.

    Raises:
        RecordError: if the run has fewer than two evaluations of the split, diverged, or scored the reference answer where others
            pass too.
    """
    every = [row for row in run.table("evals").to_pylist() if row["split"] == split]
    is_sampled = any(row["num_rollouts"] is not None for row in every)
    if not is_sampled and str((run.manifest.get("data") or {}).get("pass_rates")).startswith("not exact"):
        raise RecordError(
            f"{run.run_dir} has no held-out pass rates, only the probability of one of several answers that pass: run it again, "
            "with this version its evaluations draw rollouts"
        )
    rows = [row for row in every if is_sampled or row["log2_pass_rate"] is not None]
    by_step: dict[int, dict[str, dict]] = defaultdict(dict)
    for row in rows:
        by_step[row["step"]][row["problem_id"]] = row
    steps = sorted(by_step)
    unknown = [
        row["step"]
        for row in every
        if steps and not is_sampled and row["log2_pass_rate"] is None and row["problem_id"] in by_step[steps[0]]
    ]
    if unknown:
        raise RecordError(
            f"{run.run_dir} diverged: at step {min(unknown)} its {split} problems have no pass rate, so it has no gain"
        )
    if len(steps) < 2:
        raise RecordError(f"{run.run_dir} has {len(steps)} evaluations of split {split!r}, and a gain needs two")
    problem_ids = sorted(by_step[steps[0]])
    first_rows = [by_step[step][problem_ids[0]] for step in steps]

    def column(name: str) -> np.ndarray:
        return np.array([[by_step[step][problem_id][name] for problem_id in problem_ids] for step in steps])

    shared = {
        "step": np.array(steps),
        "flops": np.array([row["total_flops"] for row in first_rows]),
        "seconds": np.array([row["total_seconds"] for row in first_rows]),
    }
    if is_sampled:
        num_passed_TP, num_rollouts_TP = column("num_passed"), column("num_rollouts")
        curve = Curve(
            **shared,
            surprisal_bits=-column("reference_log2_probability").mean(axis=1),
            pass_rate=(num_passed_TP / num_rollouts_TP).mean(axis=1),
            num_passed_TP=num_passed_TP,
            num_rollouts_P=num_rollouts_TP[0],
        )
        return curve, {}, {}
    log2_p = column("log2_pass_rate")
    curve = Curve(**shared, surprisal_bits=-log2_p.mean(axis=1), pass_rate=np.exp2(log2_p).mean(axis=1))
    before, after = (
        {problem_id: row["log2_pass_rate"] for problem_id, row in by_step[step].items()} for step in (steps[0], steps[-1])
    )
    return curve, before, after


def gains_bits(before: dict[str, float], after: dict[str, float]) -> np.ndarray:
    """Absorbed bits of each problem."""
    return np.array([after[problem_id] - before[problem_id] for problem_id in before])


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


def target_bits(run: Run) -> float:
    """The gain whose price is compared: the one that the run was to stop at, else `TARGET_BITS`."""
    return run.manifest.get("config", {}).get("study", {}).get("target_bits") or TARGET_BITS


def flops_to_gain(run: Run, curve: Curve, gain_bits: float) -> float | None:
    """FLOPs at which the held-out gain was reached, linear between evaluations; at least those of the first update, of which
    no part can be bought. None if it never was.
    """
    known = ~np.isnan(curve.absorbed_bits)
    crossing = first_crossing(curve.flops[known], curve.absorbed_bits[known], gain_bits)
    return None if crossing is None else max(crossing, run.steps[0]["flops/total"])


def run_result(run: Run) -> RunResult:
    """A finished run in numbers.

    Raises:
        RecordError: if it is not finished or has no steps.
    """
    manifest = run.manifest
    if manifest["state"] != "finished" or not run.steps:
        raise RecordError(f"{run.run_dir} holds a {manifest['state']} run: only finished runs are reported")
    curve, before, after = evaluated_curve(run, "heldout")
    last = run.steps[-1]
    gains = gains_bits(before, after)
    flops, seconds, samples = last["flops/total"], last["seconds/total"], last["samples/total"]
    absorbed = _measured(curve.absorbed_bits[-1])
    known = ~np.isnan(curve.absorbed_bits)
    half = curve.available_bits / 2
    flops_to_half = first_crossing(curve.flops[known], curve.absorbed_bits[known], half)
    name = "reference_surprisal_bits" if curve.is_sampled else "surprisal_bits"
    target = target_bits(run)
    flops_to_target = flops_to_gain(run, curve, target)
    until = flops_to_half or flops  # what is offered after saturation says nothing of the rate
    at = functools.partial(cumulative_at, run, float(curve.flops[0]))
    offered = at("bits/offered_total", until)
    values: dict[str, float | None] = {
        "total_flops": flops,
        "total_seconds": seconds,
        "samples": samples,
        "updates": float(last["step"]),
        "offered_bits_per_sample": None if offered is None else offered / at("samples/total", until),
        "offered_bits_per_petaflop": None if offered is None else offered / until * PETA,
        "offered_bits_per_second": None if offered is None else offered / at("seconds/total", until),
        "absorbed_bits": absorbed,
        "absorbed_bits_median": float(np.median(gains)) if gains.size else None,
        "absorbed_bits_gains": float(np.maximum(gains, 0).mean()) if gains.size else None,
        "absorbed_bits_losses": float(np.minimum(gains, 0).mean()) if gains.size else None,
        "absorbed_bits_per_petaflop": None if absorbed is None else absorbed / flops * PETA,
        "absorbed_bits_per_second": None if absorbed is None else absorbed / seconds,
        "unsaturated_bits_per_petaflop": None
        if absorbed is None
        else (half / flops_to_half if flops_to_half else absorbed / flops) * PETA,
        "pass_rate_before": float(curve.pass_rate[0]),
        "pass_rate_after": float(curve.pass_rate[-1]),
        "pass_rate_bits": absorbed if curve.is_sampled else math.log2(curve.pass_rate[-1] / curve.pass_rate[0]),
        **{f"{name}_{when}": float(curve.surprisal_bits[at]) for when, at in (("before", 0), ("after", -1))},
        "absorbed_bits_over_log_flops": mean_over_log(curve.flops, curve.absorbed_bits) if known.all() else None,
        "flops_to_target": flops_to_target,
        "target_bits": target,
        "updates_to_target": None if flops_to_target is None else at("step", flops_to_target),
        "samples_to_target": None if flops_to_target is None else at("samples/total", flops_to_target),
        "dead_group_flops_fraction": last.get("flops/dead_group_fraction"),
        "informative_group_fraction": _mean_of_steps(run, "group/informative_fraction"),
        "informative_group_fraction_predicted": _mean_of_steps(run, "group/informative_fraction_predicted"),
        "update_norm": float(run.table("evals")["update_norm"][-1].as_py()),
        **{f"flops_{phase}": last[f"flops/{phase}"] for phase in TRAINING_PHASES},
        **{f"useful_flops_{phase}": last[f"flops_useful/{phase}"] for phase in TRAINING_PHASES},
    }
    values |= _credit_values(run, until)
    measured_splits = set(run.table("evals")["split"].to_pylist())
    for split in ("train", "seen", "shifted", "marked", "other_operation", "other_format"):
        absorbed_bits = pass_rate = None
        if split in measured_splits:
            split_curve, *_ = evaluated_curve(run, split)
            absorbed_bits, pass_rate = _measured(split_curve.absorbed_bits[-1]), float(split_curve.pass_rate[0])
        values |= {f"absorbed_bits_{split}": absorbed_bits, f"pass_rate_before_{split}": pass_rate}
    return RunResult(run, manifest["start"], manifest["arm"], manifest["regime"], manifest["seed"], curve, before, after, values)


def _measured(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _credit_values(run: Run, until: float) -> dict[str, float | None]:
    """Bits offered by the outcome and by the first error until `until` FLOPs, and the shape of the first and last rollouts."""
    lines = [line for line in run.steps if line["flops/total"] <= until] or run.steps[:1]
    values: dict[str, float | None] = {}
    for name, key in (("outcome", "bits/offered_per_sample"), ("first_error", "bits/first_error_per_sample")):
        measured = [line[key] for line in lines if line.get(key) is not None]
        values[f"{name}_bits_per_sample"] = float(np.mean(measured)) if measured else None
    table = run.table("rollouts").select(["num_tokens", "num_steps", "num_correct_before_first_error", "passed"])
    names = ("completion_tokens", "steps")
    if not table.num_rows or table["num_steps"].null_count:
        shape = [f"{name}_{when}" for name in names for when in ("first", "last")]
        return values | dict.fromkeys([*shape, "passes_with_wrong_step", "fails_with_right_steps"])
    tokens, steps, right, passed = (column.to_numpy() for column in table.columns)
    tenth = max(len(tokens) // 10, 1)
    for name, column in zip(names, (tokens, steps), strict=True):
        values |= {f"{name}_first": float(column[:tenth].mean()), f"{name}_last": float(column[-tenth:].mean())}
    passed, all_right = passed.astype(bool), right == steps
    return values | {
        "passes_with_wrong_step": float((passed & ~all_right).mean()),
        "fails_with_right_steps": float((~passed & all_right).mean()),
    }


def cumulative_at(run: Run, flops_before_training: float, key: str, flops: float) -> float | None:
    """A cumulative metric when the run had cost `flops`, linear between steps; None where it was not measured."""
    if run.steps[-1].get(key) is None:
        return None
    spent = [flops_before_training, *[line["flops/total"] for line in run.steps]]
    return float(np.interp(flops, spent, [0.0, *[line[key] for line in run.steps]]))


def _mean_of_steps(run: Run, key: str) -> float | None:
    values = [line[key] for line in run.steps if line.get(key) is not None]
    return float(np.mean(values)) if values else None


def arms_of(results: Sequence[RunResult]) -> list[Arm]:
    """Arms in the order of their starts and names, SFT first.

    Raises:
        RecordError: if two runs of one arm have the same seed, runs of one start were measured on different problems, or some have
            exact pass rates and others have them from rollouts.
    """
    grouped: dict[tuple[str, str], list[RunResult]] = defaultdict(list)
    heldout: dict[str, RunResult] = {}
    by_kind = {result.curve.is_sampled: result.run.run_dir for result in results}
    if len(by_kind) > 1:
        raise RecordError(
            f"{by_kind[False]} has exact held-out pass rates, {by_kind[True]} has them from rollouts, and their bits are not alike: "
            "make one report of each kind"
        )
    for result in results:
        grouped[result.start, result.arm].append(result)
        if result.run.manifest.get("config", {}).get("study", {}).get("memorise"):
            continue  # the problems are each seed's own, and what is compared is a share of what could be learned
        first = heldout.setdefault(result.start, result)
        if first.run.manifest["heldout_problems_sha256"] != result.run.manifest["heldout_problems_sha256"]:
            raise RecordError(f"{first.run.run_dir} and {result.run.run_dir} were measured on different held-out problems")
    arms = []
    for (start, name), runs in sorted(grouped.items(), key=lambda item: (item[0][0], item[1][0].regime != "sft", item[0][1])):
        runs = sorted(runs, key=lambda result: result.seed)
        if len({result.seed for result in runs}) < len(runs):
            raise RecordError(f"arm {name} from {start} has two runs of one seed: {', '.join(str(r.run.run_dir) for r in runs)}")
        arms.append(Arm(start, name, runs[0].regime, runs))
    return arms


def draws_rollouts(arms: Sequence[Arm]) -> bool:
    """Whether held-out pass rates come from rollouts; `arms_of` sees to it that all do or none."""
    return any(result.curve.is_sampled for arm in arms for result in arm.results)


def matched_gains_bits(first: RunResult, second: RunResult, factor: float) -> tuple[float, float, int] | None:
    """Mean absorbed bits of two runs on the problems whose pass rates before training lay within `factor` of each other, and
    their number; None without such a problem."""
    shared = [p for p in first.log2_before if p in second.log2_before]
    close = [p for p in shared if abs(first.log2_before[p] - second.log2_before[p]) <= math.log2(factor)]
    if not close:
        return None
    means = [float(np.mean([run.log2_after[p] - run.log2_before[p] for p in close])) for run in (first, second)]
    return means[0], means[1], len(close)


def with_interval(values: list[float]) -> dict:
    """Mean of the seeds' values, 95 % t interval and count."""
    interval = t_interval(values)
    return {
        "mean": float(np.mean(values)) if values else None,
        "interval": list(interval) if interval else None,
        "n": len(values),
        "values": values,
    }


def paired_values(first: Arm, second: Arm, key: str) -> list[tuple[float, float]]:
    """Values of two arms seed by seed, where both were measured."""
    of_second = {result.seed: result.values[key] for result in second.results}
    pairs = [(result.values[key], of_second.get(result.seed)) for result in first.results]
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def paired_difference(first: Arm, second: Arm, key: str) -> dict:
    """Mean of first - second over seeds, with its 95 % t interval and count."""
    return with_interval([a - b for a, b in paired_values(first, second, key)])


def paired_ratio(first: Arm, second: Arm, key: str) -> dict:
    """Geometric mean of first / second over seeds with its t interval, from the logarithms; seeds where both are positive."""
    logs = [math.log(a / b) for a, b in paired_values(first, second, key) if a > 0 and b > 0]
    interval = t_interval(logs)
    return {
        "mean": math.exp(float(np.mean(logs))) if logs else None,
        "interval": [math.exp(bound) for bound in interval] if interval else None,
        "n": len(logs),
        "values": [math.exp(value) for value in logs],
    }
