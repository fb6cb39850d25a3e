"""The meter on real TRL trainers: what it records is true, and it changes nothing."""

import copy
import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from test_flops import torch_counter
from transformers import Qwen3Config, Qwen3ForSequenceClassification, TrainerCallback
from transformers.integrations import integration_utils
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from bitsample_llm import InformationMeter
from bitsample_llm.estimators import jackknife_entropy_bits
from bitsample_llm.meter.heldout import HeldOut
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.records import read_run
from bitsample_llm.records.glossary import TRAINING_PHASES
from bitsample_llm.scoring.likelihood import answer_logprobs
from bitsample_llm.tasks import load_task
from bitsample_llm.training.rewards import RandomReward, VerdictReward

TASK = load_task("addition", "reversed", difficulty=2, mark="C")
PROBLEMS = TASK.problems("train", 32, seed=0)
SHARED = {
    "report_to": "none",
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "max_steps": 4,
    "save_strategy": "no",
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-4,
    "disable_tqdm": True,
}


def sft_trainer(base_model, folder, **options):
    model, tokenizer = base_model
    rows = [{"prompt": p.prompt, "completion": p.answer, "problem_id": p.problem_id} for p in PROBLEMS]
    args = SFTConfig(output_dir=str(folder / "checkpoints"), **SHARED | {"per_device_train_batch_size": 8} | options)
    data = {"train_dataset": Dataset.from_list(rows), "eval_dataset": Dataset.from_list(rows[:8])}
    return SFTTrainer(copy.deepcopy(model), args=args, processing_class=tokenizer, **data)


def rl_trainer(base_model, folder, trainer=GRPOTrainer, config=GRPOConfig, reward=None, **options):
    model, tokenizer = base_model
    rows = [{"prompt": p.prompt, "problem_id": p.problem_id} for p in PROBLEMS]
    sizes = {"num_generations": 4, "per_device_train_batch_size": 16, "max_completion_length": 4, "beta": 0.0}
    args = config(output_dir=str(folder / "checkpoints"), **SHARED | sizes | options)
    reward = reward or VerdictReward(RolloutVerifier(TASK, PROBLEMS, tokenizer))
    options = {"reward_processing_classes": [tokenizer]} if isinstance(reward, torch.nn.Module) else {}
    data = {"train_dataset": Dataset.from_list(rows), "eval_dataset": Dataset.from_list(rows[:8])}
    return trainer(copy.deepcopy(model), [reward], args=args, processing_class=tokenizer, **data, **options)


def metered(trainer, folder, with_verifier=True, **options):
    verifier = RolloutVerifier(TASK, PROBLEMS, trainer.processing_class) if with_verifier else None
    meter = InformationMeter(trainer, folder / "run", verifier=verifier, **options)
    trainer.add_callback(meter)
    return meter


def assert_the_meter_moves_no_weight(make, attach):
    """Whether a training ends with the same weights, bit for bit, with the meter attached and without; and whether it moved them."""
    weights = []
    for with_meter in (True, False):
        trainer = make()
        start = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
        if with_meter:
            attach(trainer)
        trainer.train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))
        assert not torch.equal(weights[-1], start)
    assert torch.equal(*weights)


def exact_log2_pass_rates(model, tokenizer, problems) -> dict[str, float]:
    logps = answer_logprobs(model, tokenizer, problems)
    return {problem.problem_id: float(values.sum() / np.log(2)) for problem, values in zip(problems, logps, strict=True)}


@pytest.mark.parametrize("make", [sft_trainer, rl_trainer])
def test_weights_with_and_without_the_meter_are_bit_identical(base_model, tmp_path, make):
    assert_the_meter_moves_no_weight(
        lambda: make(base_model, tmp_path),
        lambda trainer: metered(trainer, tmp_path, evaluation=HeldOut({"heldout": TASK.problems("heldout", 8, seed=0)})),
    )


@pytest.mark.parametrize("make", [sft_trainer, rl_trainer])
def test_flops_of_a_training_run_are_what_torch_counts(base_model, tmp_path, make):
    trainer = make(base_model, tmp_path)
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    counted = meter.total_flops + meter.cumulative["flops/evaluation"]
    assert counted == pytest.approx(true.get_total_flops(), rel=0.02)


def test_offered_bits_of_a_label_are_its_exact_surprisal(base_model, tmp_path):
    trainer = sft_trainer(base_model, tmp_path)
    metered(trainer, tmp_path)
    exact = exact_log2_pass_rates(*base_model, PROBLEMS)
    trainer.train()
    run = read_run(tmp_path / "run")
    first = [row for row in run.table("prompts").to_pylist() if row["step"] == 1]
    assert len(first) == 8
    for row in first:
        assert row["offered_bits"] == pytest.approx(-exact[row["problem_id"]], abs=1e-3)
    assert run.steps[0]["train/loss"] * sum_of_tokens(first) == pytest.approx(
        sum(row["offered_bits"] for row in first) * np.log(2), rel=1e-4
    )


def sum_of_tokens(rows) -> int:
    answers = {problem.problem_id: problem.answer for problem in PROBLEMS}
    return sum(len(answers[row["problem_id"]]) + 1 for row in rows)


def test_every_rollout_is_recorded_once_with_its_verdict_group_and_surprisal(base_model, tmp_path):
    trainer = rl_trainer(base_model, tmp_path, max_steps=3, shuffle_dataset=False)
    metered(trainer, tmp_path)
    exact = exact_log2_pass_rates(*base_model, PROBLEMS)
    trainer.train()
    run = read_run(tmp_path / "run")
    rollouts, prompts = run.table("rollouts").to_pylist(), run.table("prompts").to_pylist()
    keys = [(row["step"], row["problem_id"], row["sample"]) for row in rollouts]
    assert len(keys) == len(set(keys)) == 3 * 16
    problem_by_id = {problem.problem_id: problem for problem in PROBLEMS}
    for row in rollouts:
        verdict = TASK.verify(problem_by_id[row["problem_id"]], row["text"], row["ended"])
        assert (row["passed"], row["reason"]) == (verdict.passed, verdict.reason)
        assert dict(row["rewards"]) == {"outcome": float(row["passed"])}
    for row in prompts:
        group = [r for r in rollouts if (r["step"], r["problem_id"]) == (row["step"], row["problem_id"])]
        assert row["num_passed"] == sum(r["passed"] for r in group)
        assert len(group) == row["group_size"] == 4
    # a rollout that passes is the accepted answer, so its surprisal under the first policy is the problem's
    passing = [row for row in rollouts if row["step"] == 1 and row["passed"]]
    assert passing
    for row in passing:
        assert row["surprisal_bits"] == pytest.approx(-exact[row["problem_id"]], abs=1e-3)
    for row in (row for row in prompts if row["step"] == 1):
        assert row["pass_rate"] == pytest.approx(2 ** exact[row["problem_id"]], rel=1e-3)
        assert np.prod(row["step_pass_rates"]) == pytest.approx(row["pass_rate"])
        assert row["offered_bits_estimator"] == "exact"


def test_without_a_verifier_the_entropy_is_estimated_from_the_group(base_model, tmp_path):
    trainer = rl_trainer(base_model, tmp_path, max_steps=2)
    metered(trainer, tmp_path, with_verifier=False)
    trainer.train()
    rows = read_run(tmp_path / "run").table("prompts").to_pylist()
    assert {row["offered_bits_estimator"] for row in rows} == {"jackknife"}
    for row in rows:
        assert row["pass_rate"] is None
        assert row["offered_bits"] == pytest.approx(jackknife_entropy_bits(row["num_passed"], 4))


@pytest.mark.parametrize(
    ("trainer", "config", "options"),
    [
        (RLOOTrainer, RLOOConfig, {}),
        (RLOOTrainer, RLOOConfig, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8}),
        (GRPOTrainer, GRPOConfig, {"num_iterations": 2}),
        (GRPOTrainer, GRPOConfig, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8}),
        (GRPOTrainer, GRPOConfig, {"steps_per_generation": 2, "generation_batch_size": None, "per_device_train_batch_size": 8}),
        (GRPOTrainer, GRPOConfig, {"beta": 0.1}),
        (GMPOTrainer, GMPOConfig, {}),
    ],
    ids=[
        "rloo",
        "rloo in two parts",
        "two iterations",
        "gradient accumulation",
        "two steps a generation",
        "with a reference",
        "gmpo",
    ],
)
def test_groups_and_flops_are_right_in_every_way_trl_runs(base_model, tmp_path, trainer, config, options):
    trainer = rl_trainer(base_model, tmp_path, trainer, config, **options)
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    assert meter.total_flops + meter.cumulative["flops/evaluation"] == pytest.approx(true.get_total_flops(), rel=0.02)
    run = read_run(tmp_path / "run")
    rollouts = run.table("rollouts").to_pylist()
    keys = [(row["generation_step"], row["problem_id"], row["sample"]) for row in rollouts]
    assert len(keys) == len(set(keys))
    assert len(rollouts) == 4 * run.table("prompts").num_rows == run.steps[-1]["samples/total"]
    assert all(row["surprisal_bits"] is not None for row in rollouts)
    dead = [
        all(r["passed"] == group[0]["passed"] for r in group)
        for row in run.table("prompts").to_pylist()
        for group in [
            [r for r in rollouts if (r["generation_step"], r["problem_id"]) == (row["generation_step"], row["problem_id"])]
        ]
    ]
    assert run.steps[-1]["flops/dead_group_fraction"] == pytest.approx(np.mean(dead), abs=0.1)  # generations cost nearly the same
    if "beta" in options:
        assert run.steps[-1]["flops/score_reference"] > 0
    trained_on = trainer.state.log_history[-1]["train_loss"]  # the trainer's own mean
    assert np.mean([line["train/loss"] for line in run.steps]) == pytest.approx(trained_on, rel=1e-3, abs=1e-6)


def test_a_random_reward_tells_nothing_and_is_the_same_for_the_same_seed(base_model, tmp_path):
    trainer = rl_trainer(base_model, tmp_path, reward=RandomReward(seed=3))
    metered(trainer, tmp_path, reward_is_verdict=False)
    trainer.train()
    run = read_run(tmp_path / "run")
    assert {row["offered_bits"] for row in run.table("prompts").to_pylist()} == {None}
    assert "bits/offered_total" not in run.steps[-1] and run.steps[-1]["group/pass_rate"] > 0
    rollouts = run.table("rollouts").to_pylist()
    rewards = np.array([dict(row["rewards"])["random"] for row in rollouts])
    passed = np.array([row["passed"] for row in rollouts])
    assert set(rewards) == {0.0, 1.0}
    assert (rewards != passed).any()

    class State:
        global_step = 7

    first, second = (RandomReward(3)(list(range(50)), State()) for _ in range(2))
    assert first == second != RandomReward(4)(list(range(50)), State())


def test_cumulative_numbers_never_fall_and_phases_add_up(base_model, tmp_path):
    trainer = rl_trainer(base_model, tmp_path)
    metered(trainer, tmp_path)
    trainer.train()
    lines = read_run(tmp_path / "run").steps
    for line in lines:
        assert line["flops/total"] == pytest.approx(sum(line[f"flops/{phase}"] for phase in TRAINING_PHASES))
        for phase in TRAINING_PHASES:
            assert line[f"flops_useful/{phase}"] <= line[f"flops/{phase}"]
    for before, after in itertools.pairwise(lines):
        assert after["flops/total"] > before["flops/total"]
        assert after["samples/total"] == before["samples/total"] + 16


@pytest.mark.parametrize("make", [sft_trainer, rl_trainer])
def test_metrics_reach_the_trainers_own_log(base_model, tmp_path, make):
    trainer = make(base_model, tmp_path, logging_steps=2)
    meter = metered(trainer, tmp_path)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "flops/total" in entry]
    assert [entry["step"] for entry in logs] == [2, 4]
    assert logs[-1]["flops/total"] == meter.total_flops
    lines = read_run(tmp_path / "run").steps
    assert logs[0]["bits/offered_per_sample"] == lines[1]["bits/offered_per_sample"]
    assert "flops/total" not in trainer.state.log_history[-1]  # the closing summary is the trainer's own


def test_a_trainer_without_the_method_it_hooks_is_named(base_model, tmp_path, monkeypatch):
    trainer = rl_trainer(base_model, tmp_path)
    monkeypatch.delattr(GRPOTrainer, "_calculate_rewards")
    with pytest.raises(AttributeError, match="GRPOTrainer has no _calculate_rewards"):
        metered(trainer, tmp_path)


def test_a_reward_model_is_paid_for(base_model, tmp_path):
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        attn_implementation="eager",
        num_labels=1,
        pad_token_id=0,
    )
    reward = Qwen3ForSequenceClassification(config).eval()
    trainer = rl_trainer(base_model, tmp_path, reward=reward, max_steps=2)
    meter = metered(trainer, tmp_path, pass_threshold=0.0)
    with torch_counter() as true:
        trainer.train()
    assert meter.cumulative["flops/reward_model"] > 0
    assert meter.total_flops + meter.cumulative["flops/evaluation"] == pytest.approx(true.get_total_flops(), rel=0.02)


class KeepsNames(TrainerCallback):
    """A back end that names metrics as those of transformers do."""

    def __init__(self):
        self.names = set()

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.names |= set(integration_utils.rewrite_logs(logs))


def test_back_ends_show_what_the_meter_says_in_groups_of_its_own(base_model, tmp_path):
    trainer = sft_trainer(base_model, tmp_path, logging_steps=1)
    metered(trainer, tmp_path, with_verifier=False)
    back_end = KeepsNames()
    trainer.add_callback(back_end)
    trainer.train()
    assert {"train/loss", "bits/offered_per_sample", "flops/total"} <= back_end.names
    assert not {name for name in back_end.names if name.startswith(("train/bits", "train/flops", "train/group"))}
    assert integration_utils.rewrite_logs({"bits/x": 1}) == {"train/bits/x": 1}  # others are left alone
