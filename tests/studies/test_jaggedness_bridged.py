"""Episodes of several problems and labels among rollouts: what the trainer is told, and what the programs say of made courses."""

import itertools
import json
import runpy
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import REPOSITORY

from bitsample_llm.records import read_run
from eval.studies.jaggedness import bridged
from eval.studies.jaggedness.courses import Course, pack_courses
from eval.studies.jaggedness.make_problems import row_of

PROGRAM = REPOSITORY / "eval" / "studies" / "jaggedness" / "make_bridged.py"
OPTIONS = {"mark": "C", "difficulty": 2, "answer_format": "reversed", "num_train_problems": 32, "num_heldout_problems": 8}
OPTIONS |= {"max_steps": 3, "per_device_train_batch_size": 16, "num_generations": 4, "save_strategy": "no", "disable_tqdm": "true"}


def trained(monkeypatch, folder, **options):
    """The run, and of each update the rewards that its rollouts had."""
    rewards = []
    words = [str(word) for name, value in (OPTIONS | options).items() if value is not None for word in (f"--{name}", value)]
    monkeypatch.setattr(
        sys, "argv", [str(PROGRAM), "--config", str(PROGRAM.with_suffix(".yaml")), "--output_dir", str(folder), *words]
    )
    monkeypatch.chdir(REPOSITORY)
    module = runpy.run_path(str(PROGRAM))
    calculate = module["Bridged"]._calculate_rewards

    def watched(self, *args):
        found = calculate(self, *args)
        rewards.append(found[:, 0].tolist())
        return found

    monkeypatch.setattr(module["Bridged"], "_calculate_rewards", watched)
    module["main"]()
    return read_run(folder), np.array(rewards)


def test_an_episode_passes_if_all_of_its_answers_do(monkeypatch, tmp_path):
    run, rewards_UB = trained(monkeypatch, tmp_path / "run", episode="apart", episode_length=2)
    passed_UEKG = np.array([row["passed"] for row in run.table("rollouts").to_pylist()], float).reshape(3, 2, 2, 4)
    assert 0 < passed_UEKG.mean() < 1
    expected = np.repeat(passed_UEKG.prod(axis=2, keepdims=True), 2, axis=2)
    assert rewards_UB.reshape(3, 2, 2, 4).tolist() == expected.tolist()


def test_a_strategy_that_stands_for_an_episode_is_asked_on_and_charged(monkeypatch, tmp_path):
    # answers that begin with the same digit stand for those that begin with the same sign
    pairs = [pair for pair in itertools.combinations(range(11, 50), 2) if sum(pair) % 10 == 7]
    rows = [{"prompt": row["prompt"], "answer": row["answer"]} for row in (row_of(pair, "C") for pair in pairs)]
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "dataset": problems,
        "prompt_format": "text",
        "verifier": "numeric",
        "mark": None,
        "difficulty": None,
        "answer_format": None,
    }
    data |= {"max_completion_length": 5}
    alone, _ = trained(monkeypatch, tmp_path / "alone", **data)
    run, rewards_UB = trained(monkeypatch, tmp_path / "run", episode="together", episode_length=5, **data)
    passed_UB = np.array([row["passed"] for row in run.table("rollouts").to_pylist()], float).reshape(3, 16)
    assert (rewards_UB <= passed_UB).all() and 0 < rewards_UB.sum() < passed_UB.sum()
    assert run.steps[-1]["flops/prefill"] > 2 * alone.steps[-1]["flops/prefill"]
    assert run.steps[-1]["flops/train_backward"] == pytest.approx(alone.steps[-1]["flops/train_backward"], rel=0.1)


def test_labels_teach_where_no_rollout_passes(monkeypatch, tmp_path):
    gains = []
    for labels in (0.0, 0.5):
        rare = {
            "mark": "G",
            "difficulty": 3,
            "learning_rate": 3e-4,
            "max_steps": 6,
            "max_completion_length": 5,
            "flop_budget": 1e12,
        }
        run, _ = trained(monkeypatch, tmp_path / f"{labels:g}", labels_per_rollout=labels, **rare)
        rows = [row for row in run.table("evals").to_pylist() if row["split"] == "heldout"]
        first, last = (
            np.mean([row["reference_log2_probability"] for row in rows if row["step"] == step])
            for step in (0, max(row["step"] for row in rows))
        )
        gains.append(last - first)
    assert gains[1] > gains[0] + 1.0


def made_course(arm: str, rule_share: float, model: str, rises: bool) -> Course:
    log_odds = [-2.0, -1.8, 0.0, 3.0, 4.0] if rises else [-2.0, -2.2, -2.5, -3.0, -3.5]
    right = [0.1, 0.12, 0.4, 0.9, 0.95] if rises else [0.1, 0.09, 0.08, 0.05, 0.03]
    return Course(
        "named",
        "F",
        rule_share,
        model,
        arm,
        1,
        {},
        1e12,
        [0, 2, 4, 8, 32],
        [0.0, 1e9, 2e9, 4e9, 2e10],
        log_odds,
        right,
        [0.5] * 5,
        [0.9] * 5,
    )


def test_a_cell_counts_models_and_a_price_is_one_that_was_kept(tmp_path, monkeypatch, capsys):
    rising = {"together_16", "labels_30"}
    courses = [made_course(arm, 0.95, model, arm in rising) for arm in bridged.ARMS for model in "abcd"]
    courses = [
        replace(course, log_odds=[-2.0, -2.2, -2.5, -2.8, -3.0]) if course.arm == "labels_1" else course for course in courses
    ]
    pack_courses(courses, tmp_path)
    slopes = {"group of 8": {"easy": [-1.0], "hard": [3.0]}}
    starts = [
        {"start": "named", "model": model, "mark": "F", "right": 0.1, "rule": 0.6, "log_odds": -1.8} | slopes for model in "abcd"
    ]
    (tmp_path / "slopes.json").write_text(json.dumps(starts))
    assert bridged.back_price(courses[-1]) is None
    assert bridged.back_price(made_course("plain", 0.8, "a", True)) == pytest.approx(4.0)
    assert bridged.updates_until_move(courses[0]) == pytest.approx(1.0)
    monkeypatch.setattr(sys, "argv", ["bridged", str(tmp_path), str(tmp_path / "report")])
    bridged.main()
    said = " ".join(capsys.readouterr().out.split())
    assert "16 problems, one choice, s = 0.95: first up? 4 of 4 [0.51, 1.00] supported" in said
    assert ".01 labels per rollout, s = 0.95: in the end above GRPO alone? 4 of 4" in said
    assert "GRPO, one problem, s = 0.8: first down? – – undecided: not run" in said
    claims = json.loads((tmp_path / "report" / "results.json").read_text())["claims"]
    assert {claim["verdict"] for claim in claims if claim["text"].startswith("16 problems, one choice, s")} == {"supported"}
    assert (tmp_path / "report" / "figures" / "courses.png").is_file()
