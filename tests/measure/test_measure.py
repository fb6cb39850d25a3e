"""The recipe that measures: what it records is whole, and what cannot be measured is refused by name."""

import json
import re
import sys
from pathlib import Path

import pytest
from made_runs import MEASUREMENT

from bitsample_llm.measure.choices import MeasureChoices, check_choices
from bitsample_llm.measure.command import closed
from bitsample_llm.measure.probes import with_mark, with_prefix, with_shots
from bitsample_llm.records import SCHEMA_VERSION, read_run
from bitsample_llm.records.writer import RunWriter
from bitsample_llm.report.plan.numbers import plan_of
from bitsample_llm.report.summary import summary_lines
from bitsample_llm.tasks import load_task

SMALL = ("--num_train_problems", 24, "--num_heldout_problems", 16, "--num_generations", 8)


def test_an_interrupted_measurement_is_a_failed_run(tmp_path):
    with pytest.raises(KeyboardInterrupt), closed(RunWriter.create(tmp_path / "cut", MEASUREMENT)):
        raise KeyboardInterrupt
    assert read_run(tmp_path / "cut").manifest["state"] == "failed"


@pytest.mark.slow
def test_a_latent_skill_is_measured_and_planned_for(recipe, tmp_path):
    done = recipe("measure", *SMALL, "--probe_updates", 20, "--output_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    run = read_run(tmp_path / "run")
    rollouts = run.table("rollouts").to_pylist()
    assert {row["probe"] for row in rollouts} == {None, "mark", "shots", "heldout", "updates"}
    asked = [row for row in rollouts if row["probe"] is None]
    assert len({(row["generation_step"], row["problem_id"], row["sample"]) for row in asked}) == len(asked) == 24 * 8
    for row in run.table("prompts").to_pylist():
        group = [r for r in rollouts if (r["generation_step"], r["problem_id"]) == (row["generation_step"], row["problem_id"])]
        assert len(group) == row["group_size"] == 4 and sum(r["passed"] for r in group) == row["num_passed"]
    plan, _, _ = plan_of(run)
    assert plan["advice"]["verdict"] == "RL can pay: the skill is latent"
    says = {probe["name"]: probe["verdict"] for probe in plan["probes"]}
    assert says == {"mark": "latent", "shots": "says nothing", "updates": "latent"}
    # the price of training was computed from shapes; the short branch really trained
    last = read_run(tmp_path / "run" / "updates").steps[-1]
    trained = (last["flops/train_forward"] + last["flops/train_backward"]) / last["samples/total"]
    assert plan["flops_per_sample"]["rollout_training"] == pytest.approx(trained, rel=0.02)
    sampled = (last["flops/prefill"] + last["flops/decode"]) / last["samples/total"]
    costs = plan["flops_per_sample"]
    assert costs["rollout_prefill"] + costs["rollout_decode"] == pytest.approx(sampled, rel=0.02)
    assert summary_lines(run)[0].endswith("measure, finished, 6 steps, seed 42")


@pytest.mark.slow
def test_an_unacquired_skill_is_told_from_it_at_twice_the_pass_rate(recipe, tmp_path):
    options = ("--model_name_or_path", "data/base_unacquired", "--difficulty", 2, "--probe_shots", 0, "--probe_updates", 0)
    done = recipe("measure", *SMALL, *options, "--output_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    plan, _, _ = plan_of(read_run(tmp_path / "run"))
    assert plan["pass_rate"]["mean"] > 0.05
    assert plan["advice"]["verdict"] == "labels first: the skill is not there yet"


@pytest.mark.slow
def test_two_processes_measure_every_prompt_once(recipe, tmp_path):
    accelerate = (str(Path(sys.executable).parent / "accelerate"), "launch", "--config_file", "recipes/accelerate/two_cpus.yaml")
    options = ("--num_train_problems", 5, *SMALL[2:], "--probe_updates", 0, "--output_dir", tmp_path / "run")
    done = recipe("measure", *options, launcher=(*accelerate, "--main_process_port", "29651"))
    assert done.returncode == 0, done.stderr[-2000:]
    run = read_run(tmp_path / "run")
    assert run.manifest["world_size"] == 2
    asked = [row["problem_id"] for row in run.table("prompts").to_pylist() if row["generation_step"] == 1]
    assert len(asked) == len(set(asked)) == 5 and asked == run.table("problems")["problem_id"].to_pylist()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"output_dir": None}, "pass --output_dir FOLDER"),
        ({"num_generations": 2}, "--num_generations must be even and at least 4"),
        ({"num_generations": 7}, "--num_generations must be even and at least 4"),
        ({"probe_rollouts_per_update": 12}, "must be a multiple of 8, got 12"),
    ],
)
def test_choices_that_cannot_be_measured_are_refused_by_name(choices, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_choices(MeasureChoices(**({"output_dir": "run"} | choices)), num_processes=2)


def test_probes_that_cannot_be_asked_are_refused_by_name(base_model):
    problems = load_task("addition", "reversed", difficulty=2, mark="F").problems("train", 24, 0)
    with pytest.raises(ValueError, match="unknown author mark 'Z'"):
        with_mark(problems, "Z")
    with pytest.raises(ValueError, match="begin with an author's mark"):
        with_mark(with_prefix(problems, "Please: "), "A")
    with pytest.raises(ValueError, match="--probe_shots 24 needs more than 24 training problems"):
        with_shots(problems, 24, base_model[1], 256)
    with pytest.raises(ValueError, match="and the model reads 256"):
        with_shots(problems, 23, base_model[1], 256)
    shot = with_shots(problems, 1, base_model[1], 256)[0]
    assert shot.prompt == f"{problems[1].prompt}{problems[1].answer}\n\n{problems[0].prompt}"


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--max_completion_length", 3), "max_completion_length 3 cuts answers off"), (("--use_peft", "true"), "--use_peft")],
)
def test_bad_input_gets_one_line_and_no_run(recipe, tmp_path, options, message):
    done = recipe("measure", *SMALL, *options, "--output_dir", tmp_path / "run")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and message in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_finished_measurement_is_never_overwritten(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "state": "finished"}))
    done = recipe("measure", *SMALL, "--output_dir", tmp_path / "run")
    assert done.returncode == 1 and "holds a finished run, which is never overwritten" in done.stderr
