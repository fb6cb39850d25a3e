"""Refilled batches: they hold groups with an advantage, what was discarded is charged, resumes, two processes, and what does not go together."""

import json

import numpy as np
import pytest
from conftest import BASE
from test_processes import launched
from test_real_models import ran

OPTIONS = {
    "mark": "E",
    "difficulty": 2,
    "num_train_problems": 64,
    "num_heldout_problems": 8,
    "max_steps": 4,
    "disable_tqdm": "true",
}
BATCH = {"per_device_train_batch_size": 8, "num_generations": 2, "max_completion_length": 5, "learning_rate": 1e-5}


def passes_of_groups(run) -> np.ndarray:
    """Passes (groups) of the rollouts in the record."""
    return np.reshape([row["passed"] for row in run.table("rollouts").to_pylist()], (-1, 2)).sum(axis=1)


def test_a_refilled_batch_holds_groups_with_an_advantage_and_pays_for_the_others(monkeypatch, tmp_path):
    full = ran(monkeypatch, "grpo", BASE, tmp_path / "full", refill=100, **OPTIONS | BATCH)
    plain = ran(monkeypatch, "grpo", BASE, tmp_path / "plain", **OPTIONS | BATCH)
    assert len(passes_of_groups(full)) == len(passes_of_groups(plain)) == 4 * 4
    assert set(passes_of_groups(full)) == {1} and 0 in passes_of_groups(plain)
    for group in np.reshape([row["problem_id"] for row in full.table("rollouts").to_pylist()], (-1, 2)):
        assert len(set(group)) == 1
    assert full.manifest["arm"] == "grpo_refilled"
    for phase in ("prefill", "decode"):
        assert sum(line[f"flops/{phase}"] for line in full.steps) > 2 * sum(line[f"flops/{phase}"] for line in plain.steps)
    trained = [sum(line["flops/train_backward"] for line in run.steps) for run in (full, plain)]
    assert trained[0] == pytest.approx(trained[1], rel=0.2)  # answers differ in length


def test_the_last_draw_leaves_free_places_to_groups_without_an_advantage(monkeypatch, tmp_path):
    rare = OPTIONS | BATCH | {"mark": "H", "difficulty": 3}
    run = ran(monkeypatch, "grpo", BASE, tmp_path / "run", refill=2, **rare)
    assert len(passes_of_groups(run)) == 4 * 4 and 0 in passes_of_groups(run)
    once = ran(monkeypatch, "grpo", BASE, tmp_path / "once", **rare)
    assert sum(line["flops/decode"] for line in run.steps) > 1.5 * sum(line["flops/decode"] for line in once.steps)


def test_a_resumed_run_draws_what_it_would_have_drawn(monkeypatch, tmp_path):
    options = OPTIONS | BATCH | {"refill": 100, "save_strategy": "steps", "save_steps": 2}
    whole = ran(monkeypatch, "grpo", BASE, tmp_path / "whole", **options)
    ran(monkeypatch, "grpo", BASE, tmp_path / "cut", **options | {"max_steps": 2})
    manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
    (tmp_path / "cut" / "manifest.json").write_text(json.dumps(manifest | {"state": "running"}))
    cut = ran(monkeypatch, "grpo", BASE, tmp_path / "cut", resume_from_checkpoint="last", **options)
    texts = [[row["text"] for row in run.table("rollouts").to_pylist()] for run in (whole, cut)]
    assert len(texts[0]) == 4 * 8 and texts[0] == texts[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"refill": 0}, "--refill must be at least 1, got 0"),
        ({"refill": 9, "trainer": "reinforce"}, "--refill needs --trainer grpo, got reinforce"),
        ({"refill": 9, "reward": "random"}, "--refill needs --reward outcome, got random"),
        ({"refill": 9, "selection": "thompson"}, "--selection and --refill do not go together"),
    ],
)
def test_what_cannot_be_refilled_is_told_in_one_line(recipe, tmp_path, options, told):
    words = [word for name, value in (OPTIONS | BATCH | options).items() for word in (f"--{name}", value)]
    done = recipe("grpo", *words, "--output_dir", tmp_path / "run")
    assert done.returncode in (1, 2)
    assert told in done.stderr and done.stderr.count("\n") == 1, done.stderr[-500:]


@pytest.mark.slow
def test_two_processes_share_a_refilled_batch(tmp_path):
    options = OPTIONS | {"refill": 100, "num_generations": 2, "max_completion_length": 5, "max_steps": 2}
    run, _ = launched("grpo", "two_cpus", tmp_path / "two", **options)
    assert set(passes_of_groups(run)) == {1}
    assert all(
        len(set(group)) == 1 for group in np.reshape([row["problem_id"] for row in run.table("rollouts").to_pylist()], (-1, 2))
    )
