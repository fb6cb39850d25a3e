"""The run directory: what it holds, and all reading and writing of it.

    manifest.json       what ran, on what, and how it ended
    steps.jsonl         one object an optimizer step, cumulative numbers from the start of the run
    prompts-*.parquet   one row a prompt and generation step (rl) or a labelled sequence (sft)
    rollouts-*.parquet  one row a completion
    evals-*.parquet     one row a held-out problem and evaluation
    pending-*.parquet   rollouts that a checkpoint found half-trained, for a resume from it
    superseded/         rows of steps that a resume threw away

A parquet segment is complete or absent, a row is written once, and an existing directory is never overwritten. Any
reader of parquet and JSON can read it as it is.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bitsample_llm.glossary import TRAINING_PHASES, unknown_keys

SCHEMA_VERSION = 2
FLUSH_SECONDS = 300  # rows wait no longer than this and a step

SCHEMAS = {
    "prompts": pa.schema(
        {
            "step": pa.int64(),  # optimizer step that trained on it (the first one, where rollouts are reused)
            "generation_step": pa.int64(),
            "problem_id": pa.string(),
            "group_size": pa.int64(),  # null in sft
            "num_passed": pa.int64(),
            "pass_rate": pa.float64(),  # exact, before the step; null where it is not exact
            "step_pass_rates": pa.list_(pa.float64()),  # exact, of each digit given those before it
            "offered_bits": pa.float64(),  # a sample
            "offered_bits_estimator": pa.string(),  # exact, jackknife or surprisal
            "first_error_entropy_bits": pa.float64(),  # a rollout, what a process reward offers; null without step verdicts
            "first_error_entropy_estimator": pa.string(),  # exact or jackknife
        }
    ),
    "rollouts": pa.schema(
        {
            "step": pa.int64(),
            "generation_step": pa.int64(),
            "problem_id": pa.string(),
            "sample": pa.int64(),  # index in its group
            "text": pa.string(),
            "ended": pa.bool_(),
            "num_tokens": pa.int64(),
            "rewards": pa.map_(pa.string(), pa.float64()),
            "reward": pa.float64(),  # the weighted sum; null where no function scored it
            "passed": pa.bool_(),  # null where nothing tells
            "reason": pa.string(),
            "num_steps": pa.int64(),
            "num_correct_before_first_error": pa.int64(),
            "surprisal_bits": pa.float64(),
        }
    ),
    "evals": pa.schema(
        {
            "step": pa.int64(),
            "split": pa.string(),
            "problem_id": pa.string(),
            "log2_pass_rate": pa.float64(),  # exact: the answer with its end
            "token_log2_probabilities": pa.list_(pa.float64()),
            "update_norm": pa.float64(),  # of the parameter change since the start, one number an evaluation
            "total_flops": pa.float64(),  # training FLOPs so far
            "total_seconds": pa.float64(),
        }
    ),
}


class RecordError(Exception):
    """A run directory that cannot be written or read; the message names it and the mend, in one line."""


class RecordWriteError(RecordError):
    """The disk refuses: it is full, or the folder cannot be written."""


def write_text_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json_atomically(path: Path, content: dict) -> None:
    """Write a JSON object as `write_text_atomically` does."""
    write_text_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_parquet_atomically(path: Path, table: pa.Table) -> None:
    """Write a parquet segment that is complete or absent."""
    temporary = path.with_suffix(".tmp")
    try:
        pq.write_table(table, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_manifest(run_dir: Path) -> dict:
    """Manifest of a run directory.

    Raises:
        RecordError: if there is none, or its schema is not the one this version reads.
    """
    path = run_dir / "manifest.json"
    if not path.is_file():
        raise RecordError(f"{run_dir} is not a run directory: it has no manifest.json")
    try:
        manifest = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is not JSON ({error}): restore it or delete the run directory") from error
    if not isinstance(manifest, dict):
        raise RecordError(f"{path} is not a manifest: restore it or delete the run directory")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(
            f"{run_dir} has record schema {manifest.get('schema_version')}, this version reads {SCHEMA_VERSION}: "
            "read it with the version of bitsample_llm named in its manifest"
        )
    return manifest


def holds_unfinished_run(run_dir: Path) -> bool:
    """Whether a directory holds a run that could be resumed."""
    return (run_dir / "manifest.json").exists() and read_manifest(run_dir)["state"] != "finished"


def check_run_dir(run_dir: Path, resume: bool) -> None:
    """Refuse to overwrite a run, and to resume one that is absent or finished.

    Raises:
        RecordError: naming the mend.
    """
    if resume:
        if read_manifest(run_dir)["state"] == "finished":
            raise RecordError(f"{run_dir} holds a finished run: there is nothing to resume, name another --output_dir")
    elif (run_dir / "manifest.json").exists():
        state = read_manifest(run_dir)["state"]
        mend = "" if state == "finished" else ", or resume it with --resume_from_checkpoint last"
        raise RecordError(f"{run_dir} holds a {state} run, which is never overwritten: name another --output_dir{mend}")
    elif (run_dir / "steps.jsonl").exists():
        raise RecordError(f"{run_dir} holds step lines but no manifest.json: name another --output_dir")


def _step_lines(path: Path) -> list[dict]:
    """The step lines that end in a newline; a kill can leave a torn one at the end.

    Raises:
        RecordError: for a line that is not JSON.
    """
    if not path.is_file():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} holds a line that is not JSON ({error}): restore it or delete the run directory") from error


@contextlib.contextmanager
def _writing_to(run_dir: Path) -> Iterator[None]:
    """What the disk refuses is one line that names the place."""
    try:
        yield
    except OSError as error:
        message = f"cannot write records to {run_dir}: {error.strerror}; make room and resume the run"
        raise RecordWriteError(message) from error


def _pending_path(run_dir: Path, step: int) -> Path:
    return run_dir / f"pending-{step:08d}.parquet"


def pending_rows(run_dir: Path, step: int) -> list[dict]:
    """Rollouts that the checkpoint of a step found half-trained."""
    path = _pending_path(run_dir, step)
    return pq.read_table(path).to_pylist() if path.is_file() else []


class RunWriter:
    """Writes one run directory; made by `create` or `resume`.

    Rows are collected and written as segments by `flush`; the step lines are written at once. Only one process of a run
    may hold a writer.
    """

    def __init__(self, run_dir: Path, manifest: dict):
        self.run_dir = run_dir
        self.manifest = manifest
        self._rows: dict[str, list[dict]] = {table: [] for table in SCHEMAS}
        self._flushed_at = time.monotonic()

    @classmethod
    def create(cls, run_dir: Path, manifest: dict) -> "RunWriter":
        """Start a new run directory.

        Raises:
            RecordError: if the directory holds a run already.
        """
        check_run_dir(run_dir, resume=False)
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            writer = cls(run_dir, {"schema_version": SCHEMA_VERSION, **manifest, "state": "running"})
            write_json_atomically(run_dir / "manifest.json", writer.manifest)
        except OSError as error:
            raise RecordWriteError(f"cannot write records to {run_dir}: {error.strerror}") from error
        return writer

    @classmethod
    def resume(cls, run_dir: Path, step: int) -> tuple["RunWriter", dict]:
        """Continue a run after `step`: its writer, and the step line to count on from (empty at step 0).

        Rows and lines of later steps move to `superseded/`, what they cost is added to `flops/lost`.

        Raises:
            RecordError: if there is no run, it is finished, or it has no record of `step`.
        """
        check_run_dir(run_dir, resume=True)
        with _writing_to(run_dir):
            return cls._resumed(run_dir, step)

    @classmethod
    def _resumed(cls, run_dir: Path, step: int) -> tuple["RunWriter", dict]:
        """What `resume` does. A kill at any point of it leaves what the next resume puts right."""
        manifest = read_manifest(run_dir)
        lines = _step_lines(run_dir / "steps.jsonl")
        kept = [line for line in lines if line["step"] <= step]
        if step > 0 and (not kept or kept[-1]["step"] != step):
            raise RecordError(f"{run_dir} has a checkpoint of step {step} but no record of it: resume an earlier checkpoint")
        last = kept[-1] if kept else {}
        cut = step if step > 0 else -1  # from the beginning again, so not even the first evaluation stays
        superseded = run_dir / "superseded"
        lost = max(manifest.get("lost_flops", 0.0), *(line["flops/lost"] for line in lines), 0.0)
        num_dropped = manifest.get("superseded_step_files", 0)
        dropped = "".join(json.dumps(line) + "\n" for line in lines[len(kept) :])
        previous = superseded / f"steps-{num_dropped - 1:05d}.jsonl"
        if dropped and not (previous.is_file() and previous.read_text() == dropped):  # else a killed resume got this far
            superseded.mkdir(exist_ok=True)
            write_text_atomically(superseded / f"steps-{num_dropped:05d}.jsonl", dropped)
            lost += sum(lines[-1][f"flops/{phase}"] - last.get(f"flops/{phase}", 0) for phase in TRAINING_PHASES)
            num_dropped += 1
        resumed_at = [*manifest.get("resumed_at", []), step]
        manifest |= {"state": "running", "reason": None, "lost_flops": lost, "resumed_at": resumed_at}
        write_json_atomically(run_dir / "manifest.json", manifest | {"superseded_step_files": num_dropped})
        write_text_atomically(run_dir / "steps.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        pending = pending_rows(run_dir, step)
        for name in SCHEMAS:
            for path in sorted(run_dir.glob(f"{name}-*.parquet")):
                table = pq.read_table(path)
                late = pc.greater(table["step"], cut)
                if name == "rollouts" and pending:  # written whole later, with surprisals of steps that are thrown away
                    late = pc.or_(late, pc.equal(table["generation_step"], pending[0]["generation_step"]))
                if pc.any(late).as_py():
                    superseded.mkdir(exist_ok=True)
                    write_parquet_atomically(superseded / f"{path.stem}-after-{step}.parquet", table.filter(late))
                    early = table.filter(pc.invert(late))
                    if early.num_rows:
                        write_parquet_atomically(path, early)
                    else:
                        path.unlink()
        writer = cls(run_dir, read_manifest(run_dir))
        writer.add_rows("rollouts", pending)
        return writer, last | {"flops/lost": lost}

    def add_step(self, line: dict) -> None:
        """Append one step line.

        Raises:
            KeyError: for a key that the glossary does not define.
        """
        if unknown := unknown_keys(set(line) - {"step", "generation_step"}):
            raise KeyError(f"metrics without a definition in the glossary: {', '.join(unknown)}")
        with _writing_to(self.run_dir), open(self.run_dir / "steps.jsonl", "a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        if time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self.flush()

    def hold(self, step: int, rollouts: list[dict]) -> None:
        """Keep rollouts that the checkpoint of `step` finds half-trained, beside the tables: a resume from it takes them in.

        The run itself goes on to record them whole.
        """
        with _writing_to(self.run_dir):
            table = pa.Table.from_pylist(rollouts, schema=SCHEMAS["rollouts"])
            write_parquet_atomically(_pending_path(self.run_dir, step), table)

    def add_rows(self, table: str, rows: list[dict]) -> None:
        """Collect rows of `prompts`, `rollouts` or `evals` for the next segment.

        Raises:
            KeyError: for a column that the table's schema does not have, or a row without its step.
        """
        for row in rows:
            if unknown := set(row) - set(SCHEMAS[table].names):
                raise KeyError(f"table {table} has no column {', '.join(sorted(unknown))}")
            if row.get("step") is None:  # resuming rests on it
                raise KeyError(f"a row of table {table} does not say which step it is of")
        self._rows[table].extend(rows)

    def flush(self) -> None:
        """Write the collected rows as one new segment a table."""
        self._flushed_at = time.monotonic()
        for name, rows in self._rows.items():
            if rows:
                taken = [*self.run_dir.glob(f"{name}-*.parquet"), *self.run_dir.glob(f"superseded/{name}-*.parquet")]
                number = max((int(path.stem.split("-")[1]) + 1 for path in taken), default=0)
                table = pa.Table.from_pylist(rows, schema=SCHEMAS[name])
                with _writing_to(self.run_dir):
                    write_parquet_atomically(self.run_dir / f"{name}-{number:05d}.parquet", table)
                rows.clear()

    def close(self, state: str, reason: str | None = None) -> None:
        """Flush, and write `finished` or `failed` with its reason into the manifest."""
        self.manifest |= {"state": state, "reason": reason}
        try:
            self.flush()
            if state == "finished":
                for path in self.run_dir.glob("pending-*.parquet"):
                    path.unlink()
        except RecordError as error:
            self.manifest |= {"state": "failed", "reason": str(error)}
            raise
        finally:
            with _writing_to(self.run_dir):
                write_json_atomically(self.run_dir / "manifest.json", self.manifest)


@dataclass(frozen=True)
class Run:
    """One run as recorded. `steps` are the step lines; tables are read on demand."""

    run_dir: Path
    manifest: dict
    steps: list[dict]

    def table(self, name: str) -> pa.Table:
        """All rows of `prompts`, `rollouts` or `evals`, in the order they were written.

        Raises:
            RecordError: for a file that is not parquet.
        """
        paths = sorted(self.run_dir.glob(f"{name}-*.parquet"))
        try:
            return pa.concat_tables([pq.read_table(path) for path in paths]) if paths else SCHEMAS[name].empty_table()
        except pa.ArrowInvalid as error:
            raise RecordError(f"table {name} of {self.run_dir} cannot be read: {str(error).splitlines()[0]}") from error


def read_run(run_dir: str | Path) -> Run:
    """The run recorded in a directory.

    Raises:
        RecordError: if it is no run directory or has another schema.
    """
    run_dir = Path(run_dir)
    manifest = read_manifest(run_dir)
    return Run(run_dir, manifest, _step_lines(run_dir / "steps.jsonl"))
