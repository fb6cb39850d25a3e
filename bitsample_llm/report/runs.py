"""From recorded runs to held-out curves: one run as it was measured, and the runs of an arm, which differ in their seed.

Reads run directories only. An arm is one way to train from one start.
"""

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
    """Held-out state of a run at its evaluations: arrays of equal length, the start first."""

    step: np.ndarray
    flops: np.ndarray
    seconds: np.ndarray
    surprisal_bits: np.ndarray  # mean over problems
    pass_rate: np.ndarray  # mean over problems

    @property
    def absorbed_bits(self) -> np.ndarray:
        """Bits absorbed since the start."""
        return self.surprisal_bits[0] - self.surprisal_bits


@dataclass(frozen=True)
class MeasuredRun:
    """A finished run and its held-out curve. `run_dir` is where its records are."""

    run: Run
    start: str
    arm: str
    regime: str
    seed: int
    curve: Curve
    log2_before: dict[str, float] = field(repr=False)  # held-out problem -> exact log2 pass rate before training
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
        curve, before, after = evaluated_curve(self.run, split)
        return float(curve.pass_rate[0]), float(np.mean([after[problem] - before[problem] for problem in before]))

    def value(self, column: Column) -> float | None:
        """The run's value of a column; None where it was not measured."""
        if column.name not in self._values:
            self._values[column.name] = column.value(self)
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
    """Curve of a split, and its log2 pass rates by problem at the first and the last evaluation.

    Raises:
        RecordError: if the run has fewer than two evaluations of the split.
    """
    rows = [row for row in run.table("evals").to_pylist() if row["split"] == split and row["log2_pass_rate"] is not None]
    by_step: dict[int, dict[str, float]] = defaultdict(dict)
    shared: dict[int, tuple[float, float]] = {}
    for row in rows:
        by_step[row["step"]][row["problem_id"]] = row["log2_pass_rate"]
        shared[row["step"]] = row["total_flops"], row["total_seconds"]
    steps = sorted(by_step)
    if len(steps) < 2:
        raise RecordError(f"{run.run_dir} has {len(steps)} evaluations of split {split!r}, and a gain needs two")
    problem_ids = sorted(by_step[steps[0]])
    log2_p = np.array([[by_step[step][problem_id] for problem_id in problem_ids] for step in steps])
    curve = Curve(
        step=np.array(steps),
        flops=np.array([shared[step][0] for step in steps]),
        seconds=np.array([shared[step][1] for step in steps]),
        surprisal_bits=-log2_p.mean(axis=1),
        pass_rate=np.exp2(log2_p).mean(axis=1),
    )
    return curve, by_step[steps[0]], by_step[steps[-1]]


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
        RecordError: if two runs of one arm have the same seed, or runs of one start were measured on different problems.
    """
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
