"""How far had the optimizer gone, and what had it paid for what? The live updates of a run, its FLOPs by phase, and what its start knows of each step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from bitsample_llm.records import Run
from bitsample_llm.records.glossary import TRAINING_PHASES
from bitsample_llm.report.packed import pack_rows, read_rows
from bitsample_llm.report.prices import HALF, PricedRun
from bitsample_llm.report.remedies import Factor, Prices, factor
from bitsample_llm.report.remedy_runs import RemedyRuns

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


@dataclass(frozen=True)
class PathRuns(RemedyRuns):
    """The runs of a study of remedies, with their optimizers' paths."""

    paths: Sequence[OptimizerPath] = ()

    def path(self, run: PricedRun) -> OptimizerPath:
        """The path of a run."""
        return next(path for path in self.paths if path.key == (run.rung, run.model, run.arm, run.seed))


def path_prices(found: PathRuns, rung: str, arm: str) -> Prices:
    """Learning rate times live updates until half of the bits were reached and kept."""
    by_model: dict[str, list] = {}
    for run in sorted(found.of(rung, arm), key=lambda run: (run.model, run.seed)):
        lengths = [run.settings["learning_rate"] * live for live in found.path(run).live_updates]
        by_model.setdefault(run.model, []).append(replace(run, samples=lengths).price(HALF, "samples"))
    return Prices(by_model)


def path_factor(found: PathRuns, rung: str, arm: str, plain: str) -> Factor:
    """The path that plain GRPO takes over that of an arm."""
    return factor(path_prices(found, rung, plain), path_prices(found, rung, arm))
