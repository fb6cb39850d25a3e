"""How a run directory is written: atomically, each row once, and on from where a killed run stopped."""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bitsample_llm.records import SCHEMA_VERSION, SCHEMAS, RecordError, RecordWriteError, check_run_dir, read_manifest, step_lines
from bitsample_llm.records.glossary import GLOSSARY, TRAINING_PHASES
from bitsample_llm.records.lock import RunLock

FLUSH_SECONDS = 300  # rows wait no longer than this and one step
BYTES_OF_SEGMENT = 2**23  # packed rows that wait take no more memory than this and a step's; 300,000 rollouts without texts
ROWS_OF_PART = 1024  # so many rows are packed while they are still in the processor's cache
PARTS_OF_ROW_GROUP = 32


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A temporary path whose file takes the place of the old one: a reader sees the old one or the new one, never half of one."""
    temporary = path.with_suffix(".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file that is the old one or the new one."""
    with _replaced(path) as temporary:
        temporary.write_text(text)


def write_json_atomically(path: Path, content: dict) -> None:
    write_text_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_parquet_atomically(path: Path, schema: pa.Schema, row_groups: Iterable[pa.Table]) -> None:
    """Write a parquet segment that is complete or absent."""
    with _replaced(path) as temporary, pq.ParquetWriter(temporary, schema) as file:
        for table in row_groups:
            file.write_table(table)


def finite(value):
    """The value with null for each number that is not finite, in lists and dicts too: no number is no measurement.

    >>> finite({"loss": float("nan"), "bits": [1.0, float("inf")]})
    {'loss': None, 'bits': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _are_finite(column: pa.ChunkedArray) -> bool:
    """Whether all numbers of a column are, those in lists and maps too."""
    arrays = column.chunks
    while arrays and pa.types.is_nested(arrays[0].type):
        arrays = [array.items if pa.types.is_map(array.type) else array.values for array in arrays]
    return all(pc.all(pc.is_finite(array)).as_py() is not False for array in arrays if pa.types.is_floating(array.type))


def _table_of(name: str, rows: list[dict]) -> pa.Table:
    """Rows as a table of `SCHEMAS`, with null for each number that is not finite; whole columns are asked, which is faster than row by row."""
    table = pa.Table.from_pylist(rows, schema=SCHEMAS[name])
    return table if all(map(_are_finite, table.columns)) else pa.Table.from_pylist(finite(rows), schema=SCHEMAS[name])


def _packed(table: pa.Table) -> bytes:
    """A table as compressed columns: a hundredth of the memory of its rows, and one piece of it, among all that the training takes and frees."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _row_groups(parts: list[bytes]) -> Iterator[pa.Table]:
    for at in range(0, len(parts), PARTS_OF_ROW_GROUP):
        yield pa.concat_tables(pa.ipc.open_stream(part).read_all() for part in parts[at : at + PARTS_OF_ROW_GROUP])


def _json_lines(lines: list[dict]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


@contextlib.contextmanager
def _writing_to(run_dir: Path) -> Iterator[None]:
    """An error of the disk becomes one line that names the place."""
    try:
        yield
    except OSError as error:
        message = f"cannot write records to {run_dir}: {error.strerror}; make room and resume the run"
        raise RecordWriteError(message) from error


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[RunLock]:
    """The lock of a run directory, which the writer keeps unless it cannot be made."""
    lock = RunLock(run_dir)
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def _pending_path(run_dir: Path, step: int) -> Path:
    """Where rollouts are that the checkpoint of a step found half-trained."""
    return run_dir / f"pending-{step:08d}.parquet"


class RunWriter:
    """Writes one run directory; made by `create` or `resume`.

    Rows are collected and written as segments by `flush`; the step lines are written at once. Only one process of a run
    may hold a writer, and no two processes at once; see `lock.py`.
    """

    def __init__(self, run_dir: Path, manifest: dict, lock: RunLock):
        self.run_dir = run_dir
        self.manifest = manifest
        self._lock = lock
        # each table's next segment: its number, parts that are ready, and the latest rows; one value, so that an interrupt cannot come between
        self._segments = {table: (self._next_number(table), [], []) for table in SCHEMAS}
        self._flushed_at = time.monotonic()

    def _next_number(self, table: str) -> int:
        taken = [*self.run_dir.glob(f"{table}-*.parquet"), *self.run_dir.glob(f"superseded/{table}-*.parquet")]
        return max((int(path.stem.split("-")[1]) + 1 for path in taken), default=0)

    @classmethod
    def create(cls, run_dir: Path, manifest: dict) -> "RunWriter":
        """Start a new run directory.

        Raises:
            RecordError: if the directory holds a run already, or another process is writing it.
        """
        check_run_dir(run_dir, resume=False)
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            with _locked(run_dir) as lock:
                check_run_dir(run_dir, resume=False)  # another process may have been faster
                writer = cls(run_dir, {"schema_version": SCHEMA_VERSION, **manifest, "state": "running"}, lock)
                writer._write_manifest()
        except OSError as error:
            raise RecordWriteError(f"cannot write records to {run_dir}: {error.strerror}") from error
        return writer

    @classmethod
    def resume(cls, run_dir: Path, step: int) -> tuple["RunWriter", dict]:
        """Continue a run after `step`: its writer, and the step line to count on from (empty at step 0).

        Rows and lines of later steps move to `superseded/`, what they cost is added to `flops/lost`.

        Raises:
            RecordError: if there is no run, it is finished, another process is writing it, or it has no record of `step`.
        """
        check_run_dir(run_dir, resume=True)
        with _writing_to(run_dir), _locked(run_dir) as lock:
            check_run_dir(run_dir, resume=True)  # the process that held the lock may have finished it
            return cls._resumed(run_dir, step, lock)

    @classmethod
    def _resumed(cls, run_dir: Path, step: int, lock: RunLock) -> tuple["RunWriter", dict]:
        """What `resume` does. A kill at any point of it leaves what the next resume puts right."""
        manifest = read_manifest(run_dir)
        lines = step_lines(run_dir / "steps.jsonl", manifest.get("begins_after_step", 0))
        kept = [line for line in lines if line["step"] <= step]
        last = kept[-1] if kept else {}
        if step > 0 and last.get("step") != step:
            raise RecordError(f"{run_dir} has a checkpoint of step {step} but no record of it: resume an earlier checkpoint")
        superseded = run_dir / "superseded"
        lost = max(manifest.get("lost_flops", 0.0), *(line["flops/lost"] for line in lines), 0.0)
        num_dropped = manifest.get("superseded_step_files", 0)
        dropped = _json_lines(lines[len(kept) :])
        previous = superseded / f"steps-{num_dropped - 1:05d}.jsonl"
        if dropped and not (previous.is_file() and previous.read_text() == dropped):  # else a killed resume got this far
            superseded.mkdir(exist_ok=True)
            write_text_atomically(superseded / f"steps-{num_dropped:05d}.jsonl", dropped)
            lost += sum(lines[-1][f"flops/{phase}"] - last.get(f"flops/{phase}", 0) for phase in TRAINING_PHASES)
            num_dropped += 1
        manifest |= {"state": "running", "reason": None, "lost_flops": lost, "superseded_step_files": num_dropped}
        manifest["resumed_at"] = [*manifest.get("resumed_at", []), step]
        if step == 0:
            manifest.pop("begins_after_step", None)
        write_json_atomically(run_dir / "manifest.json", manifest)
        write_text_atomically(run_dir / "steps.jsonl", _json_lines(kept))
        pending_path = _pending_path(run_dir, step)
        pending = pq.read_table(pending_path).to_pylist() if pending_path.is_file() else []
        for name in SCHEMAS:
            for path in sorted(run_dir.glob(f"{name}-*.parquet")):
                table = pq.read_table(path)
                # from the beginning again not even the first evaluation stays, which is of step 0
                late = pc.greater(table["step"], step if step > 0 else -1)
                if name == "rollouts" and pending:  # written whole later, with surprisals of steps that are thrown away
                    late = pc.or_(late, pc.equal(table["generation_step"], pending[0]["generation_step"]))
                if pc.any(late).as_py():
                    superseded.mkdir(exist_ok=True)
                    write_parquet_atomically(superseded / f"{path.stem}-after-{step}.parquet", table.schema, [table.filter(late)])
                    early = table.filter(pc.invert(late))
                    if early.num_rows:
                        write_parquet_atomically(path, early.schema, [early])
                    else:
                        path.unlink()
        writer = cls(run_dir, manifest, lock)
        writer.add_rows("rollouts", pending)
        return writer, last | {"flops/lost": lost}

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        if not self._lock.is_held:
            raise RecordError(f"{self.run_dir} is written by a later meter of this process, or was closed")
        with _writing_to(self.run_dir):
            yield

    def _write_manifest(self) -> None:
        write_json_atomically(self.run_dir / "manifest.json", self.manifest)

    def begin_after(self, step: int) -> None:
        """Say that the first line is of the step after this one: the training had begun before it was recorded."""
        self.manifest["begins_after_step"] = step
        with self._writing():
            self._write_manifest()

    def add_step(self, line: dict) -> None:
        """Append one step line; a KeyError for a key that the glossary does not define."""
        if unknown := set(line) - {"step", "generation_step"} - set(GLOSSARY):
            raise KeyError(f"metrics without a definition in the glossary: {', '.join(sorted(unknown))}")
        with self._writing(), open(self.run_dir / "steps.jsonl", "a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        waiting_bytes = sum(len(part) for _, parts, _ in self._segments.values() for part in parts)
        if time.monotonic() - self._flushed_at > FLUSH_SECONDS or waiting_bytes > BYTES_OF_SEGMENT:
            self.flush()

    def hold(self, step: int, rollouts: list[dict]) -> None:
        """Keep rollouts that the checkpoint of `step` finds half-trained in a file of their own, for a resume from it."""
        with self._writing():
            write_parquet_atomically(_pending_path(self.run_dir, step), SCHEMAS["rollouts"], [_table_of("rollouts", rollouts)])

    def add_rows(self, table: str, rows: list[dict]) -> None:
        """Collect rows of a table of `SCHEMAS` for the next segment; a KeyError for a column that it does not have, or a row
        without its step.
        """
        if unknown := set().union(*rows) - set(SCHEMAS[table].names):
            raise KeyError(f"table {table} has no column {', '.join(sorted(unknown))}")
        if any(row.get("step") is None for row in rows):  # resuming rests on it
            raise KeyError(f"a row of table {table} does not say which step it is of")
        number, parts, latest = self._segments[table]
        latest.extend(rows)
        if len(latest) >= ROWS_OF_PART:
            self._segments[table] = (number, [*parts, _packed(_table_of(table, latest))], [])

    def flush(self) -> None:
        """Write the collected rows as one new segment per table."""
        self._flushed_at = time.monotonic()
        for name, (number, parts, latest) in self._segments.items():
            if parts or latest:
                row_groups = _row_groups([*parts, _packed(_table_of(name, latest))])
                with self._writing():
                    write_parquet_atomically(self.run_dir / f"{name}-{number:05d}.parquet", SCHEMAS[name], row_groups)
                self._segments[name] = (number + 1, [], [])

    def close(self, state: str, reason: str | None = None) -> None:
        """Flush, write `finished` or `failed` with its reason into the manifest, and let others write."""
        self.manifest |= {"state": state, "reason": reason}
        try:
            self.flush()
        except RecordError as error:
            self.manifest |= {"state": "failed", "reason": str(error)}
            raise
        finally:
            try:
                with self._writing():
                    self._write_manifest()
                    if self.manifest["state"] == "finished":
                        for path in self.run_dir.glob("pending-*.parquet"):
                            path.unlink()
            finally:
                self._lock.release()
