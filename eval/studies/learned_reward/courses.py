"""What happened in a run from update to update: which share of the steps was right, and which share the judge took for right."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitsample_llm.records import Run
from bitsample_llm.records.added_files import JUDGE_FILE
from bitsample_llm.report.packed import pack_rows, read_rows

PACKED = "courses.parquet"
PARTS = 5  # the updates of a run are compared by fifths


@dataclass(frozen=True)
class Course:
    """A run, by its updates. Those in which a judge was still learning its first verdicts are counted and left out."""

    rung: str
    model: str
    arm: str
    seed: int
    judged_flops: float  # spent until the judge had its first verdicts; 0 without a judge
    verdicts: int  # rollouts whose steps the verifier judged for the judge, in all
    flops: list[float]  # so far, at each update, as the rest
    passed: list[float]  # share of its rollouts, as the next
    rewarded: list[float]
    too_short: list[float]  # share of those that are right as far as they go, and end too early
    true_share: list[float]  # mean share of a rollout's steps before the first wrong one, by the verifier
    judged_share: list[float]  # and by what gives the reward, a judge or the verifier
    steps: list[list[float]]  # numbers of steps in ten bins of the judged probability; empty without a judge
    right: list[list[float]]  # of these the right ones
    probability: list[list[float]]  # sum of the probabilities

    @property
    def key(self) -> tuple[str, str, int]:
        """What runs of several arms have in common."""
        return self.rung, self.model, self.seed

    def part(self, values: Sequence, number: int) -> np.ndarray:
        """The values of one fifth of the updates; -1 is the last."""
        return np.array_split(np.asarray(values, dtype=float), PARTS)[number]

    def accuracy(self, number: int) -> float | None:
        """Share of the steps of a fifth that the judge judged as the verifier does; None without a judge."""
        if not self.steps:
            return None
        steps, right = (self.part(values, number).sum(axis=0) for values in (self.steps, self.right))
        half = len(steps) // 2
        return float((right[half:].sum() + (steps - right)[:half].sum()) / steps.sum())


def course_of(run: Run) -> Course:
    """The course of a recorded run."""
    manifest, rows = run.manifest, run.table("rollouts").to_pylist()
    flops = {line["step"]: line["flops/total"] for line in run.steps}
    of_step = defaultdict(list)
    for row in rows:
        of_step[row["step"]].append(row)
    true = {
        step: float(np.mean([r["num_correct_before_first_error"] / r["num_steps"] for r in group]))
        for step, group in of_step.items()
    }
    file = run.run_dir / JUDGE_FILE
    lines = {line["step"]: line for line in map(json.loads, file.read_text().splitlines())} if file.is_file() else {}
    learned = {step: line for step, line in lines.items() if "steps" in line}
    shown = sorted(learned if lines else of_step)
    before = [step for step in lines if step not in learned]
    return Course(
        **{"rung": manifest["tags"]["rung"], "model": manifest["tags"]["model"], "arm": manifest["arm"], "seed": manifest["seed"]},
        judged_flops=flops[max(before)] if before else 0.0,
        verdicts=max((line["told"] for line in lines.values()), default=0),
        flops=[flops[step] for step in shown],
        passed=[float(np.mean([row["passed"] for row in of_step[step]])) for step in shown],
        too_short=[float(np.mean([row["reason"] == "too_short" for row in of_step[step]])) for step in shown],
        rewarded=[float(np.mean([row["reward"] == 1 for row in of_step[step]])) for step in shown],
        true_share=[true[step] for step in shown],
        judged_share=[learned[step]["judged_prefix"] if lines else true[step] for step in shown],
        **{name: [learned[step][name] for step in shown] if lines else [] for name in ("steps", "right", "probability")},
    )


def read_courses(paths: Sequence[str | Path]) -> list[Course]:
    """The courses of the finished runs in the folders: run directories, or those of a record, packed."""
    return read_rows(paths, PACKED, Course, course_of)


def pack_courses(courses: Sequence[Course], folder: Path) -> None:
    """Write the courses into one Parquet file of a record."""
    pack_rows(courses, folder / PACKED)
