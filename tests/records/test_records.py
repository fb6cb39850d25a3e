"""The run directory: nothing is overwritten, torn, lost or written twice, and what a resume throws away is counted."""

import errno
import json
import os
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bitsample_llm.records import SCHEMA_VERSION, SCHEMAS, RecordError, read_run
from bitsample_llm.records import writer as run_writer
from bitsample_llm.records.glossary import PHASES, TRAINING_PHASES
from bitsample_llm.records.writer import RunWriter

PATTERN_BY_TABLE = {table: f"{table}-*.parquet" for table in SCHEMAS}


class Life:
    """A run from its start, or from a resume, up to where it is killed; every row carries its name."""

    def __init__(self, name: str, writer: RunWriter, last: dict | None = None):
        self.name = name
        self.writer = writer
        self.cumulative: dict[str, float] = defaultdict(float, {k: v for k, v in (last or {}).items() if k.startswith("flops/")})
        self.spent = 0.0

    def train(self, steps, flush_every: int = 2) -> "Life":
        """Take the steps, each of its own cost, with a segment every few steps and one at the end."""
        for step in steps:
            for index, phase in enumerate(PHASES):
                self.cumulative[f"flops/{phase}"] += 10.0**index * step
            self.spent += sum(10.0**index * step for index, phase in enumerate(PHASES) if phase in TRAINING_PHASES)
            self.cumulative["flops/total"] = sum(self.cumulative[f"flops/{phase}"] for phase in TRAINING_PHASES)
            self.cumulative["flops/lost"] += 0.0
            self.writer.add_step({"step": step, **self.cumulative})
            for table in SCHEMAS:
                self.writer.add_rows(table, [{"step": step, "problem_id": f"{self.name}{step}"}])
            if step % flush_every == 0:
                self.writer.flush()
        self.writer.flush()
        return self


def first_life(run_dir: Path, last_step: int = 6, flush_every: int = 2) -> Life:
    life = Life("a", RunWriter.create(run_dir, {"seed": 0}))
    for table in SCHEMAS:
        life.writer.add_rows(table, [{"step": 0, "problem_id": "a0"}])
    return life.train(range(1, last_step + 1), flush_every)


def next_life(name: str, run_dir: Path, step: int) -> Life:
    return Life(name, *RunWriter.resume(run_dir, step))


def rows(folder: Path, table: str) -> list[str]:
    """Names of a table's rows in a folder, in the order of its segments."""
    return [row["problem_id"] for path in sorted(folder.glob(PATTERN_BY_TABLE[table])) for row in pq.read_table(path).to_pylist()]


def steps(*paths: Path) -> list[int]:
    return [json.loads(line)["step"] for path in paths for line in path.read_text().splitlines()]


def names(life: str, *numbers: int) -> list[str]:
    return [f"{life}{number}" for number in numbers]


def test_what_is_written_is_what_is_read(tmp_path):
    writer = RunWriter.create(tmp_path / "deep" / "run", {"seed": 3, "arm": "sft"})
    line = {"step": 1, "generation_step": None, "train/loss": None, "flops/total": 1e15}
    rollouts = [
        {"step": 1, "problem_id": "p", "text": "１\ud7ff\0", "ended": True, "rewards": {"outcome": 1.0}, "surprisal_bits": 0.1}
    ]
    writer.add_step(line)
    writer.add_rows("rollouts", rollouts)
    writer.add_rows("prompts", [{"step": 1, "step_pass_rates": [0.5, 1.0]}])
    assert read_run(tmp_path / "deep" / "run").manifest["state"] == "running"
    writer.close("finished")
    run = read_run(tmp_path / "deep" / "run")
    assert run.manifest == {"schema_version": SCHEMA_VERSION, "seed": 3, "arm": "sft", "state": "finished", "reason": None}
    assert run.steps == [line]
    written = run.table("rollouts").to_pylist()[0]
    assert {key: written[key] for key in rollouts[0]} == rollouts[0] | {"rewards": [("outcome", 1.0)]}
    assert written["passed"] is None
    assert run.table("prompts")["step_pass_rates"].to_pylist() == [[0.5, 1.0]]
    assert (run.table("evals").num_rows, run.table("evals").schema) == (0, SCHEMAS["evals"])


def test_segments_hold_each_row_once_in_order(tmp_path):
    first_life(tmp_path, last_step=5).writer.flush()
    for table in SCHEMAS:
        assert len(list(tmp_path.glob(PATTERN_BY_TABLE[table]))) == 3
        assert rows(tmp_path, table) == names("a", *range(6)) == read_run(tmp_path).table(table)["problem_id"].to_pylist()


def test_many_rows_wait_packed_and_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(run_writer, "PARTS_OF_ROW_GROUP", 3)
    writer = RunWriter.create(tmp_path, {})
    for step in range(2, 90):
        writer.add_rows("rollouts", [{"step": step, "sample": sample, "rewards": {"exact": 0.5}} for sample in range(7 * step)])
    _, parts, latest = writer._segments["rollouts"]
    assert sum(map(len, parts)) < 30 * (7 * sum(range(2, 90)) - len(latest))
    writer.close("finished")
    file = pq.ParquetFile(tmp_path / "rollouts-00000.parquet")
    assert file.num_row_groups == -(-(len(parts) + 1) // 3) and not list(tmp_path.glob("*.tmp"))
    table = file.read()
    place = list(zip(table["step"].to_pylist(), table["sample"].to_pylist(), strict=True))
    assert place == [(step, sample) for step in range(2, 90) for sample in range(7 * step)]
    assert table["rewards"].to_pylist() == [[("exact", 0.5)]] * len(place)


def test_what_waits_is_written_at_the_end_of_a_step_once_it_is_large(tmp_path, monkeypatch):
    monkeypatch.setattr(run_writer, "BYTES_OF_SEGMENT", 2**17)
    writer, largest = RunWriter.create(tmp_path, {}), 0
    for step in range(1, 61):
        writer.add_rows("rollouts", [{"step": step, "sample": sample, "text": f"{step**9 * sample**5:x}"} for sample in range(700)])
        largest = max(largest, sum(map(len, writer._segments["rollouts"][1])))
        writer.add_step({"step": step})
    assert 2**17 < largest < 1.3 * 2**17
    segments = [pq.read_table(path)["step"].to_pylist() for path in sorted(tmp_path.glob("rollouts-*.parquet"))]
    assert len(segments) > 2 and all(segment.count(segment[-1]) == 700 for segment in segments)  # no step is torn apart
    writer.close("finished")
    assert read_run(tmp_path).table("rollouts")["step"].to_pylist() == [step for step in range(1, 61) for _ in range(700)]


@pytest.mark.parametrize(("state", "mend"), [("finished", "another --output_dir"), ("running", "resume"), ("failed", "resume")])
def test_directory_that_holds_a_run_is_refused_with_the_mend(tmp_path, state, mend):
    writer = first_life(tmp_path).writer
    if state != "running":
        writer.close(state, "a reason")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RecordError, match=f"{tmp_path}.*{state}.*{mend}"):
        RunWriter.create(tmp_path, {})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_finished_and_absent_runs_cannot_be_resumed(tmp_path):
    first_life(tmp_path / "run").writer.close("finished")
    with pytest.raises(RecordError, match=r"finished.*another --output_dir"):
        RunWriter.resume(tmp_path / "run", 4)
    with pytest.raises(RecordError, match="not a run directory"):
        RunWriter.resume(tmp_path / "none", 4)
    with pytest.raises(RecordError, match="not a run directory"):
        read_run(tmp_path / "none")


def test_metric_without_a_definition_is_refused_and_leaves_no_line(tmp_path):
    writer = RunWriter.create(tmp_path, {})
    with pytest.raises(KeyError, match="bits/made_up"):
        writer.add_step({"step": 1, "flops/total": 1.0, "bits/made_up": 2.0})
    with pytest.raises(ValueError, match="JSON"):
        writer.add_step({"step": 1, "train/loss": float("nan")})
    with pytest.raises(KeyError, match="made_up"):
        writer.add_rows("made_up", [{"step": 1}])
    assert read_run(tmp_path).steps == []


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, None, "1"])
def test_records_of_another_schema_are_refused(tmp_path, version):
    first_life(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"schema_version": version}))
    for touch in (read_run, lambda path: RunWriter.create(path, {}), lambda path: RunWriter.resume(path, 4)):
        with pytest.raises(RecordError, match=f"schema {version}.*version"):
            touch(tmp_path)


@pytest.mark.parametrize("torn", ['{"step": 7, "flops/to', '{"step": 7}', "{"])
def test_torn_last_line_is_ignored_and_does_not_survive_a_resume(tmp_path, torn):
    first_life(tmp_path)
    with open(tmp_path / "steps.jsonl", "a") as file:
        file.write(torn)
    assert [line["step"] for line in read_run(tmp_path).steps] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(RecordError, match="no record of it: resume an earlier checkpoint"):
        RunWriter.resume(tmp_path, 7)
    next_life("b", tmp_path, 6).train([7])
    assert steps(tmp_path / "steps.jsonl") == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("flush_every", [1, 2, 3, 100])  # 3 and 100 make segments that straddle the checkpoint
def test_resume_moves_later_rows_away_and_counts_their_flops_as_lost(tmp_path, flush_every):
    killed = first_life(tmp_path, last_step=6, flush_every=flush_every)
    spent_by_step_4 = read_run(tmp_path).steps[3]["flops/total"]
    resumed = next_life("b", tmp_path, 4)
    assert resumed.cumulative["flops/lost"] == killed.spent - spent_by_step_4 > 0
    resumed.train(range(5, 8)).writer.close("finished")
    run = read_run(tmp_path)
    assert [line["step"] for line in run.steps] == [1, 2, 3, 4, 5, 6, 7]
    assert run.steps[-1]["flops/total"] + run.steps[-1]["flops/lost"] == killed.spent + resumed.spent
    assert run.manifest["resumed_at"] == [4]
    assert steps(tmp_path / "superseded" / "steps-00000.jsonl") == [5, 6]
    for table in SCHEMAS:
        assert rows(tmp_path, table) == names("a", 0, 1, 2, 3, 4) + names("b", 5, 6, 7)
        assert rows(tmp_path / "superseded", table) == names("a", 5, 6)


def test_resume_at_the_last_step_throws_nothing_away(tmp_path):
    first_life(tmp_path)
    resumed = next_life("b", tmp_path, 6)
    assert resumed.cumulative["flops/lost"] == 0
    assert not (tmp_path / "superseded").exists()


@pytest.mark.parametrize("flush_every", [2, 100])
def test_resume_at_step_zero_supersedes_everything(tmp_path, flush_every):
    killed = first_life(tmp_path, flush_every=flush_every)
    writer, last = RunWriter.resume(tmp_path, 0)
    assert last == {"flops/lost": killed.spent}
    assert read_run(tmp_path).steps == []
    for table in SCHEMAS:
        assert rows(tmp_path, table) == []
        assert rows(tmp_path / "superseded", table) == names("a", *range(7))
    again = Life("b", writer, last).train([1])
    assert again.cumulative["flops/total"] + again.cumulative["flops/lost"] == killed.spent + again.spent


@pytest.mark.parametrize("flush_every", [1, 2, 100])
def test_two_resumes_lose_and_duplicate_nothing(tmp_path, flush_every):
    lives = [first_life(tmp_path, flush_every=flush_every)]
    lives.append(next_life("b", tmp_path, 4).train([5, 6, 7], flush_every))
    lives.append(next_life("c", tmp_path, 2).train([3], flush_every))
    last = read_run(tmp_path).steps[-1]
    assert last["flops/total"] + last["flops/lost"] == sum(life.spent for life in lives)
    assert steps(tmp_path / "steps.jsonl") == [1, 2, 3]
    assert sorted(steps(*(tmp_path / "superseded").glob("steps-*.jsonl"))) == [3, 4, 5, 5, 6, 6, 7]
    for table in SCHEMAS:
        assert rows(tmp_path, table) == names("a", 0, 1, 2) + names("c", 3)
        assert sorted(rows(tmp_path / "superseded", table)) == names("a", 3, 4, 5, 6) + names("b", 5, 6, 7)


@pytest.mark.parametrize("second_step", [4, 2])
def test_resume_after_a_resume_without_a_step_remembers_the_lost_flops(tmp_path, second_step):
    killed = first_life(tmp_path)
    RunWriter.resume(tmp_path, 4)
    resumed = next_life("c", tmp_path, second_step)
    assert resumed.cumulative["flops/total"] + resumed.cumulative["flops/lost"] == killed.spent


def no_space(*paths):
    """What `os.replace` does on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(paths[0]))


def test_run_that_cannot_be_started_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=f"cannot write records to {tmp_path / 'file' / 'run'}"):
        RunWriter.create(tmp_path / "file" / "run", {})
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(RecordError, match=f"{tmp_path / 'run'}: No space left"):
        RunWriter.create(tmp_path / "run", {})


def test_full_disk_leaves_no_half_segment_and_rows_are_written_once_there_is_room(tmp_path, monkeypatch):
    writer = first_life(tmp_path).writer
    writer.add_rows("prompts", [{"step": 7, "problem_id": "a7"}])
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_space)
        with pytest.raises(RecordError, match="No space left"):
            writer.flush()
    assert rows(tmp_path, "prompts") == read_run(tmp_path).table("prompts")["problem_id"].to_pylist() == names("a", *range(7))
    writer.flush()
    assert rows(tmp_path, "prompts") == names("a", *range(8))
