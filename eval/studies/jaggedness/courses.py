"""What became of the two strategies in a run? Its held-out evaluations, in the three parts that `make_problems.py` writes."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitsample_llm.records import Run
from bitsample_llm.report.packed import pack_rows, read_rows

PACKED = "lines.parquet"
AS_JSON = ("settings",)  # fields whose keys differ between runs
MOVED = 0.1  # of ln(right / rule): what has moved less has not moved


@dataclass(frozen=True)
class Course:
    """A run, at each of its evaluations, before training first. The rule is evaluated on problems on which it is wrong."""

    start: str  # silent, named, or fixed: a named one that had been trained to use the rule
    mark: str
    share: float  # of the training problems, on which the rule is right too
    model: str  # pretraining seed
    arm: str
    seed: int
    settings: dict
    flop_budget: float
    updates: list[int]
    flops: list[float]
    log_odds: list[float]  # mean ln(p right / p rule)
    right: list[float]  # mean probability of the right answer where the rule is wrong
    rule: list[float]  # and of the rule's
    easy: list[float]  # mean probability of the right answer, with the right strategy's sign, where the rule is right

    @property
    def cell(self) -> tuple[str, str, float]:
        """What runs of all models and seeds have in common."""
        return self.start, self.mark, self.share

    @property
    def first_move(self) -> int:
        """1 where the log odds rose by `MOVED` before they fell by it, -1 where they fell first, 0 where they did neither."""
        moves = np.subtract(self.log_odds, self.log_odds[0])
        return next((int(np.sign(move)) for move in moves if abs(move) > MOVED), 0)

    @property
    def lowest(self) -> float:
        """How far the log odds fell below their start."""
        return float(min(self.log_odds) - self.log_odds[0])


def course_of(run: Run) -> Course:
    """The course of a recorded run."""
    manifest, training = run.manifest, run.manifest["config"]["training"]
    log2_p, flops = defaultdict(dict), {}
    for row in run.table("evals").to_pylist():
        if row["split"] == "heldout":
            log2_p[row["step"]][int(row["problem_id"].rpartition("/")[2])] = row["reference_log2_probability"]
            flops[row["step"]] = row["total_flops"]
    updates = sorted(log2_p)
    logp_TKP = np.array([[log2_p[step][number] for number in sorted(log2_p[step])] for step in updates]) * math.log(2)
    logp_TKP = logp_TKP.reshape(len(updates), 3, -1)
    right, rule, easy = np.exp(logp_TKP).mean(axis=2).T.tolist()
    tags = manifest["tags"]
    return Course(
        **{name: tags[name] for name in ("start", "mark", "model")},
        share=float(tags["share"]),
        arm=manifest["arm"],
        seed=manifest["seed"],
        settings={name: training[name] for name in ("learning_rate", "optim", "per_device_train_batch_size")},
        flop_budget=manifest["config"]["study"]["flop_budget"],
        updates=updates,
        flops=[flops[step] for step in updates],
        log_odds=(logp_TKP[:, 0] - logp_TKP[:, 1]).mean(axis=1).tolist(),
        **{"right": right, "rule": rule, "easy": easy},
    )


def read_courses(paths: Sequence[str | Path]) -> list[Course]:
    """The courses of the finished runs in the folders: run directories, or those of a record, packed."""
    return read_rows(paths, PACKED, Course, course_of, AS_JSON)


def pack_courses(courses: Sequence[Course], folder: Path) -> None:
    """Write the courses into one Parquet file of a record."""
    pack_rows(courses, folder / PACKED, AS_JSON)
