"""From recorded runs to held-out curves: one run as it was measured, and the runs of an arm, which differ in their seed.

Reads run directories only. An arm is one way to train from one start.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bitsample_llm.records import RecordError, Run
from bitsample_llm.report.columns import Column
from bitsample_llm.report.estimates import Estimate, over_seeds


@dataclass(frozen=True)
class Curve:
    """Held-out state of a run at its evaluations: arrays of equal length, the start first. T evaluations, P problems."""

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
        """What there is to gain before training; NaN where no rollout passed."""
        if not self.is_sampled:
            return float(self.surprisal_bits[0])
        return -math.log2(self.pass_rate[0]) if self.pass_rate[0] > 0 else math.nan


@dataclass(frozen=True)
class MeasuredRun:
    """A finished run and its held-out curve. `run_dir` is where its records are."""

    run: Run
    start: str
    arm: str
    regime: str
    seed: int
    curve: Curve
    log2_before: dict[str, float] = field(repr=False)  # held-out problem -> exact log2 pass rate before; empty where sampled
    log2_after: dict[str, float] = field(repr=False)
    _values: dict[str, float | None] = field(default_factory=dict, repr=False)

    @property
    def tags(self) -> dict[str, str]:
        """Facts that the study's configuration says of the run, such as the reason of its start."""
        return self.run.manifest.get("tags") or {}

    @property
    def gains_bits(self) -> np.ndarray:
        """Absorbed bits of each held-out problem."""
        return np.array([self.log2_after[problem] - self.log2_before[problem] for problem in self.log2_before])

    @property
    def splits(self) -> set[str]:
        """Evaluation sets that it was measured on."""
        return set(self.run.table("evals")["split"].unique().to_pylist())

    def pass_rate_before_and_gain(self, split: str) -> tuple[float, float] | None:
        """Mean pass rate before training and absorbed bits on another evaluation set; None if it was not measured on it."""
        if split not in self.splits:
            return None
        curve, *_ = evaluated_curve(self.run, split)
        return float(curve.pass_rate[0]), float(curve.absorbed_bits[-1])

    def value(self, column: Column) -> float | None:
        """The run's value of a column; None where it was not measured."""
        if column.name not in self._values:
            value = column.value(self)
            self._values[column.name] = None if value is None or math.isnan(value) else value
        return self._values[column.name]


@dataclass(frozen=True)
class Arm:
    """The runs of one arm from one start, ordered by seed."""

    start: str
    name: str
    regime: str
    runs: Sequence[MeasuredRun]

    @property
    def tags(self) -> dict[str, str]:
        """Facts that the study's configuration says of it."""
        return self.runs[0].tags

    @property
    def manifest(self) -> dict:
        """What its first run says of itself; its runs differ in their seed."""
        return self.runs[0].run.manifest

    @property
    def spoken(self) -> str:
        """Its name in a sentence."""
        return self.name.upper() if self.name in ("sft", "grpo", "rloo") else self.name

    @property
    def is_control(self) -> bool:
        """Whether its rewards tell nothing."""
        return self.manifest.get("config", {}).get("choices", {}).get("reward") == "random"

    def values(self, column: Column) -> list[float | None]:
        """The seeds' values, None where a seed has none."""
        return [run.value(column) for run in self.runs]

    def measured(self, column: Column) -> list[float]:
        """Values of the seeds that have one."""
        return [value for value in self.values(column) if value is not None]

    def estimate(self, column: Column) -> Estimate:
        """Mean over seeds with its 95 % t interval."""
        return over_seeds(self.values(column))


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


def measured_run(run: Run) -> MeasuredRun:
    """A finished run with its held-out curve.

    Raises:
        RecordError: if it is not finished or has no steps.
    """
    manifest = run.manifest
    if manifest["state"] != "finished" or not run.steps:
        raise RecordError(f"{run.run_dir} holds a {manifest['state']} run: only finished runs are reported")
    curve, before, after = evaluated_curve(run, "heldout")
    return MeasuredRun(run, manifest["start"], manifest["arm"], manifest["regime"], manifest["seed"], curve, before, after)


def arms_of(runs: Iterable[MeasuredRun]) -> list[Arm]:
    """Arms in the order of their starts and names, SFT first.

    Raises:
        RecordError: if two runs of one arm have the same seed, runs of one start were measured on different problems, or some have
            exact pass rates and others have them from rollouts.
    """
    runs = list(runs)
    by_kind = {run.curve.is_sampled: run.run.run_dir for run in runs}
    if len(by_kind) > 1:
        raise RecordError(
            f"{by_kind[False]} has exact held-out pass rates, {by_kind[True]} has them from rollouts, and their bits are not alike: "
            "make one report of each kind"
        )
    grouped: dict[tuple[str, str], list[MeasuredRun]] = defaultdict(list)
    first_of_start: dict[str, MeasuredRun] = {}
    for run in runs:
        grouped[run.start, run.arm].append(run)
        if run.run.manifest.get("config", {}).get("study", {}).get("memorise"):
            continue  # the problems are each seed's own, and what is compared is a share of what could be learned
        first = first_of_start.setdefault(run.start, run)
        if first.run.manifest["heldout_problems_sha256"] != run.run.manifest["heldout_problems_sha256"]:
            raise RecordError(f"{first.run.run_dir} and {run.run.run_dir} were measured on different held-out problems")
    arms = []
    for (start, name), found in sorted(grouped.items(), key=lambda item: (item[0][0], item[1][0].regime != "sft", item[0][1])):
        found = sorted(found, key=lambda run: run.seed)
        if len({run.seed for run in found}) < len(found):
            raise RecordError(f"arm {name} from {start} has two runs of one seed: {', '.join(str(r.run.run_dir) for r in found)}")
        arms.append(Arm(start, name, found[0].regime, found))
    return arms


def draws_rollouts(arms: Sequence[Arm]) -> bool:
    """Whether held-out pass rates come from rollouts; `arms_of` sees to it that all do or none."""
    return any(run.curve.is_sampled for arm in arms for run in arm.runs)


def run_dirs_in(paths: Sequence[str | Path]) -> list[Path]:
    """Run directories among the paths and one level below them.

    Raises:
        RecordError: for a path that is no run and holds none.
    """
    found = []
    for path in map(Path, paths):
        below = sorted(manifest.parent for manifest in path.glob("*/manifest.json"))
        if (path / "manifest.json").is_file():
            found.append(path)
        elif below:
            found += below
        else:
            raise RecordError(f"{path} is no run directory and holds none")
    return found
