"""What a study reads off its runs, a row per run: from run directories, or from the one Parquet file of a record into which the rows were packed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from bitsample_llm.records import Run, read_run
from bitsample_llm.report.runs import run_dirs_in

Row = TypeVar("Row")  # a dataclass


def read_rows(
    paths: Sequence[str | Path], packed: str, kind: type[Row], row_of: Callable[[Run], Row], as_json: Sequence[str] = ()
) -> list[Row]:
    """Rows of the finished runs in the folders: run directories, which `row_of` reads, or those of a record, in a file named `packed`.

    `as_json`: fields of the dataclass `kind` that `pack_rows` wrote as JSON; one that the file lacks has its default.
    """
    rows = []
    for folder in map(Path, paths):
        if (folder / packed).is_file():
            for line in pq.read_table(folder / packed).to_pylist():
                rows.append(kind(**line | {name: json.loads(line[name]) for name in as_json if name in line}))
        else:
            runs = [read_run(run_dir) for run_dir in run_dirs_in([folder])]
            rows += [row_of(run) for run in runs if run.manifest["state"] == "finished"]
    return rows


def pack_rows(rows: Sequence[Row], path: Path, as_json: Sequence[str] = ()) -> None:
    """Write rows into one Parquet file, the fields `as_json`, whose keys differ between rows, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [asdict(row) | {name: json.dumps(getattr(row, name)) for name in as_json} for row in rows]
    pq.write_table(pa.Table.from_pylist(lines), path, compression="zstd", compression_level=12)
