"""How far had the optimizer gone, and what had it paid for what? The live updates of a run, its FLOPs by phase, and what its start knows of each step."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bitsample_llm.records import Run, read_run
from bitsample_llm.records.glossary import TRAINING_PHASES
from bitsample_llm.report.runs import run_dirs_in

PACKED = "paths.parquet"


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
    found = []
    for folder in map(Path, paths):
        if (folder / PACKED).is_file():
            lines = pq.read_table(folder / PACKED).to_pylist()
            found += [OptimizerPath(**line | {"flops": json.loads(line["flops"])}) for line in lines]
        else:
            runs = [read_run(run_dir) for run_dir in run_dirs_in([folder])]
            found += [optimizer_path(run) for run in runs if run.manifest["state"] == "finished"]
    return found


def pack_paths(found: Sequence[OptimizerPath], folder: Path) -> None:
    """Write them into one Parquet file of a record."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [asdict(path) | {"flops": json.dumps(path.flops)} for path in found]
    pq.write_table(pa.Table.from_pylist(lines), folder / PACKED, compression="zstd")
