"""The meter on online DPO, which draws its pairs: bits by own arithmetic, FLOPs against torch, nothing changed."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from test_flops import torch_counter
from test_meter import PROBLEMS, SHARED, assert_the_meter_moves_no_weight, metered
from test_preferences import other_model
from transformers import LlamaConfig, LlamaForSequenceClassification
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from bitsample_llm.records import read_run
from bitsample_llm.scoring.likelihood import answer_logprobs
from bitsample_llm.tasks.problem import Problem

LORA = {"peft_config": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])}


def right_digits(completions, problem_id, **columns) -> list[float]:
    """How many characters are those of the answer, so that there are ties and pairs with a winner."""
    answers = {problem.problem_id: problem.answer for problem in PROBLEMS}
    return [
        float(sum(a == b for a, b in zip(text, answers[name], strict=False)))
        for text, name in zip(completions, problem_id, strict=True)
    ]


def reward_model(base_model):
    torch.manual_seed(0)
    config = LlamaConfig(**base_model[0].config.to_dict() | {"num_labels": 1, "attn_implementation": "eager"})
    return LlamaForSequenceClassification(config)


def pair_trainer(base_model, folder, reward=right_digits, ref_model=None, peft_config=None, **options):
    model, tokenizer = base_model
    rows = [{"prompt": problem.prompt, "problem_id": problem.problem_id} for problem in PROBLEMS]
    how = {"per_device_train_batch_size": 8, "max_new_tokens": 4, "beta": 0.5, "temperature": 1.0}
    args = OnlineDPOConfig(output_dir=str(folder / "checkpoints"), **SHARED | how | options)
    if isinstance(reward, torch.nn.Module):
        how = {"reward_processing_classes": tokenizer}
    else:
        how = {}
    return OnlineDPOTrainer(
        copy.deepcopy(model),
        ref_model,
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=copy.deepcopy(tokenizer),
        peft_config=peft_config,
        **how,
    )


WAYS = [
    pytest.param({}, id="plain"),
    pytest.param(LORA, id="adapters"),
    pytest.param({"gradient_accumulation_steps": 2}, id="two parts"),
    pytest.param({"gradient_checkpointing": True}, id="blocks run again, no cache"),
    pytest.param({"reward": "model"}, id="reward model"),
]


@pytest.mark.parametrize("options", WAYS)
def test_flops_are_what_torch_counts_and_every_rollout_is_recorded_once(base_model, tmp_path, options):
    options = options | ({"reward": reward_model(base_model)} if "reward" in options else {})
    trainer = pair_trainer(base_model, tmp_path, **options)
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    assert meter.total_flops + meter.cumulative["flops/evaluation"] == pytest.approx(true.get_total_flops(), rel=0.02)
    for phase in ("prefill", "decode", "score_reference", "train_forward", "train_backward"):
        assert meter.cumulative[f"flops/{phase}"] > 0
    assert (meter.cumulative["flops/reward_model"] > 0) == ("reward" in options)
    run = read_run(tmp_path / "run")
    num_pairs = 4 * 8 * options.get("gradient_accumulation_steps", 1)
    pairs, rollouts = (run.table(name).to_pylist() for name in ("prompts", "rollouts"))
    assert run.manifest["regime"] == "preference" and run.manifest["sampling"]["is_own_distribution"]
    assert len(pairs) == run.steps[-1]["samples/total"] == num_pairs and len(rollouts) == 2 * num_pairs
    assert [row["problem_id"] for row in rollouts] == [row["problem_id"] for row in pairs for _ in range(2)]
    assert run.steps[-1]["tokens/completion"] == sum(row["num_tokens"] for row in rollouts)
    assert run.steps[-1]["bits/offered_total"] == pytest.approx(sum(row["offered_bits"] for row in pairs))
    assert np.mean([line["train/loss"] for line in run.steps]) == pytest.approx(
        trainer.state.log_history[-1]["train_loss"], rel=1e-4
    )
    right = {problem.problem_id: problem.answer for problem in PROBLEMS}
    assert all(row["passed"] == (row["text"] == right[row["problem_id"]] and row["ended"]) for row in rollouts)


def test_weights_with_and_without_the_meter_are_bit_identical(base_model, tmp_path):
    assert_the_meter_moves_no_weight(
        lambda: pair_trainer(base_model, tmp_path, learning_rate=1e-3), lambda trainer: metered(trainer, tmp_path)
    )


def rollout_logps(model, tokenizer, rollouts: list[dict]) -> np.ndarray:
    """Log-probabilities in nats of whole completions, by the scorer of the study; NaN where it does not score them: without an end."""
    prompts = {problem.problem_id: problem.prompt for problem in PROBLEMS}
    ended = [row for row in rollouts if row["ended"]]
    asked = [Problem(str(at), prompts[row["problem_id"]], row["text"], difficulty=2) for at, row in enumerate(ended)]
    scores = iter(answer_logprobs(model.eval(), tokenizer, asked))
    return np.array([float(np.sum(next(scores))) if row["ended"] else np.nan for row in rollouts])


def test_a_pair_offers_the_surprisal_of_what_the_reward_prefers_and_a_tie_nothing(base_model, tmp_path):
    model, tokenizer = base_model
    other = other_model(model)
    trainer = pair_trainer(
        base_model, tmp_path, ref_model=other, max_steps=1, per_device_train_batch_size=32, missing_eos_penalty=3.0
    )
    metered(trainer, tmp_path)
    trainer.train()
    run = read_run(tmp_path / "run")
    pairs, rollouts = (run.table(name).to_pylist() for name in ("prompts", "rollouts"))
    logps = rollout_logps(model, tokenizer, rollouts)
    ratios = logps - rollout_logps(other, tokenizer, rollouts)
    rewards = np.array(right_digits([row["text"] for row in rollouts], [row["problem_id"] for row in rollouts]))
    rewards -= [0.0 if row["ended"] else 3.0 for row in rollouts]
    assert [row["reward"] for row in rollouts] == rewards.tolist()
    known = ~np.isnan(logps)
    surprisals = np.array([row["surprisal_bits"] for row in rollouts])
    assert surprisals[known] == pytest.approx(-logps[known] / np.log(2), rel=1e-3)
    signs = np.sign(rewards[::2] - rewards[1::2])
    expected = np.where(signs == 0, 0.0, np.log2(1 + np.exp(-0.5 * signs * (ratios[::2] - ratios[1::2]))))
    known = known[::2] & known[1::2]
    assert np.array([row["offered_bits"] for row in pairs])[known] == pytest.approx(expected[known], rel=1e-3)
    assert min((known & (signs == sign)).sum() for sign in (-1, 0, 1)) > 0
    assert run.steps[0]["group/informative_fraction"] == np.mean(signs != 0)


def test_where_no_pair_is_a_tie_the_loss_is_the_bits(base_model, tmp_path):
    seen = iter(range(10**6))
    trainer = pair_trainer(
        base_model, tmp_path, reward=lambda completions, **columns: [float(next(seen)) for _ in completions], learning_rate=1e-3
    )
    metered(trainer, tmp_path, with_verifier=False)
    trainer.train()
    run = read_run(tmp_path / "run")
    for line in run.steps:
        assert line["train/loss"] == pytest.approx(line["bits/offered_per_sample"] * np.log(2), rel=1e-4)
    assert run.steps[0]["bits/offered_per_sample"] == pytest.approx(1.0, abs=1e-5)  # the start is the reference
    assert all(row["passed"] is None for row in run.table("rollouts").to_pylist())


def test_pairs_of_a_server_are_priced_by_their_tokens(base_model, tmp_path):
    trainer = pair_trainer(base_model, tmp_path, max_steps=1)
    prompt = torch.arange(3, 7).repeat(16, 1)
    completion, mask = torch.full((16, 3), 5), torch.tensor([[1, 1, 1], [1, 1, 0]] * 8)
    trainer.args.use_vllm = True
    trainer._generate_vllm = lambda prompts, images=None: (prompt, torch.ones_like(prompt), completion, mask)
    meter = metered(trainer, tmp_path, with_verifier=False)
    trainer.train()
    products = meter.counter.products
    per_token = 2 * (products.block_parameters + products.output_parameters)
    # 2 and 1 decoding passes after 4 positions, each attending to one more
    attended = 8 * ((5 + 6) + 5)
    assert meter.cumulative["flops/decode"] == pytest.approx(24 * per_token + products.attention_flops * attended)
    assert read_run(tmp_path / "run").steps[0]["tokens/completion"] == 40
