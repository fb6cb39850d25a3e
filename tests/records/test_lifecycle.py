"""The life of a run directory: one writer, `finished` after everything else, and a record that goes on where a run stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import BASE, REPOSITORY, forked
from test_meter import TASK, metered, rl_trainer, sft_trainer
from test_recipes import SMALL
from test_records import first_life, next_life, rows, steps
from transformers import TrainerCallback

from bitsample_llm.meter.heldout import HeldOut
from bitsample_llm.records import RecordError, lock, read_run
from bitsample_llm.records import writer as run_writer
from bitsample_llm.records.glossary import TRAINING_PHASES
from bitsample_llm.records.writer import RunWriter

# ---- one writer ------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from bitsample_llm.records.writer import RunWriter
how, run_dir = sys.argv[1], Path(sys.argv[2])
writer = RunWriter.create(run_dir, {}) if how == "create" else RunWriter.resume(run_dir, 0)[0]
print("writing", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other_writer():
    """Starts a process that writes a run directory until it is killed."""
    started = []

    def start(how: str, run_dir) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, how, str(run_dir)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY))
        assert started[-1].stdout.readline() == "writing\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_second_process_is_refused_while_the_first_lives_and_let_in_after_its_kill(tmp_path, other_writer, monkeypatch):
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.2)
    process = other_writer("create", tmp_path / "run")
    with pytest.raises(RecordError, match=rf"another process \(pid {process.pid} on .*\) is writing {tmp_path / 'run'}"):
        RunWriter.resume(tmp_path / "run", 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    next_life("b", tmp_path / "run", 0).train([1]).writer.close("finished")
    assert read_run(tmp_path / "run").manifest["state"] == "finished"


def test_a_writer_waits_for_what_a_kill_left_over(tmp_path, other_writer):
    process = other_writer("create", tmp_path / "run")
    killer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {process.pid}"])
    next_life("b", tmp_path / "run", 0).train([1])
    killer.wait()
    assert steps(tmp_path / "run" / "steps.jsonl") == [1]


def test_a_later_writer_of_the_same_process_takes_over_and_the_earlier_one_writes_no_more(tmp_path):
    earlier = first_life(tmp_path).writer
    later = next_life("b", tmp_path, 4)
    with pytest.raises(RecordError, match="a later meter of this process"):
        earlier.add_step({"step": 7})
    with pytest.raises(RecordError, match="a later meter of this process"):
        earlier.close("finished")
    later.train([5, 6]).writer.close("finished")
    assert steps(tmp_path / "steps.jsonl") == [1, 2, 3, 4, 5, 6]


def test_a_closed_run_can_be_resumed_by_another_process_while_the_first_lives_on(tmp_path, other_writer):
    first_life(tmp_path).writer.close("failed", "KeyboardInterrupt")
    other_writer("resume", tmp_path)
    assert read_run(tmp_path).manifest["state"] == "running"


@pytest.mark.parametrize(
    ("numbers", "line", "found", "expected"),
    [([1, 2, 2, 3], 3, 2, 3), ([1, 3], 2, 3, 2), ([2, 3], 1, 2, 1), ([2, 1], 1, 2, 1), ([1, 2, 3, 1], 4, 1, 4)],
    ids=["twice", "missing", "the first missing", "out of order", "from the beginning again"],
)
def test_steps_that_are_not_one_after_the_other_are_refused_by_file_and_step(tmp_path, numbers, line, found, expected):
    first_life(tmp_path, last_step=2).writer.close("failed")
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps({"step": number}) + "\n" for number in numbers))
    for touch in (read_run, lambda path: RunWriter.resume(path, 2)):
        with pytest.raises(
            RecordError, match=rf"line {line} of {tmp_path / 'steps.jsonl'} is of step {found} where step {expected} "
        ):
            touch(tmp_path)


@pytest.mark.parametrize("text", ["[1]", "{}", '{"step": "1"}', "null"])
def test_a_line_that_is_no_step_line_is_refused_by_its_number(tmp_path, text):
    first_life(tmp_path, last_step=1)
    (tmp_path / "steps.jsonl").write_text(text + "\n")
    with pytest.raises(RecordError, match=rf"line 1 of {tmp_path / 'steps.jsonl'} does not say its step"):
        read_run(tmp_path)


def test_rows_are_written_once_where_an_interrupt_meets_the_writing(tmp_path, monkeypatch):
    writer = first_life(tmp_path, last_step=2).writer
    original = run_writer.write_parquet_atomically

    def interrupted(*arguments):
        original(*arguments)
        raise KeyboardInterrupt

    writer.add_rows("prompts", [{"step": 3, "problem_id": "a3"}])
    with monkeypatch.context() as patch:
        patch.setattr(run_writer, "write_parquet_atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.flush()
    writer.close("failed", "KeyboardInterrupt")
    assert rows(tmp_path, "prompts") == ["a0", "a1", "a2", "a3"]


# ---- one trainer, several trainings ----------------------------------------------------------------------------------


class RaiseAt(TrainerCallback):
    """Raises once, before a step."""

    def __init__(self, step: int, error: BaseException):
        self.step, self.error = step, error

    def on_step_begin(self, args, state, control, **kwargs):
        """Raise after so many steps."""
        if state.global_step == self.step and self.error is not None:
            error, self.error = self.error, None
            raise error


def trainer_of(make, base_model, folder, **options):
    """A trainer of 6 steps that saves at every second one; GRPO takes two steps a generation."""
    sizes = {} if make is sft_trainer else {"steps_per_generation": 2, "generation_batch_size": None}
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 8} | sizes | options
    return make(base_model, folder, **options)


def spent_flops(meter) -> float:
    return sum(meter.counter.executed_flops[phase] for phase in TRAINING_PHASES)


@pytest.mark.parametrize("make", [sft_trainer, rl_trainer], ids=["sft", "grpo"])
def test_an_interrupted_training_resumed_on_the_same_trainer_is_one_record(base_model, tmp_path, make):
    trainer = trainer_of(make, base_model, tmp_path)
    meter = metered(trainer, tmp_path, evaluation=HeldOut({"heldout": TASK.problems("heldout", 4, seed=0)}))
    trainer.add_callback(RaiseAt(3, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    run = read_run(tmp_path / "run")
    assert (run.manifest["state"], run.manifest["reason"]) == ("failed", "KeyboardInterrupt")
    assert [line["step"] for line in run.steps] == [1, 2, 3]
    trainer.train(resume_from_checkpoint=True)
    run = read_run(tmp_path / "run")
    assert (run.manifest["state"], run.manifest["resumed_at"]) == ("finished", [2])
    assert [line["step"] for line in run.steps] == [1, 2, 3, 4, 5, 6]
    assert steps(tmp_path / "run" / "superseded" / "steps-00000.jsonl") == [3]
    evals = run.table("evals").to_pylist()
    assert [(row["step"], row["split"]) for row in evals] == [(0, "heldout")] * 4 + [(6, "heldout")] * 4
    assert run.steps[-1]["flops/total"] + run.steps[-1]["flops/lost"] == pytest.approx(spent_flops(meter), rel=1e-12)
    assert run.steps[-1]["flops/lost"] > 0
    if make is sft_trainer:
        assert [row["step"] for row in run.table("prompts").to_pylist()] == [step for step in range(1, 7) for _ in range(8)]
    else:
        rollouts = run.table("rollouts").to_pylist()
        keys = [(row["generation_step"], row["problem_id"], row["sample"]) for row in rollouts]
        assert len(keys) == len(set(keys)) == run.steps[-1]["samples/total"]


@pytest.mark.parametrize("first", ["finished", "interrupted"])
def test_a_second_training_from_scratch_is_told_in_one_line_and_leaves_the_record(base_model, tmp_path, capsys, first):
    trainer = trainer_of(sft_trainer, base_model, tmp_path)
    metered(trainer, tmp_path)
    if first == "finished":
        trainer.train()
    else:
        trainer.add_callback(RaiseAt(3, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    capsys.readouterr()
    trainer.train()
    assert trainer.state.global_step == 6
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("InformationMeter")]
    state = "finished" if first == "finished" else "failed"
    assert len(told) == 1 and f"run holds a {state} run, which is never overwritten: name another" in told[0]
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_second_training_from_scratch_is_refused_where_the_meter_is_strict(base_model, tmp_path):
    trainer = trainer_of(sft_trainer, base_model, tmp_path)
    metered(trainer, tmp_path, strict=True)
    trainer.train()
    with pytest.raises(RecordError, match="holds a finished run, which is never overwritten"):
        trainer.train()
    assert [line["step"] for line in read_run(tmp_path / "run").steps] == [1, 2, 3, 4, 5, 6]


def test_a_second_meter_records_a_second_training_in_a_directory_of_its_own(base_model, tmp_path):
    trainer = trainer_of(rl_trainer, base_model, tmp_path)
    first = metered(trainer, tmp_path / "first")
    trainer.train()
    trainer.remove_callback(first)
    metered(trainer, tmp_path / "second")
    trainer.train()
    runs = [read_run(tmp_path / name / "run") for name in ("first", "second")]
    assert [[line["step"] for line in run.steps] for run in runs] == [[1, 2, 3, 4, 5, 6]] * 2
    assert [run.table("rollouts").num_rows for run in runs] == [48, 48]
    assert runs[1].steps[-1]["flops/total"] == pytest.approx(runs[0].steps[-1]["flops/total"], rel=0.05)


def test_a_trainer_that_begins_again_with_a_smaller_batch_leaves_one_record(base_model, tmp_path):
    trainer = trainer_of(sft_trainer, base_model, tmp_path, auto_find_batch_size=True)
    meter = metered(trainer, tmp_path, evaluation=HeldOut({"heldout": TASK.problems("heldout", 4, seed=0)}))
    trainer.add_callback(RaiseAt(3, RuntimeError("CUDA out of memory.")))
    trainer.train()
    run = read_run(tmp_path / "run")
    assert [line["step"] for line in run.steps] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in run.table("evals").to_pylist()] == [0] * 4 + [6] * 4
    assert run.table("prompts").num_rows == run.steps[-1]["samples/total"] < 6 * 8
    assert run.steps[-1]["flops/total"] + run.steps[-1]["flops/lost"] == pytest.approx(spent_flops(meter), rel=1e-12)


def test_a_record_that_begins_in_the_middle_of_a_training_says_so_and_can_be_read(base_model, tmp_path):
    trainer_of(sft_trainer, base_model, tmp_path, max_steps=4).train()
    trainer = trainer_of(sft_trainer, base_model, tmp_path)
    metered(trainer, tmp_path)
    trainer.train(resume_from_checkpoint=True)
    run = read_run(tmp_path / "run")
    assert [line["step"] for line in run.steps] == [5, 6] and run.manifest["begins_after_step"] == 4


# ---- failure ---------------------------------------------------------------------------------------------------------


class FailsAt:
    """A reward of 1 that raises at a call."""

    __name__ = "fails"

    def __init__(self, call: int):
        self.num_calls, self.call = 0, call

    def __call__(self, completions, **kwargs):
        self.num_calls += 1
        if self.num_calls == self.call:
            raise ZeroDivisionError("a reward\nthat divides by zero")
        return [1.0] * len(completions)


def test_a_reward_that_raises_leaves_what_was_measured_and_the_reason(base_model, tmp_path):
    trainer = rl_trainer(base_model, tmp_path, reward=FailsAt(3))
    metered(trainer, tmp_path, with_verifier=False)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    run = read_run(tmp_path / "run")
    assert run.manifest["state"] == "failed"
    assert run.manifest["reason"] == "ZeroDivisionError: a reward that divides by zero"
    assert [line["step"] for line in run.steps] == [1, 2]
    assert [row["step"] for row in run.table("prompts").to_pylist()] == [1] * 4 + [2] * 4
    assert [row["step"] for row in run.table("rollouts").to_pylist()] == [1] * 16 + [2] * 16


def test_a_generation_that_an_error_cuts_short_is_kept_with_the_surprisals_known(base_model, tmp_path):
    trainer = trainer_of(rl_trainer, base_model, tmp_path)
    metered(trainer, tmp_path)
    trainer.add_callback(RaiseAt(3, ValueError("between the two steps of a generation")))
    with pytest.raises(ValueError, match="between"):
        trainer.train()
    rollouts = read_run(tmp_path / "run").table("rollouts").to_pylist()
    assert [row["generation_step"] for row in rollouts] == [1] * 16 + [2] * 16
    assert sum(row["surprisal_bits"] is None for row in rollouts) == 8


# ---- finished comes after everything ---------------------------------------------------------------------------------

KILLED_WHILE_SAVING = """
import os, runpy, signal, sys
from transformers import Trainer
save = Trainer.save_model
def killed(self, output_dir=None, *args, **kwargs):
    if output_dir is not None and output_dir.endswith("model"):
        os.makedirs(output_dir, exist_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, output_dir, *args, **kwargs)
Trainer.save_model = killed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def killed_while_saving(name: str, options: list, folder: Path) -> int:
    """Exit status of a recipe that is killed when it saves its model."""
    script = folder / "killed_while_saving.py"
    script.write_text(KILLED_WHILE_SAVING)
    config = REPOSITORY / "recipes" / "configs" / f"{name}.yaml"
    words = [REPOSITORY / "recipes" / f"{name}.py", "--config", config, *options]
    return forked(script, [str(word) for word in words], folder / "said").returncode


@pytest.mark.parametrize(
    ("name", "how"),
    [("sft", ("--max_steps", 4)), ("grpo", ("--max_steps", -1, "--flop_budget", 2e9))],
    ids=["sft, so many steps", "grpo, a budget"],
)
def test_a_run_killed_while_its_model_is_saved_is_finished_by_a_resume_without_one_more_step(recipe, tmp_path, name, how):
    options = [*SMALL[:-2], *how, "--save_strategy", "steps", "--save_steps", 1, "--num_evaluations", 3]
    options += ["--output_dir", tmp_path / "run"]
    assert killed_while_saving(name, options, tmp_path) == -signal.SIGKILL
    before = read_run(tmp_path / "run")
    assert before.manifest["state"] == "running" and not list((tmp_path / "run" / "model").iterdir())
    resumed = recipe(name, *options, "--resume_from_checkpoint", "last")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    after = read_run(tmp_path / "run")
    assert after.manifest["state"] == "finished" and (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert after.steps == before.steps and not (tmp_path / "run" / "superseded").exists()
    for table in ("prompts", "rollouts", "evals"):
        assert after.table(table).to_pylist() == before.table(table).to_pylist()
    evals = [(row["step"], row["split"], row["problem_id"]) for row in after.table("evals").to_pylist()]
    assert len(evals) == len(set(evals)) and (after.steps[-1]["step"], "shifted") in {(step, split) for step, split, _ in evals}
    last = torch.load(tmp_path / "run" / "checkpoints" / f"checkpoint-{len(after.steps)}" / "scheduler.pt")
    assert last["last_epoch"] == len(after.steps)  # no update since


def test_a_training_without_a_step_left_is_the_only_thing_a_resume_skips(recipe, tmp_path):
    """Killed between the last checkpoint and the end of the training, and resumed with more steps to go."""
    options = [*SMALL[:-2], "--save_strategy", "steps", "--save_steps", 2, "--output_dir", tmp_path / "run"]
    assert killed_while_saving("sft", [*options, "--max_steps", 4], tmp_path) == -signal.SIGKILL
    resumed = recipe("sft", *options, "--max_steps", 6, "--resume_from_checkpoint", "last")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    run = read_run(tmp_path / "run")
    assert [line["step"] for line in run.steps] == [1, 2, 3, 4, 5, 6]


def test_a_model_that_cannot_be_saved_leaves_a_failed_run(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").write_text("a file where the model should be")
    done = recipe("sft", *SMALL, "--output_dir", tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert done.returncode != 0 and manifest["state"] == "failed"


# ---- a study ends with its runs --------------------------------------------------------------------------------------


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_study_takes_its_runs_with_it_and_goes_on_with_one_writer(tmp_path):
    arm = {"recipe": "sft", "learning_rate": 1e-4, "per_device_train_batch_size": 8, "max_steps": 150, "save_steps": 10}
    config = {
        "seeds": [1],
        "shared": {"num_train_problems": 16, "num_heldout_problems": 8, "mark": "E"},
        "starts": {"latent": {"model_name_or_path": str(BASE)}},
        "arms": {"sft": arm},
        "report": False,
    }
    (tmp_path / "study.yaml").write_text(json.dumps(config))
    command = [sys.executable, "recipes/study.py", "--config", str(tmp_path / "study.yaml"), "--output_dir", str(tmp_path / "out")]
    study = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run_dir = tmp_path / "out" / "latent-sft-seed1"
    wait_for(lambda: (run_dir / "steps.jsonl").is_file() and len(steps(run_dir / "steps.jsonl")) >= 25)
    children = psutil.Process(study.pid).children(recursive=True)
    writer = int((run_dir / "writer.lock").read_text().split()[0])
    assert writer in {child.pid for child in children} - {study.pid, os.getpid()}
    study.send_signal(signal.SIGKILL)
    study.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    written = len(steps(run_dir / "steps.jsonl"))
    assert written < 150
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    run = read_run(run_dir)
    assert run.manifest["state"] == "finished" and [line["step"] for line in run.steps] == list(range(1, 151))
    assert run.manifest["resumed_at"] == [written // 10 * 10]
