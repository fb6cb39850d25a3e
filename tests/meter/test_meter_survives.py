"""What goes wrong around a run stops at most the meter; what kills it leaves records that a resume counts on from."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import pytest
from conftest import REPOSITORY
from test_meter import metered, rl_trainer, sft_trainer
from transformers import TrainerCallback
from trl import GRPOTrainer

from bitsample_llm.meter import callback as meter_module
from bitsample_llm.records import RecordError, read_run


def full_disk(run_dir) -> None:
    """Let the next step line meet a full device."""
    (run_dir / "steps.jsonl").symlink_to("/dev/full")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_a_full_disk_stops_the_meter_with_one_line_and_not_the_training(base_model, tmp_path, capsys):
    trainer = rl_trainer(base_model, tmp_path)
    metered(trainer, tmp_path)
    full_disk(tmp_path / "run")
    trainer.train()
    assert trainer.state.global_step == 4
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("InformationMeter")]
    assert len(told) == 1 and "training goes on without records" in told[0] and "No space left on device" in told[0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_a_full_disk_ends_the_training_where_the_meter_is_strict(base_model, tmp_path):
    trainer = rl_trainer(base_model, tmp_path)
    metered(trainer, tmp_path, strict=True)
    full_disk(tmp_path / "run")
    with pytest.raises(RecordError, match="No space left on device"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_a_folder_that_cannot_be_written_is_told_before_training(base_model, tmp_path, capsys):
    (tmp_path / "run").write_text("a file where the folder should be")
    trainer = sft_trainer(base_model, tmp_path)
    metered(trainer, tmp_path)
    assert capsys.readouterr().err.count("training goes on without records") == 1
    trainer.train()
    assert trainer.state.global_step == 4
    with pytest.raises(RecordError, match="cannot write records"):
        metered(sft_trainer(base_model, tmp_path), tmp_path, strict=True)


class FailingBackEnd(TrainerCallback):
    """A reporting back end that takes what the trainer logs and fails on what the meter adds."""

    def __init__(self):
        self.num_failed = 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Fail as a network would."""
        if any(key.startswith("bits/") for key in logs):
            self.num_failed += 1
            raise ConnectionError("no route to host")


def test_a_back_end_that_fails_is_left_alone_and_the_records_go_on(base_model, tmp_path, capsys):
    trainer = rl_trainer(base_model, tmp_path, logging_steps=1)
    metered(trainer, tmp_path)
    back_end = FailingBackEnd()
    trainer.add_callback(back_end)
    trainer.train()
    assert back_end.num_failed == 1
    told = [line for line in capsys.readouterr().err.splitlines() if "reporting back end fails" in line]
    assert len(told) == 1 and "ConnectionError: no route to host" in told[0]
    assert len(read_run(tmp_path / "run").steps) == 4
    strict = rl_trainer(base_model, tmp_path, logging_steps=1)
    metered(strict, tmp_path / "strict", strict=True)
    strict.add_callback(FailingBackEnd())
    with pytest.raises(ConnectionError):
        strict.train()


def test_an_untested_trl_is_named_once(base_model, tmp_path, monkeypatch):
    monkeypatch.setattr(meter_module.trl, "__version__", "9.7.0")
    with pytest.warns(UserWarning, match=r"TRL 9\.7\.0 is not one that InformationMeter was tested with \(1\.16\)"):
        metered(sft_trainer(base_model, tmp_path), tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="TRL 9.7.0")
        metered(sft_trainer(base_model, tmp_path), tmp_path / "again")


@pytest.mark.parametrize(
    "name", ["_calculate_rewards", "_generate", "_generate_and_score_completions", "compute_loss", "_save_checkpoint"]
)
def test_a_trainer_without_a_method_that_the_meter_needs_is_named(base_model, tmp_path, monkeypatch, name):
    trainer = rl_trainer(base_model, tmp_path)
    for owner in GRPOTrainer.__mro__:
        if name in vars(owner):
            monkeypatch.delattr(owner, name)
    with pytest.raises(AttributeError, match=f"GRPOTrainer has no {name}: this version of TRL"):
        metered(trainer, tmp_path)


def resumable(base_model, folder, **options):
    """A trainer of 8 steps, two to a generation, that saves at every odd step too, and its meter."""
    sizes = {"steps_per_generation": 2, "generation_batch_size": None, "per_device_train_batch_size": 8, "max_steps": 8}
    trainer = rl_trainer(base_model, folder, save_strategy="steps", save_steps=1, **sizes | options)
    metered(trainer, folder)
    return trainer


class Killed(Exception):
    """Stands for a signal in the middle of a run."""


@pytest.fixture
def no_last_word(monkeypatch):
    """A kill gives the meter no chance to close its records."""
    monkeypatch.setattr(meter_module.InformationMeter, "close_failed", lambda self, error: None)


class KillAfter(TrainerCallback):
    """Ends a run after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        """Between two steps, when the checkpoint of the first is written."""
        if state.global_step == self.step:
            raise Killed


SAVED = [1, pytest.param(2, marks=pytest.mark.slow), 3]


@pytest.mark.parametrize("saved", SAVED, ids=["half a generation", "a generation", "one and a half"])
@pytest.mark.parametrize("further", [0, pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("end", ["a kill", "an error"])
def test_a_generation_cut_short_is_recorded_once(base_model, tmp_path, request, saved, further, end):
    """Ended `further` steps after the checkpoint it resumes from."""
    if end == "a kill":
        request.getfixturevalue("no_last_word")
    trainer = resumable(base_model, tmp_path)
    trainer.add_callback(KillAfter(saved + further))
    with pytest.raises(Killed):
        trainer.train()
    resumed = resumable(base_model, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / f"checkpoint-{saved}"))
    run = read_run(tmp_path / "run")
    assert run.manifest["state"] == "finished"
    assert [line["step"] for line in run.steps] == list(range(1, 9))
    prompts, rollouts = run.table("prompts").to_pylist(), run.table("rollouts").to_pylist()
    keys = [(row["generation_step"], row["problem_id"], row["sample"]) for row in rollouts]
    assert len(keys) == len(set(keys)) == 4 * len(prompts)
    assert {row["generation_step"] for row in prompts} == {row["generation_step"] for row in rollouts}
    generations = sorted({row["generation_step"] for row in prompts})
    assert generations == list(range(1, len(generations) + 1))
    assert run.steps[-1]["samples/total"] == len(rollouts)
    cut = [row["surprisal_bits"] is None for row in rollouts if row["generation_step"] == (saved + 1) // 2]
    assert sum(cut) == (len(cut) // 2 if saved % 2 else 0)  # what was never trained on has no training forward
    assert (run.steps[-1]["flops/lost"] > 0) is (further > 0)
    totals = [line["flops/total"] for line in run.steps]
    assert totals == sorted(totals) and len(set(totals)) == len(totals)
    assert not list((tmp_path / "run").glob("pending-*"))


def test_a_run_that_is_there_is_resumed_or_refused_but_never_overwritten(base_model, tmp_path, no_last_word):
    trainer = resumable(base_model, tmp_path)
    trainer.add_callback(KillAfter(2))
    with pytest.raises(Killed):
        trainer.train()
    before = (tmp_path / "run" / "steps.jsonl").read_text()
    with pytest.raises(RecordError, match="holds a running run, which is never overwritten"):
        resumable(base_model, tmp_path).train()
    assert (tmp_path / "run" / "steps.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("name", "num_kills"),
    [
        pytest.param("sft", 3, marks=pytest.mark.slow),
        pytest.param("grpo, two steps a generation", 4, marks=pytest.mark.slow),
        pytest.param("sft", 8, marks=pytest.mark.long),
        pytest.param("grpo", 8, marks=pytest.mark.long),
        pytest.param("grpo, two steps a generation", 8, marks=pytest.mark.long),
    ],
)
def test_killed_again_and_again_at_any_point_the_record_has_no_gap_and_no_duplicate(recipe, tmp_path, name, num_kills):
    script = name.split(",")[0]
    options = ["--num_train_problems", 64, "--num_heldout_problems", 16, "--mark", "C", "--max_steps", 60, "--save_steps", 3]
    if "two steps" in name:
        options += ["--steps_per_generation", 2]
    command = [sys.executable, f"recipes/{script}.py", "--config", f"recipes/configs/{script}.yaml", *options]
    command += ["--output_dir", tmp_path / "run"]
    rng = random.Random(0)
    kills = []
    for _ in range(num_kills):
        resume = ["--resume_from_checkpoint", "last"] if (tmp_path / "run" / "manifest.json").exists() else []
        words = [str(word) for word in [*command, *resume]]
        process = subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        started_at = num_lines(tmp_path / "run")
        deadline = time.monotonic() + 120
        while process.poll() is None and num_lines(tmp_path / "run") == started_at and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills.append(num_lines(tmp_path / "run"))
        if json.loads((tmp_path / "run" / "manifest.json").read_text())["state"] == "finished":
            break
    else:
        done = recipe(script, *options, "--output_dir", tmp_path / "run", "--resume_from_checkpoint", "last")
        assert done.returncode == 0, done.stderr[-2000:]
    print(f"{name}: killed after step lines {kills}")
    run = read_run(tmp_path / "run")
    assert [line["step"] for line in run.steps] == list(range(1, 61))
    totals = [line["flops/total"] for line in run.steps]
    assert all(after > before for before, after in itertools.pairwise(totals))
    prompts, rollouts = run.table("prompts").to_pylist(), run.table("rollouts").to_pylist()
    if script == "sft":
        assert [row["step"] for row in prompts] == [step for step in range(1, 61) for _ in range(len(prompts) // 60)]
        return
    keys = [(row["generation_step"], row["problem_id"], row["sample"]) for row in rollouts]
    assert len(keys) == len(set(keys)) == 8 * len(prompts) == run.steps[-1]["samples/total"]
    assert sorted({row["generation_step"] for row in prompts}) == sorted({row["generation_step"] for row in rollouts})


def num_lines(run_dir) -> int:
    """Step lines written so far."""
    path = run_dir / "steps.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0
