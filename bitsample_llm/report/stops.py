"""Where did rollouts end, what did that save, and was the value function right about those that ran on?"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bitsample_llm.estimators import wilson_interval
from bitsample_llm.records import Run
from bitsample_llm.records.added_files import VALUES_FILE
from bitsample_llm.report.estimates import Estimate, over_seeds
from bitsample_llm.report.packed import pack_rows, read_rows

PACKED = "stops.parquet"
AS_JSON = ("flops", "noted")  # fields whose keys differ between runs
PLACES = ("first token", "half", "nine tenths")  # where the values in `values.jsonl` were noted
PHASES = ("prefill", "decode", "train_forward", "train_backward", "reward_model", "total")
BINS = 10


@dataclass(frozen=True)
class StopRun:
    """A finished run."""

    rung: str
    model: str
    arm: str
    seed: int
    flops: dict[str, float]  # by phase
    num_samples: int
    num_informative: int  # samples in groups that hold a pass and a fail
    mean_tokens: float  # drawn per rollout
    share_ended: float  # of the rollouts, by an early stop
    token_log2_p: list[list[float]]  # of each held-out answer before training
    noted: list[dict]  # the lines of `values.jsonl`, one per generation

    def verdicts(self, place: int, half: int) -> tuple[np.ndarray, np.ndarray]:
        """Values and verdicts of the rollouts that ran on and had not ended at a place, in the first or the second half of the generations."""
        middle = len(self.noted) // 2
        lines = self.noted[middle:] if half else self.noted[:middle]
        pairs = [
            (of_rollout[place], passed) for line in lines for of_rollout, passed in zip(line["values"], line["passed"], strict=True)
        ]
        known = [(value, passed) for value, passed in pairs if value is not None]
        return np.array([value for value, _ in known]), np.array([passed for _, passed in known], dtype=float)

    def lost(self) -> tuple[int, int]:
        """Passes that the threshold would have ended, and all passes, of rollouts that ran on while there was a threshold."""
        ends = [
            end is not None
            for line in self.noted
            if line["threshold"] > 0
            for end, passed in zip(line["ends_after"], line["passed"], strict=True)
            if passed
        ]
        return sum(ends), len(ends)


# ---- what they say ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """Of rollouts that ran on: how far values are from shares that passed, and what they explain."""

    num: int  # rollouts
    pass_rate: float
    squared: float  # mean of (value - passed) squared
    gap: float  # between value and share that passed, mean over bins, weighted
    explained: Estimate  # share of the variance of the verdicts, over runs
    bins: list[tuple[float, float, int]]  # mean value, share that passed, number


def calibration(runs: Sequence[StopRun], place: int, half: int) -> Calibration | None:
    """Of runs at a place of the rollout, in one half of the generations; None where nothing was noted."""
    of_runs = [run.verdicts(place, half) for run in runs]
    values, passed = (np.concatenate(side) for side in zip(*of_runs, strict=True)) if of_runs else ([], [])
    if not len(values):
        return None
    number = np.minimum((values * BINS).astype(int), BINS - 1)
    bins = [(float(values[at].mean()), float(passed[at].mean()), int(at.sum())) for n in range(BINS) if (at := number == n).any()]
    explained = [float(1 - np.mean((v - y) ** 2) / y.var()) for v, y in of_runs if len(y) and y.var() > 0]
    gap = sum(abs(value - share) * num for value, share, num in bins) / len(values)
    squared = float(np.mean((values - passed) ** 2))
    return Calibration(len(values), float(passed.mean()), squared, float(gap), over_seeds(explained), bins)


def lost_passes(runs: Sequence[StopRun]) -> Estimate:
    """Share of the passes among rollouts that ran on which the threshold would have ended, with Wilson's interval; n counts passes."""
    lost, passed = (sum(side) for side in zip(*(run.lost() for run in runs), strict=True)) if runs else (0, 0)
    return Estimate(lost / passed, wilson_interval(lost, passed), passed) if passed else Estimate(None, None, 0)


# ---- reading ---------------------------------------------------------------------------------------------------------


def stop_run(run: Run) -> StopRun:
    """A finished run as it was recorded."""
    last, manifest = run.steps[-1], run.manifest
    evals, rollouts = run.table("evals"), run.table("rollouts")
    before = evals.filter(pc.and_(pc.equal(evals["split"], "heldout"), pc.equal(evals["step"], 0)))
    most = manifest["config"]["training"]["max_completion_length"]
    ended = pc.and_(pc.invert(rollouts["ended"]), pc.less(rollouts["num_tokens"], most))
    groups = run.table("prompts").select(["num_passed", "group_size"]).to_pylist()
    notes = run.run_dir / VALUES_FILE
    return StopRun(
        rung=manifest["tags"]["rung"],
        model=manifest["tags"]["model"],
        arm=manifest["arm"],
        seed=manifest["seed"],
        flops={phase: last[f"flops/{phase}"] for phase in PHASES},
        num_samples=int(last["samples/total"]),
        num_informative=sum(group["group_size"] for group in groups if 0 < group["num_passed"] < group["group_size"]),
        mean_tokens=pc.mean(rollouts["num_tokens"]).as_py(),
        share_ended=pc.mean(ended.cast(pa.float64())).as_py(),
        token_log2_p=before["token_log2_probabilities"].to_pylist(),
        noted=[json.loads(line) for line in notes.read_text().splitlines()] if notes.is_file() else [],
    )


def read_stops(paths: Sequence[str | Path]) -> list[StopRun]:
    """The finished runs in the folders: run directories, or those of a record, packed."""
    return read_rows(paths, PACKED, StopRun, stop_run, AS_JSON)


def pack_stops(runs: Sequence[StopRun], folder: Path) -> None:
    """Write the runs into one Parquet file of a record."""
    pack_rows(runs, folder / PACKED, AS_JSON)
