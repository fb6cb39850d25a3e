"""The meter on A2PO, which draws rollouts of its reference before the training: verdicts, bits and FLOPs of both stages."""

import copy

import numpy as np
import pytest
from datasets import Dataset
from test_flops import torch_counter
from test_meter import PROBLEMS, SHARED, assert_the_meter_moves_no_weight, exact_log2_pass_rates, metered
from trl.experimental.a2po import A2POConfig, A2POTrainer

from bitsample_llm.estimators import jackknife_entropy_bits
from bitsample_llm.information import binary_entropy_bits
from bitsample_llm.records import read_run

NUM_VALUE_SAMPLES = 4
ANSWERS = {problem.problem_id: problem.answer for problem in PROBLEMS}


def is_right(completions, problem_id, **columns) -> list[float]:
    return [float(text == ANSWERS[name]) for text, name in zip(completions, problem_id, strict=True)]


def value_trainer(base_model, folder, reward=is_right, **options):
    model, tokenizer = copy.deepcopy(base_model)
    tokenizer.padding_side = "left"
    rows = [{"prompt": problem.prompt, "problem_id": problem.problem_id} for problem in PROBLEMS]
    how = {"per_device_train_batch_size": 8, "max_completion_length": 4, "num_value_samples": NUM_VALUE_SAMPLES}
    how |= {"filter_all_incorrect": False, "beta2": 0.1}
    args = A2POConfig(output_dir=str(folder / "checkpoints"), **SHARED | how | options)
    data = {"train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
    return A2POTrainer(model, reward, args=args, **data)


@pytest.mark.parametrize(
    "options", [{}, {"gradient_accumulation_steps": 2}, {"filter_all_incorrect": True}], ids=["plain", "two parts", "filtered"]
)
def test_flops_are_what_torch_counts_and_every_rollout_is_recorded_once(base_model, tmp_path, options):
    trainer = value_trainer(base_model, tmp_path, **options)
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    assert meter.total_flops + meter.cumulative["flops/evaluation"] == pytest.approx(true.get_total_flops(), rel=0.02)
    for phase in ("prefill", "decode", "score_reference", "train_forward", "train_backward"):
        assert meter.cumulative[f"flops/{phase}"] > 0
    run = read_run(tmp_path / "run")
    groups, rollouts = (run.table(name).to_pylist() for name in ("prompts", "rollouts"))
    num_trained_on = 4 * 8 * options.get("gradient_accumulation_steps", 1)
    assert run.manifest["regime"] == "rl" and run.manifest["sampling"]["is_own_distribution"]
    of_reference = [row for row in rollouts if row["generation_step"] == 0]
    assert len(of_reference) == len(PROBLEMS) * NUM_VALUE_SAMPLES
    if options.get("filter_all_incorrect"):  # fewer prompts than a full last batch
        passed = {row["problem_id"] for row in of_reference if row["passed"]}
        assert passed == {row["problem_id"] for row in rollouts if row["generation_step"]}
        num_trained_on = len(passed)
    assert len(rollouts) == run.steps[-1]["samples/total"] == len(of_reference) + num_trained_on
    assert len(groups) == len(PROBLEMS) + num_trained_on
    assert run.steps[-1]["tokens/completion"] == sum(row["num_tokens"] for row in rollouts)
    assert all(row["passed"] == (row["text"] == ANSWERS[row["problem_id"]] and row["ended"]) for row in rollouts)
    assert all((row["surprisal_bits"] is None) == (row["generation_step"] == 0) for row in rollouts)
    assert not any("informative" in key or "dead" in key for key in run.steps[-1])  # no rollout is compared with others
    assert np.mean([line["train/loss"] for line in run.steps]) == pytest.approx(
        trainer.state.log_history[-1]["train_loss"], rel=1e-4
    )


def test_weights_with_and_without_the_meter_are_bit_identical(base_model, tmp_path):
    assert_the_meter_moves_no_weight(
        lambda: value_trainer(base_model, tmp_path, learning_rate=1e-3), lambda trainer: metered(trainer, tmp_path)
    )


def test_verdicts_offer_the_entropy_of_the_exact_pass_rate(base_model, tmp_path):
    trainer = value_trainer(base_model, tmp_path, max_steps=1)
    metered(trainer, tmp_path)
    exact = exact_log2_pass_rates(*base_model, PROBLEMS)
    trainer.train()
    run = read_run(tmp_path / "run")
    total = sum(row["offered_bits"] * row["group_size"] for row in run.table("prompts").to_pylist())
    assert run.steps[0]["bits/offered_total"] == pytest.approx(total)
    for row in run.table("prompts").to_pylist():  # nothing was trained before either stage
        assert row["offered_bits"] == pytest.approx(float(binary_entropy_bits(2 ** exact[row["problem_id"]])), abs=1e-3)
        assert row["group_size"] == (NUM_VALUE_SAMPLES if row["generation_step"] == 0 else 1)
    right = [row for row in run.table("rollouts").to_pylist() if row["passed"] and row["generation_step"]]
    assert right
    for row in right:
        assert row["surprisal_bits"] == pytest.approx(-exact[row["problem_id"]], abs=1e-3)


def test_without_a_verifier_the_rollouts_of_the_reference_tell_and_a_single_one_does_not(base_model, tmp_path):
    trainer = value_trainer(base_model, tmp_path)
    metered(trainer, tmp_path, with_verifier=False)
    trainer.train()
    run = read_run(tmp_path / "run")
    groups = run.table("prompts").to_pylist()
    by_problem: dict[str, list[bool]] = {}
    for row in run.table("rollouts").to_pylist():
        if row["generation_step"] == 0:
            by_problem.setdefault(row["problem_id"], []).append(row["text"] == ANSWERS[row["problem_id"]])
    for row in groups:
        if row["generation_step"] == 0:
            expected = jackknife_entropy_bits(sum(by_problem[row["problem_id"]]), NUM_VALUE_SAMPLES)
            assert row["offered_bits"] == pytest.approx(float(expected)) and row["offered_bits_estimator"] == "jackknife"
        else:
            assert row["offered_bits"] is None
    assert sum(row["offered_bits"] or 0 for row in groups) > 0


def test_a_reward_that_is_no_verdict_is_told_before_the_training(base_model, tmp_path):
    trainer = value_trainer(base_model, tmp_path, reward=lambda completions, **columns: [0.5] * len(completions))
    metered(trainer, tmp_path, with_verifier=False)
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        trainer.train()


def test_what_generate_truncates_by_itself_is_recorded(base_model, tmp_path):
    """Where TRL passes no top_k, transformers takes its own, 50."""
    trainer = value_trainer(base_model, tmp_path)
    asked = trainer.model._prepare_generation_config(copy.deepcopy(trainer.generation_config))[0].top_k
    assert metered(trainer, tmp_path).observer.sampling["top_k"] == asked == 50
    assert not metered(value_trainer(base_model, tmp_path), tmp_path / "own").observer.sampling[
        "is_truncated"
    ]  # of a vocabulary of 35
    assert metered(value_trainer(base_model, tmp_path, top_k=20), tmp_path / "some").observer.sampling["is_truncated"]
