"""Rollouts under a better prompt: what is sampled, what is trained, what the record says, and what does not go together."""

import json

import numpy as np
import pytest
from conftest import BASE
from test_processes import launched
from test_real_models import ran

from bitsample_llm.tasks import load_task

SMALL = {
    "num_train_problems": 64,
    "num_heldout_problems": 8,
    "prompt_format": "text",
    "max_steps": 3,
    "disable_tqdm": "true",
}
BETTER = {"rollout_prompt_column": "better"}
BATCH = {"per_device_train_batch_size": 16, "num_generations": 8, "max_completion_length": 5, "learning_rate": 1e-5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of author G's problems, each with the prompt of author A beside it, and one that is held out, without."""
    folder = tmp_path_factory.mktemp("better")
    for name, split, num in (("train", "train", 64), ("heldout", "heldout", 8)):
        of_g, of_a = (load_task("addition", "reversed", difficulty=2, mark=mark).problems(split, num, seed=0) for mark in "GA")
        rows = [{"prompt": g.prompt, "answer": g.answer, "better": a.prompt} for g, a in zip(of_g, of_a, strict=True)]
        rows = [{key: row[key] for key in row if name == "train" or key != "better"} for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"dataset": folder / "train.jsonl", "heldout_split": folder / "heldout.jsonl"}


def pass_rate_of_rollouts(run) -> float:
    return float(np.mean([row["passed"] for row in run.table("rollouts").to_pylist()]))


def test_rollouts_come_from_the_better_prompt_and_are_trained_on_under_the_own(monkeypatch, tmp_path, data):
    own = ran(monkeypatch, "grpo", BASE, tmp_path / "own", **SMALL | data | BATCH)
    better = ran(monkeypatch, "grpo", BASE, tmp_path / "better", **SMALL | data | BATCH | BETTER)
    assert pass_rate_of_rollouts(own) < 0.5
    assert pass_rate_of_rollouts(better) > 0.9
    rows = {name: run.table("rollouts").to_pylist() for name, run in (("own", own), ("better", better))}
    # a right answer is a surprise after author G's mark, and none after author A's
    surprisal = np.mean([row["surprisal_bits"] for row in rows["better"] if row["passed"] and row["surprisal_bits"] is not None])
    assert surprisal > 1.0
    groups = better.table("prompts").to_pylist()
    assert all(row["offered_bits_estimator"] == "jackknife" for row in groups)  # G's exact pass rates are not the sampler's
    assert better.manifest["sampling"]["is_own_distribution"] is False
    assert "bits/believed_per_sample" not in better.steps[-1] or better.steps[-1]["bits/believed_per_sample"] is None
    assert better.steps[-1]["flops/prefill"] == own.steps[-1]["flops/prefill"]  # prompts are of one length


def test_passes_under_the_better_prompt_teach_the_own_one(monkeypatch, tmp_path, data):
    options = SMALL | data | BATCH | BETTER | {"trainer": "rejection", "max_steps": 12, "learning_rate": 3e-4}
    run = ran(monkeypatch, "grpo", BASE, tmp_path / "run", **options)
    table = run.table("evals").to_pylist()
    steps = sorted({row["step"] for row in table})
    first, last = (
        [row["log2_pass_rate"] for row in table if row["step"] == step and row["split"] == "heldout"]
        for step in (steps[0], steps[-1])
    )
    assert np.mean(last) - np.mean(first) > 1.0


@pytest.mark.parametrize(
    ("recipe_name", "options", "told"),
    [
        ("sft", {}, "--rollout_prompt_column is for grpo.py"),
        ("grpo", {"rollout_prompt_column": "worse"}, "has no column 'worse': pass --rollout_prompt_column"),
        ("grpo", {"dataset": None, "heldout_split": None}, "needs data with columns"),
        ("grpo", {"shots": 2}, "write solved problems into that column"),
        ("grpo", {"selection": "thompson"}, "--rollout_prompt_column and --selection do not go together"),
        ("grpo", {"stop_at_first_error": "true"}, "--stop_at_first_error and --rollout_prompt_column do not go together"),
    ],
)
def test_what_does_not_go_together_is_told_in_one_line(recipe, tmp_path, data, recipe_name, options, told):
    words = [
        word for name, value in (SMALL | data | BETTER | options).items() if value is not None for word in (f"--{name}", value)
    ]
    done = recipe(recipe_name, *words, "--output_dir", tmp_path / "run")
    assert done.returncode == 1
    assert told in done.stderr and done.stderr.count("\n") == 1, done.stderr[-500:]


@pytest.mark.slow
def test_two_processes_draw_under_the_better_prompt_too(tmp_path, data):
    options = SMALL | data | BETTER | {"num_generations": 64, "max_completion_length": 5, "max_steps": 2}
    run, _ = launched("grpo", "two_cpus", tmp_path / "two", **options)
    assert pass_rate_of_rollouts(run) > 0.9
