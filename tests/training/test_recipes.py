"""The recipes as a user runs them: every option a few steps, kills and resumes, and what bad input is told."""

import json
import shutil
import sys
import time
from pathlib import Path

import model_card
import pytest
import torch
from conftest import BASE, REPOSITORY, fork, forked

from bitsample_llm.records import SCHEMA_VERSION, read_run

SMALL = ("--num_train_problems", 64, "--num_heldout_problems", 16, "--mark", "C", "--max_steps", 3)
RUNS = {
    "sft": ("sft",),
    "sft with LoRA": ("sft", "--use_peft", "true"),
    "sft on passing rollouts": ("sft", "--labels", "passing_rollouts", "--rollouts_per_prompt", 2),
    "grpo": ("grpo",),
    "grpo with LoRA": ("grpo", "--use_peft", "true"),
    "rloo": ("grpo", "--trainer", "rloo"),
    "random reward, without texts": ("grpo", "--reward", "random", "--record_texts", "false"),
    "step credit with LoRA, stopping early": (
        *("grpo", "--reward", "first_error", "--stop_at_first_error", "true", "--use_peft", "true"),
    ),
    "scratchpad": (
        *("grpo", "--task", "multiplication", "--answer_format", "scratchpad", "--reward", "process_tokens"),
        *("--max_completion_length", 40, "--num_heldout_problems", 8),
    ),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "scratchpad" else n for n in RUNS])
def test_every_way_to_train_runs_and_leaves_a_finished_record(recipe, tmp_path, name):
    done = recipe(*RUNS[name], *SMALL, "--output_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    run = read_run(tmp_path / "run")
    assert run.manifest["state"] == "finished"
    assert run.manifest["git_commit"] and run.manifest["model_sha256"]
    assert [line["step"] for line in run.steps] == [1, 2, 3]
    evals = run.table("evals").to_pylist()
    assert {(row["step"], row["split"]) for row in evals} >= {
        (s, n) for s in (0, 3) for n in ("heldout", "seen", "shifted", "train", "marked")
    }
    saved = "adapter_model.safetensors" if "LoRA" in name else "model.safetensors"
    assert (tmp_path / "run" / "model" / saved).is_file()
    if name.startswith(("grpo", "random")):
        texts = run.table("rollouts")["text"]
        assert texts.null_count == (len(texts) if "without texts" in name else 0) and len(texts)
    if name == "sft on passing rollouts":
        assert run.steps[0]["flops/decode"] > 0  # the rollouts behind the labels are paid for
    if "LoRA" in name:
        assert run.steps[0]["flops/train_backward"] < 1.6 * run.steps[0]["flops/train_forward"]


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_what_training_does_to_other_texts_is_recorded_and_no_pass_rate(recipe, tmp_path, name):
    rows = [{"prompt": "A12+30=", "answer": "42"}, {"prompt": "B7+", "answer": "7=14"}]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = recipe(name, *SMALL, "--also_evaluate", tmp_path / "other.jsonl", "--output_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    evals = [row for row in read_run(tmp_path / "run").table("evals").to_pylist() if row["split"] == "other"]
    assert [(row["step"], row["problem_id"]) for row in evals] == [(step, f"other.jsonl/{n}") for step in (0, 3) for n in (1, 2)]
    assert all(row["log2_pass_rate"] is None and row["num_rollouts"] is None for row in evals)
    for row in evals:
        assert (
            row["reference_log2_probability"] == pytest.approx(sum(row["token_log2_probabilities"]))
            and len(row["token_log2_probabilities"]) > 2
        )
    before, after = ([row["reference_log2_probability"] for row in evals if row["step"] == step] for step in (0, 3))
    assert before != after
    heldout = [row for row in read_run(tmp_path / "run").table("evals").to_pylist() if row["split"] == "heldout"]
    assert all(row["log2_pass_rate"] is not None for row in heldout)


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_labels_to_memorise_have_a_ceiling_that_is_of_the_start(recipe, tmp_path, name):
    options = (*SMALL[:-2], "--max_steps", 20, "--learning_rate", 1e-3, "--memorise", "true", "--save_strategy", "no")
    done = recipe(name, *options, "--output_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    ceiling = json.loads((tmp_path / "run" / "ceiling.json").read_text())
    evals = read_run(tmp_path / "run").table("evals").to_pylist()
    before = sum(-row["log2_pass_rate"] for row in evals if row["step"] == 0)
    after = sum(-row["log2_pass_rate"] for row in evals if row["step"] == 20)
    assert ceiling["problems"] == len({row["problem_id"] for row in evals})
    if name == "sft":  # every label is seen, and none can tell more than its surprisal
        assert ceiling["problems_trained_on"] == ceiling["problems"]
        assert ceiling["ceiling_bits"] == pytest.approx(before, rel=1e-4)
        assert before - after < before
    else:
        assert 0 < ceiling["ceiling_bits"] < before


def test_a_flop_budget_ends_the_run_with_less_than_one_step_over(recipe, tmp_path):
    options = (*SMALL[:-2], "--max_steps", -1, "--flop_budget", 1e10, "--num_evaluations", 3, "--save_strategy", "no")
    done = recipe("grpo", *options, "--output_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    lines = read_run(tmp_path / "run").steps
    assert lines[-2]["flops/total"] < 1e10 <= lines[-1]["flops/total"]


def without_clocks(line: dict) -> dict:
    return {key: value for key, value in line.items() if not key.startswith(("seconds/", "flops/lost"))}


KILLS = {
    "sft": ("sft", "--save_steps", 10),
    "grpo": ("grpo", "--save_steps", 10),
    "before the first checkpoint, rollouts already paid": ("sft", "--save_strategy", "no", "--labels", "passing_rollouts"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLS)
def test_a_run_killed_and_resumed_equals_an_uninterrupted_one(recipe, tmp_path, name):
    script, *how = KILLS[name]
    options = [*SMALL[:-2], *how, "--max_steps", 80, "--flop_budget", 1e13, "--num_evaluations", 8]
    whole = recipe(script, *options, "--output_dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-2000:]
    config = REPOSITORY / "recipes" / "configs" / f"{script}.yaml"
    words = ["--config", config, *options, "--output_dir", tmp_path / "cut"]
    process = fork(REPOSITORY / "recipes" / f"{script}.py", words, tmp_path / "said")
    steps_file = tmp_path / "cut" / "steps.jsonl"
    while process.is_alive() and not (steps_file.is_file() and steps_file.read_text().count("\n") >= 14):
        time.sleep(0.02)
    process.kill()
    process.join()
    assert json.loads((tmp_path / "cut" / "manifest.json").read_text())["state"] == "running"
    resumed = recipe(script, *options, "--output_dir", tmp_path / "cut", "--resume_from_checkpoint", "last")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    first, second = read_run(tmp_path / "whole"), read_run(tmp_path / "cut")
    assert [without_clocks(line) for line in first.steps] == [without_clocks(line) for line in second.steps]
    assert second.steps[-1]["flops/lost"] > 0  # the steps after the checkpoint were paid for twice
    for table in ("prompts", "rollouts"):
        assert first.table(table).to_pylist() == second.table(table).to_pylist()
    evals = [[(row["log2_pass_rate"], row["total_flops"]) for row in run.table("evals").to_pylist()] for run in (first, second)]
    assert evals[0] == evals[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "grpo", "grpo first_error"])
def test_two_processes_record_every_sample_once_with_whole_groups(recipe, tmp_path, name):
    accelerate = (str(Path(sys.executable).parent / "accelerate"), "launch", "--config_file", "recipes/accelerate/two_cpus.yaml")
    port = ("--main_process_port", str(29600 + len(name)))  # tests may run side by side
    name, *reward = name.split()
    size = ("--per_device_train_batch_size", 12) if name == "grpo" else ()  # 1.5 groups of 8 a process
    size += ("--reward", *reward, "--stop_at_first_error", "true") if reward else ()
    done = recipe(name, *SMALL, *size, "--output_dir", tmp_path / "run", launcher=(*accelerate, *port))
    assert done.returncode == 0, done.stderr[-2000:]
    run = read_run(tmp_path / "run")
    assert run.manifest["world_size"] == 2
    prompts, rollouts = run.table("prompts").to_pylist(), run.table("rollouts").to_pylist()
    if name == "sft":
        assert len({(row["step"], row["problem_id"]) for row in prompts}) == len(prompts) == 3 * 16
        return
    assert len(prompts) == 3 * 3
    assert len({(row["step"], row["problem_id"], row["sample"]) for row in rollouts}) == len(rollouts) == 3 * 24
    for row in prompts:
        group = [r for r in rollouts if (r["step"], r["problem_id"]) == (row["step"], row["problem_id"])]
        assert len(group) == 8 and row["num_passed"] == sum(r["passed"] for r in group)


BAD_INPUT = {
    "unknown task": (("grpo", "--task", "sorting"), "unknown task 'sorting'; known: addition"),
    "unknown format": (("sft", "--answer_format", "roman"), "unknown answer format 'roman'"),
    "unknown mark": (("sft", "--mark", "Z"), "unknown author mark 'Z'"),
    "unknown option": (("sft", "--learning_speed", "1"), "--learning_speed"),
    "a choice that does not exist": (("grpo", "--reward", "praise"), "praise"),
    "batch that the group does not divide": (("grpo", "--per_device_train_batch_size", "30"), "divisible by num_generations"),
    "missing model folder": (("sft", "--model_name_or_path", "no/such/folder"), "no/such/folder does not exist"),
    "completion limit that cuts answers off": (
        ("grpo", "--max_completion_length", "3"),
        "max_completion_length 3 cuts answers off",
    ),
    "more problems than there are": (("sft", "--num_train_problems", "100000"), "asked for 100000"),
    "no problems": (("sft", "--num_train_problems", "0"), "--num_train_problems must be at least 1"),
    "no budget": (("grpo", "--flop_budget", "-5"), "--flop_budget must be above 0"),
    "pretraining for no steps": (("pretrain", "--max_steps", "0"), "--max_steps must be at least 1"),
    "step credit for RLOO": (("grpo", "--trainer", "rloo", "--reward", "first_error"), "need --trainer grpo, got rloo"),
    "verdicts without an outcome": (
        ("grpo", "--trainer", "verdict_likelihood", "--reward", "random"),
        "learns from --reward outcome",
    ),
    "a scratchpad of subtraction": (
        ("grpo", "--task", "subtraction", "--answer_format", "scratchpad"),
        "subtraction has no scratchpad",
    ),
    "a tag without a value": (("sft", "--tags", "reason=latent", "deep"), "--tags takes key=value words, got 'deep'"),
    "no file of other texts": (("sft", "--also_evaluate", "nowhere.jsonl"), "data file nowhere.jsonl does not exist"),
    "nothing to resume": (("sft", "--resume_from_checkpoint", "last"), "is not a run directory"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gets_one_line_that_names_it(recipe, tmp_path, name):
    arguments, message = BAD_INPUT[name]
    done = recipe(*arguments, "--output_dir", tmp_path / "run")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "Warning" not in line and "warn(" not in line and line.strip()]
    assert message in lines[-1], done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_model_without_an_end_token_is_refused_by_name(recipe, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in BASE.iterdir():
        if path.name == "tokenizer_config.json":
            config = json.loads(path.read_text())
            config.pop("eos_token")
            (folder / path.name).write_text(json.dumps(config))
        else:
            (folder / path.name).symlink_to(path)
    done = recipe("sft", "--model_name_or_path", folder, "--output_dir", tmp_path / "run")
    assert done.returncode != 0
    assert "has no eos_token" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_pretraining_resumed_from_a_checkpoint_gives_the_same_model(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(model_card, "NUM_PROBLEMS", 8)  # of the card; recipes are forked from here
    options = ("--max_steps", 12, "--save_steps", 6, "--watch_steps", 4, "--per_device_train_batch_size", 32)
    whole = recipe("pretrain", *options, "--save_ladder", 3, "--output_dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-2000:]
    shutil.copytree(tmp_path / "whole" / "checkpoint-6", tmp_path / "cut" / "checkpoint-6")
    resumed = recipe("pretrain", *options, "--output_dir", tmp_path / "cut")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    cards = [(tmp_path / name / "model" / "README.md").read_text() for name in ("whole", "cut")]
    told = [[line for line in card.splitlines() if "command" not in line] for card in cards]
    assert told[0] == told[1]  # pass rates, tokens, FLOPs and the checksum of the weights
    assert len(list((tmp_path / "whole" / "ladder").iterdir())) == 3
    again = recipe("pretrain", *options, "--output_dir", tmp_path / "whole")
    assert again.returncode != 0 and "finished model" in again.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("has_instructions", "numbers"), [(True, "bfloat16"), (False, "float32")])
def test_pretraining_multiplies_bfloat16_only_where_the_processor_does(recipe, tmp_path, monkeypatch, has_instructions, numbers):
    monkeypatch.setattr(model_card, "NUM_PROBLEMS", 8)  # of the card; recipes are forked from here
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_instructions)
    done = recipe("pretrain", "--max_steps", 2, "--per_device_train_batch_size", 32, "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"- numbers multiplied: {numbers}\n" in (tmp_path / "model" / "README.md").read_text()
    assert ("this processor has no instructions for bfloat16" in done.stdout) is not has_instructions


STUDY = REPOSITORY / "recipes" / "study.py"


@pytest.mark.slow
def test_a_study_goes_on_where_it_stopped_and_keeps_what_is_finished(tmp_path):
    arm = {"learning_rate": 1e-4, "per_device_train_batch_size": 8}
    config = {
        "seeds": [1],
        "shared": {"num_train_problems": 16, "num_heldout_problems": 8, "mark": "E", "max_steps": 2, "save_strategy": "no"},
        "starts": {"latent": {"model_name_or_path": str(BASE), "tags": {"reason": "latent", "ladder": "3 digits"}}},
        "arms": {"sft": arm | {"recipe": "sft"}, "grpo": arm | {"recipe": "grpo"}},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(config))
    words = ["--config", tmp_path / "study.yaml", "--output_dir", tmp_path / "out"]
    first = forked(STUDY, words, tmp_path / "first")
    assert first.returncode == 0, first.stderr[-2000:]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/manifest.json")}
    assert len(written) == 2 and "report.html" in first.stdout
    assert [json.loads(path.read_text())["tags"] for path in written] == [{"reason": "latent", "ladder": "3 digits"}] * 2
    assert any((tmp_path / "out" / "start_evaluations").iterdir())  # which later runs from this start read
    second = forked(STUDY, words, tmp_path / "second")
    assert second.returncode == 0 and "2 of 2 runs are finished and kept" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in written} == written
    (tmp_path / "study.yaml").write_text(json.dumps(config | {"seeds": [2]}))
    third = forked(STUDY, words, tmp_path / "third")
    assert third.returncode != 0 and "another configuration" in third.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [("seeds: [1]", "has no 'starts'"), ("seeds: [1\nstarts", "is not the configuration of a study"), (None, "No such file")],
)
def test_a_broken_study_configuration_is_one_line_and_leaves_nothing(tmp_path, content, message):
    path = tmp_path / "study.yaml"
    if content is not None:
        path.write_text(content)
    done = forked(STUDY, ["--config", path, "--output_dir", tmp_path / "out"], tmp_path / "said")
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1 and message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_finished_run_is_never_overwritten(recipe, tmp_path):
    manifest = {"schema_version": SCHEMA_VERSION, "state": "finished"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    for extra in ((), ("--resume_from_checkpoint", "last")):
        done = recipe("sft", *SMALL, "--output_dir", tmp_path / "run", *extra)
        assert done.returncode != 0
        assert "finished run" in done.stderr.splitlines()[-1]
    assert json.loads((tmp_path / "run" / "manifest.json").read_text()) == manifest
