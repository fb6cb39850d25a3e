"""A measurement that is killed goes on after its last whole part, and ends with the records of one that was not."""

import json
import multiprocessing
import os
import re
import signal
import sys

import pytest
from conftest import REPOSITORY

from bitsample_llm.measure import command
from bitsample_llm.measure.choices import MeasureChoices, check_choices
from bitsample_llm.records import read_run
from bitsample_llm.records.writer import RunWriter
from bitsample_llm.report.plan.numbers import plan_of

OPTIONS = {
    "config": REPOSITORY / "recipes" / "configs" / "measure.yaml",
    "model_name_or_path": REPOSITORY / "data" / "base",
    "num_train_problems": 12,
    "num_heldout_problems": 8,
    "num_generations": 8,
    "batch_size": 16,  # 4 prompts a part: 3 parts a half and a probe, 2 of held-out prompts
    "probe_shots": 0,
    "probe_updates": 1,
    "probe_rollouts_per_update": 16,
}
BRANCH = "after the short branch of RL"


def run_measure(options: dict, kill_at: int | str | None) -> None:
    """The recipe in this process, which kills itself before the step line of a part, or after the short branch."""
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    add_step, train_briefly = RunWriter.add_step, command.train_briefly

    def add_step_or_die(writer, line):
        if line["step"] == kill_at and writer.run_dir.name != "updates":
            os.kill(os.getpid(), signal.SIGKILL)
        add_step(writer, line)

    def train_and_die(*args):
        train_briefly(*args)
        if kill_at == BRANCH:
            os.kill(os.getpid(), signal.SIGKILL)

    RunWriter.add_step = add_step_or_die
    command.train_briefly = train_and_die
    sys.argv = ["measure.py", *words]
    command.main()


def measured(folder, kill_at=None, **options) -> int:
    """Exit status of the recipe in a process of its own; forked, for the imports take longer than the measurement."""
    process = multiprocessing.get_context("fork").Process(
        target=run_measure, args=(OPTIONS | {"output_dir": folder} | options, kill_at)
    )
    process.start()
    process.join()
    return process.exitcode


def counted(line: dict) -> dict:
    return {key: value for key, value in line.items() if not key.startswith(("seconds/", "flops/lost"))}


@pytest.mark.slow
def test_a_measurement_killed_in_every_stage_equals_an_uninterrupted_one(tmp_path):
    assert measured(tmp_path / "whole") == 0
    assert measured(tmp_path / "cut", kill_at=1) == -signal.SIGKILL  # before anything is whole
    # in both halves, under a probe, after the branch, and after its first part
    for kill_at in (2, 5, 8, BRANCH, 13):
        assert measured(tmp_path / "cut", kill_at, resume_from_checkpoint="last") == -signal.SIGKILL
    assert measured(tmp_path / "cut", resume_from_checkpoint="last") == 0
    whole, cut = (read_run(tmp_path / name) for name in ("whole", "cut"))
    assert [line["step"] for line in cut.steps] == list(range(1, 14))
    assert [line["generation_step"] for line in cut.steps] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5]
    assert [counted(line) for line in whole.steps] == [counted(line) for line in cut.steps]
    for table in ("prompts", "rollouts", "problems"):
        assert whole.table(table).to_pylist() == cut.table(table).to_pylist()
    assert len(cut.table("problems")) == 12
    for key in ("flops_per_sample", "updates_moved_bits", "probes"):
        assert whole.manifest[key] == cut.manifest[key]
    assert plan_of(whole)[0]["advice"] == plan_of(cut)[0]["advice"]
    # the branch ran three times, the first time no line counted it, the second time a line did
    branch = read_run(tmp_path / "cut" / "updates").steps[-1]["flops/total"]
    assert cut.steps[-1]["flops/lost"] >= 2 * branch > 0 == whole.steps[-1]["flops/lost"]
    assert len(list((tmp_path / "cut" / "superseded").glob("updates-*"))) == 2


def test_a_measurement_is_not_gone_on_with_otherwise(tmp_path, capfd):
    options = {"num_train_problems": 8, "probe_updates": 0}
    assert measured(tmp_path / "run", kill_at=3, **options) == -signal.SIGKILL
    before = (tmp_path / "run" / "steps.jsonl").read_text()
    for changed in ({"num_generations": 16}, {"seed": 7}, {"num_train_problems": 9}):
        assert measured(tmp_path / "run", **(options | changed), resume_from_checkpoint="last") == 1
        told = capfd.readouterr().err.strip().splitlines()[-1]
        assert "was measured with other values of" in told and f"--{next(iter(changed))}" in told
    assert (tmp_path / "run" / "steps.jsonl").read_text() == before
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["state"] == "running"


def test_the_progress_bar_counts_rollouts_and_shows_the_pass_rate(tmp_path, capfd):
    assert measured(tmp_path / "run", num_train_problems=8, probe_updates=0, probe_mark="A") == 0
    bar = capfd.readouterr().err.split("\r")[-1]
    assert re.search(r"mark: 100%.*\b96/96\b.*pass rate [01]", bar)


@pytest.mark.parametrize("value", ["checkpoint-3", "first"])
def test_only_last_is_known_to_go_on_from(value):
    with pytest.raises(ValueError, match=f"--resume_from_checkpoint takes last, got '{value}'"):
        check_choices(MeasureChoices(output_dir="run", resume_from_checkpoint=value), 1)
