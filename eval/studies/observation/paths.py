"""How far had the optimizer gone, and what had it paid for what? The live updates of a run, its FLOPs by phase, and what its start knows of each step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from bitsample_llm.records import Run
from bitsample_llm.records.glossary import TRAINING_PHASES
from bitsample_llm.report.packed import pack_rows, read_rows

PACKED = "paths.parquet"
AS_JSON = ("flops",)  # fields whose keys differ between runs


@dataclass(frozen=True)
class OptimizerPath:
    """A finished run."""

    rung: str
    model: str
    arm: str
    seed: int
    live_updates: list[int]  # so far, at each evaluation: those that a forward pass was made for
    flops: dict[str, float]  # in all, by phase
    num_samples: int
    token_log2_p: list[list[float]]  # of each held-out answer before training

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Which run it is."""
        return self.rung, self.model, self.arm, self.seed


def optimizer_path(run: Run) -> OptimizerPath:
    """A finished run as it was recorded."""
    steps, manifest, evals = run.steps, run.manifest, run.table("evals")
    trained = np.array([0.0, *(line["flops/train_forward"] for line in steps)])
    live = np.concatenate([[0], np.cumsum(np.diff(trained) > 0)])
    number = {0: 0} | {line["step"]: place + 1 for place, line in enumerate(steps)}
    heldout = evals.filter(pc.equal(evals["split"], "heldout"))
    before = heldout.filter(pc.equal(heldout["step"], 0))
    return OptimizerPath(
        **{"rung": manifest["tags"]["rung"], "model": manifest["tags"]["model"], "arm": manifest["arm"], "seed": manifest["seed"]},
        live_updates=[int(live[number[step]]) for step in sorted(set(heldout["step"].to_pylist()))],
        flops={phase: steps[-1][f"flops/{phase}"] for phase in TRAINING_PHASES},
        num_samples=int(steps[-1]["samples/total"]),
        token_log2_p=before["token_log2_probabilities"].to_pylist(),
    )


def read_paths(paths: Sequence[str | Path]) -> list[OptimizerPath]:
    """The finished runs in the folders: run directories, or those of a record, packed."""
    return read_rows(paths, PACKED, OptimizerPath, optimizer_path, AS_JSON)


def pack_paths(found: Sequence[OptimizerPath], folder: Path) -> None:
    """Write them into one Parquet file of a record."""
    pack_rows(found, folder / PACKED, AS_JSON)
