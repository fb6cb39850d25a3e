"""The run directory: what it holds, and how it is read. `writer.py` writes it.

    manifest.json       what ran, on what, and how it ended
    steps.jsonl         one object per optimizer step; cumulative numbers count from the start of the run
    prompts-*.parquet   one row per prompt and generation step (rl, measure) or per labelled sequence (sft), pair or judged completion (preference)
    rollouts-*.parquet  one row per completion
    evals-*.parquet     one row per held-out problem and evaluation
    problems-*.parquet  one row per prompt that a measurement asked (measure)
    parts.jsonl         what a resume needs of a measurement's parts, each a step (measure)
    pending-*.parquet   rollouts that a checkpoint found half-trained, for a resume from it
    superseded/         rows of steps that a resume threw away
    writer.lock         held by the one process that writes; see `lock.py`

A parquet segment is complete or absent, a row is written once, an existing directory is never overwritten; any reader can read it.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 2

SCHEMAS = {
    "prompts": pa.schema(
        {
            "step": pa.int64(),  # optimizer step that trained on it (the first one, where rollouts are reused)
            "generation_step": pa.int64(),
            "problem_id": pa.string(),
            "probe": pa.string(),  # what a measurement changed to see if the skill is latent; null where nothing was changed
            "group_size": pa.int64(),  # null in sft
            "num_passed": pa.int64(),
            "pass_rate": pa.float64(),  # exact, before the step; null where it is not exact
            "selected_at_pass_rate": pa.float64(),  # what a curriculum took its pass rate for; null where none chose by that
            "step_pass_rates": pa.list_(pa.float64()),  # exact, of each digit given those before it
            "offered_bits": pa.float64(),  # per sample
            "offered_bits_estimator": pa.string(),  # exact, jackknife, surprisal, label or divergence
            "first_error_entropy_bits": pa.float64(),  # per rollout: what a process reward offers; null without step verdicts
            "first_error_entropy_estimator": pa.string(),  # exact or jackknife
        }
    ),
    "rollouts": pa.schema(
        {
            "step": pa.int64(),
            "generation_step": pa.int64(),
            "problem_id": pa.string(),
            "probe": pa.string(),  # as in prompts
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
            "log2_pass_rate": pa.float64(),  # exact: the answer with its end; null where it is not the pass rate
            "reference_log2_probability": pa.float64(),  # of the reference answer as the tokenizer writes it, with its end
            "token_log2_probabilities": pa.list_(pa.float64()),  # of its tokens
            "num_passed": pa.int64(),  # of the rollouts drawn where pass rates are not exact, else null
            "num_rollouts": pa.int64(),
            "pass_rate_low": pa.float64(),  # Wilson interval of the pass rate, 95 %
            "pass_rate_high": pa.float64(),
            "kl_to_start_bits": pa.float64(),  # of the policy from the start, from one rollout; null where it was not asked for
            "update_norm": pa.float64(),  # of the parameter change since the start, the same in all rows of an evaluation
            "total_flops": pa.float64(),  # training FLOPs so far
            "total_seconds": pa.float64(),
            "evaluation_flops": pa.float64(),  # what this evaluation of the split cost, the same in all its rows; part of no total
        }
    ),
    "problems": pa.schema(
        {
            "step": pa.int64(),
            "problem_id": pa.string(),
            "prompt": pa.string(),  # a conversation as JSON
            "answer": pa.string(),
            "label_surprisal_bits": pa.float64(),  # of the reference completion with its end, what a label would tell
        }
    ),
}


class RecordError(Exception):
    """A run directory that cannot be written or read; the message names it and how to fix it, in one line."""


class RecordWriteError(RecordError):
    """The disk refuses: it is full, or the folder cannot be written."""


def _damaged(fault: str) -> RecordError:
    return RecordError(f"{fault}: restore it or delete the run directory")


def read_manifest(run_dir: Path) -> dict:
    """Manifest of a run directory; a RecordError if there is none, or its schema is not the one this version reads."""
    path = run_dir / "manifest.json"
    if not path.is_file():
        raise RecordError(f"{run_dir} is not a run directory: it has no manifest.json")
    try:
        manifest = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(f"{path} is not JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise _damaged(f"{path} is not a manifest")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(
            f"{run_dir} has record schema {manifest.get('schema_version')}, this version reads {SCHEMA_VERSION}: "
            "read it with the version of bitsample_llm named in its manifest"
        )
    if not isinstance(manifest.get("state"), str):
        raise _damaged(f"{path} has no 'state' that is a text")
    return manifest


def holds_unfinished_run(run_dir: Path) -> bool:
    """Whether a directory holds a run that could be resumed."""
    return (run_dir / "manifest.json").exists() and read_manifest(run_dir)["state"] != "finished"


def check_run_dir(run_dir: Path, resume: bool) -> None:
    """Refuse to overwrite a run, and to resume one that is absent or finished: a RecordError says how to fix it."""
    if resume:
        if read_manifest(run_dir)["state"] == "finished":
            raise RecordError(f"{run_dir} holds a finished run: there is nothing to resume, name another --output_dir")
    elif (run_dir / "manifest.json").exists():
        state = read_manifest(run_dir)["state"]
        or_resume = "" if state == "finished" else ", or resume it with --resume_from_checkpoint last"
        raise RecordError(f"{run_dir} holds a {state} run, which is never overwritten: name another --output_dir{or_resume}")
    elif (run_dir / "steps.jsonl").exists():
        raise RecordError(f"{run_dir} holds step lines but no manifest.json: name another --output_dir")


def step_lines(path: Path, after: int = 0) -> list[dict]:
    """The step lines that end in a newline, of the steps after `after`; a kill can leave a torn one at the end.

    Raises:
        RecordError: for a line that is no step line, and for a step that is missing, there twice or out of order.
    """
    try:
        texts = path.read_text().splitlines(keepends=True) if path.is_file() else []
    except UnicodeDecodeError as error:
        raise _damaged(f"{path} is not text ({error})") from error
    lines = []
    for number, text in enumerate(texts, start=1):
        if not text.endswith("\n"):
            break
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise _damaged(f"{path} holds a line that is not JSON ({error})") from error
        step = line.get("step") if isinstance(line, dict) else None
        if not isinstance(step, int):
            raise _damaged(f"line {number} of {path} does not say its step")
        if step != (expected := after + number):
            raise RecordError(
                f"line {number} of {path} is of step {step} where step {expected} belongs: the record is not of one run, "
                "restore it or run again in another --output_dir"
            )
        lines.append(line)
    return lines


@dataclass(frozen=True)
class Run:
    """One run as recorded. `steps` are the step lines; tables are read on demand."""

    run_dir: Path
    manifest: dict
    steps: list[dict]

    def table(self, name: str) -> pa.Table:
        """All rows of a table of `SCHEMAS`, in the order they were written; columns that a segment lacks are null.

        Raises:
            RecordError: for a file that is not parquet, or whose columns are of another type.
        """
        with self._reading(name) as paths:
            segments = [SCHEMAS[name].empty_table(), *map(pq.read_table, paths)]
            return pa.concat_tables(segments, promote_options="default")

    def check_table(self, name: str) -> None:
        """Raise what `table` would raise; reads a part at a time, since a table with texts may not fit into memory."""
        with self._reading(name) as paths:
            for file in map(pq.ParquetFile, paths):
                pa.unify_schemas([SCHEMAS[name], file.schema_arrow], promote_options="default")
                for _ in file.iter_batches():
                    pass

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[list[Path]]:
        """Files of a table; what cannot be read of them is told in one line."""
        try:
            yield sorted(self.run_dir.glob(f"{name}-*.parquet"))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
            raise RecordError(f"table {name} of {self.run_dir} cannot be read: {str(error).splitlines()[0]}") from error


def read_run(run_dir: str | Path) -> Run:
    """The run recorded in a directory.

    Raises:
        RecordError: if it is no run directory, has another schema, or its steps are not one after the other.
    """
    run_dir = Path(run_dir)
    manifest = read_manifest(run_dir)
    return Run(run_dir, manifest, step_lines(run_dir / "steps.jsonl", manifest.get("begins_after_step", 0)))
