"""A verifier by its name or as a function, over rows as a TRL script has them: prompts and answers, no problem ids."""

import copy

import numpy as np
import pytest
from datasets import Dataset
from test_meter import PROBLEMS, SHARED
from trl import GRPOConfig, GRPOTrainer

from bitsample_llm import InformationMeter
from bitsample_llm.records import read_run
from bitsample_llm.scoring.likelihood import exact_pass_rates

ROWS = [{"prompt": problem.prompt, "answer": problem.answer, "kind": "sum"} for problem in PROBLEMS]


def passes(completions, answer, **kwargs) -> list[float]:
    return [float(completion == right) for completion, right in zip(completions, answer, strict=True)]


def recorded(base_model, folder, rows=ROWS, **options):
    model, tokenizer = base_model
    sizes = {"num_generations": 4, "per_device_train_batch_size": 16, "max_completion_length": 4, "beta": 0.0, "max_steps": 2}
    args = GRPOConfig(output_dir=str(folder / "checkpoints"), **SHARED | sizes | {"learning_rate": 0.0})
    # a copy: the trainer patches the forward pass of the model that all tests share
    trainer = GRPOTrainer(
        copy.deepcopy(model), [passes], args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.add_callback(InformationMeter(trainer, folder / "run", **options))
    trainer.train()
    return read_run(folder / "run")


def test_a_verifier_by_name_makes_pass_rates_exact_and_agrees_with_the_reward(base_model, tmp_path):
    run = recorded(base_model, tmp_path, verifier="exact")
    rows = run.table("prompts").to_pylist()
    problems = [PROBLEMS[int(row["problem_id"].removeprefix("train/")) - 1] for row in rows]
    assert {row["problem_id"].split("/")[0] for row in rows} == {"train"} and len(rows) == 8
    assert [row["pass_rate"] for row in rows] == pytest.approx(exact_pass_rates(*base_model, problems), rel=1e-4)
    rollouts = run.table("rollouts").to_pylist()
    assert all(rollout["passed"] == (rollout["reward"] == 1.0) for rollout in rollouts)
    assert {rollout["reason"] for rollout in rollouts} <= {"correct", "wrong_answer", "too_long", "too_short", "empty", "not_ended"}


def test_rows_that_ask_the_same_are_one_problem(base_model, tmp_path):
    twice = [{"prompt": f" {row['prompt']}", "answer": row["answer"]} for row in ROWS[:4]]
    run = recorded(base_model, tmp_path, rows=[*ROWS[:4], *twice], verifier="exact")
    assert {row["problem_id"] for row in run.table("prompts").to_pylist()} <= {f"train/{n}" for n in range(1, 5)}


def test_a_function_judges_the_text_with_its_row(base_model, tmp_path):
    asked = []

    def begins_right(text: str, row: dict) -> bool:
        asked.append(row["kind"])
        return text[:1] == row["answer"][:1]

    run = recorded(base_model, tmp_path, verifier=begins_right)
    rollouts = run.table("rollouts").to_pylist()
    answer_by_id = {f"train/{number}": row["answer"] for number, row in enumerate(ROWS, 1)}
    right = [rollout["text"][:1] == answer_by_id[rollout["problem_id"]][:1] and rollout["ended"] for rollout in rollouts]
    assert [rollout["passed"] for rollout in rollouts] == right and 0 < np.mean(right) < 1
    assert set(asked) == {"sum"}
    assert {row["offered_bits_estimator"] for row in run.table("prompts").to_pylist()} == {"jackknife"}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {"verifier": "exakt"}, "unknown verifier 'exakt': exact, numeric, symbolic, or a function"),
        (ROWS, {"verifier": "exact", "answer_column": "solution"}, "no column 'solution': pass answer_column="),
        (
            [*ROWS, {"prompt": "1+1=", "answer": None}],
            {"verifier": "exact"},
            f"row train/{len(ROWS) + 1} cannot be judged, no answer",
        ),
        ([*ROWS, {"prompt": "1+1=", "answer": "two"}], {"verifier": "numeric"}, "the answer is not plainly one number"),
        ([*ROWS, ROWS[0] | {"answer": "0"}], {"verifier": "exact"}, "duplicate of an earlier prompt with another answer"),
    ],
)
def test_what_cannot_be_judged_is_said_before_the_training(base_model, tmp_path, rows, options, message):
    with pytest.raises(ValueError, match=message):
        recorded(base_model, tmp_path, rows=rows, **options)
    assert not (tmp_path / "run").exists()
