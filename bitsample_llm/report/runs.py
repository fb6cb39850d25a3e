"""Recorded runs, and the arms that they make up: an arm is one way to train from one start, and its runs differ in their seed."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bitsample_llm.records import RecordError, Run
from bitsample_llm.report.checks import check_finished, check_steps
from bitsample_llm.report.columns import Column
from bitsample_llm.report.curve import Curve, evaluated_curve
from bitsample_llm.report.estimates import Estimate, over_seeds


@dataclass(frozen=True)
class MeasuredRun:
    """A finished run and its held-out curve. `run_dir` is where its records are."""

    run: Run
    start: str
    arm: str
    regime: str
    seed: int
    curve: Curve
    _values: dict[str, float | None] = field(default_factory=dict, repr=False)

    @property
    def tags(self) -> dict[str, str]:
        """Facts that the study's configuration says of the run, such as the reason of its start."""
        return self.run.manifest.get("tags") or {}

    @cached_property
    def log2_before(self) -> dict[str, float]:
        """Held-out problem -> exact log2 pass rate before training; empty where pass rates come from rollouts."""
        return self.curve.log2_pass_rates(0)

    @cached_property
    def log2_after(self) -> dict[str, float]:
        """The same after training."""
        return self.curve.log2_pass_rates(-1)

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


def measured_run(run: Run) -> MeasuredRun:
    """A finished run with its held-out curve; a RecordError if it is not finished or has no steps."""
    check_finished(run)
    check_steps(run)
    return MeasuredRun(run, *(run.manifest[key] for key in ("start", "arm", "regime", "seed")), evaluated_curve(run, "heldout"))


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


def by_start(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Start -> its arms, both in the order of the arms."""
    return {start: [arm for arm in arms if arm.start == start] for start in dict.fromkeys(arm.start for arm in arms)}


def rivals(arms: Sequence[Arm]) -> tuple[Arm | None, Arm | None]:
    """The arm named sft, and the first arm of RL that is no control."""
    sft = next((arm for arm in arms if arm.name == "sft"), None)
    return sft, next((arm for arm in arms if arm.regime == "rl" and not arm.is_control), None)


def draws_rollouts(arms: Sequence[Arm]) -> bool:
    """Whether held-out pass rates come from rollouts; `arms_of` sees to it that all do or none."""
    return any(run.curve.is_sampled for arm in arms for run in arm.runs)


def run_dirs_in(paths: Sequence[str | Path]) -> list[Path]:
    """Run directories among the paths and one level below them; a RecordError for a path that is no run and holds none."""
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
