"""What was asked of a model, group by group, and what it proposed where it sets its own problems: read from run directories, or packed with a record."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bitsample_llm.records import Run, read_run
from bitsample_llm.records.added_files import PROPOSALS_FILE
from bitsample_llm.report.runs import run_dirs_in

PACKED = "asked.parquet"


@dataclass(frozen=True)
class Asked:
    """A group that was asked, or a proposal that was not; `text` is of proposals alone, `pass_rate` (exact) of what was asked."""

    arm: str
    model: str
    seed: int
    step: int
    flops: float  # training FLOPs up to the end of its update
    status: str
    text: str | None
    pass_rate: float | None

    @property
    def author(self) -> str | None:
        """Of a problem that was proposed."""
        return self.text[0] if self.text and self.status != "invalid" else None


def asked_in(run: Run) -> list[Asked]:
    """The rows of a run: its proposals, or what it asked where it has none; of self-play the training problems that took a place are left out."""
    groups = run.table("prompts").select(["step", "problem_id", "pass_rate"]).to_pylist()
    flops = {line["step"]: line["flops/total"] for line in run.steps}
    about = run.manifest["arm"], run.manifest["tags"]["model"], run.manifest["seed"]
    if not (file := run.run_dir / PROPOSALS_FILE).is_file():
        rows = [(group["step"], "asked", None, group["pass_rate"]) for group in groups]
    else:
        rates = {(group["step"], group["problem_id"]): group["pass_rate"] for group in groups}
        told = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [
            (
                each["step"],
                each["status"],
                each["text"],
                rates[each["step"], each["problem_id"]] if each["status"] == "asked" else None,
            )
            for each in told
        ]
    return [Asked(*about, step, flops[step], *rest) for step, *rest in rows]


def read_asked(paths: Sequence[str | Path]) -> list[Asked]:
    """The rows of the finished runs in the folders: run directories, or a record's."""
    rows = []
    for folder in map(Path, paths):
        if (folder / PACKED).is_file():
            rows += [Asked(**row) for row in pq.read_table(folder / PACKED).to_pylist()]
            continue
        runs = [read_run(run_dir) for run_dir in run_dirs_in([folder])]
        rows += [row for run in runs if run.manifest["state"] == "finished" for row in asked_in(run)]
    return rows


def pack_asked(rows: Sequence[Asked], folder: Path) -> None:
    """Write the rows into one Parquet file of a record."""
    pq.write_table(pa.Table.from_pylist([vars(row) for row in rows]), folder / PACKED, compression="zstd", compression_level=12)
