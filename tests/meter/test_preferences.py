"""The meter on trainers that learn from preferences: bits by own arithmetic, FLOPs against torch, nothing changed."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from test_flops import torch_counter
from test_meter import PROBLEMS, SHARED, assert_the_meter_moves_no_weight
from transformers import LlamaConfig, LlamaForSequenceClassification
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.experimental.tpo import TPOConfig, TPOTrainer

from bitsample_llm import InformationMeter
from bitsample_llm.records import read_run
from bitsample_llm.scoring.likelihood import answer_logprobs
from bitsample_llm.tasks.problem import Problem

WRONG = "0" * 3
LORA = {"peft_config": LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])}


def args_of(config, folder, **options):
    return config(output_dir=str(folder / "checkpoints"), **SHARED | {"per_device_train_batch_size": 8, "beta": 0.5} | options)


def dpo_trainer(base_model, folder, ref_model=None, peft_config=None, **options):
    model, tokenizer = base_model
    rows = [{"prompt": problem.prompt, "chosen": problem.answer, "rejected": WRONG} for problem in PROBLEMS]
    how = {"args": args_of(DPOConfig, folder, **options), "train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
    reference = None if peft_config else ref_model or copy.deepcopy(model)
    return DPOTrainer(copy.deepcopy(model), reference, peft_config=peft_config, **how)


def kto_trainer(base_model, folder, ref_model=None, peft_config=None, **options):
    model, tokenizer = base_model
    rows = [
        {"prompt": problem.prompt, "completion": problem.answer if index % 2 else WRONG, "label": bool(index % 2)}
        for index, problem in enumerate(PROBLEMS)
    ]
    how = {"args": args_of(KTOConfig, folder, **options), "train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
    reference = None if peft_config else ref_model or copy.deepcopy(model)
    return KTOTrainer(copy.deepcopy(model), reference, peft_config=peft_config, **how)


def reward_trainer(base_model, folder, **options):
    model, tokenizer = base_model
    torch.manual_seed(0)
    judge = LlamaForSequenceClassification(
        LlamaConfig(**model.config.to_dict() | {"num_labels": 1, "attn_implementation": "eager"})
    )
    rows = [{"chosen": problem.prompt + problem.answer, "rejected": problem.prompt + WRONG} for problem in PROBLEMS]
    args = RewardConfig(output_dir=str(folder / "checkpoints"), **SHARED | {"per_device_train_batch_size": 8} | options)
    return RewardTrainer(judge, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def unreferenced_trainer(base_model, folder, trainer=CPOTrainer, config=CPOConfig, **options):
    model, tokenizer = base_model
    rows = [{"prompt": problem.prompt, "chosen": problem.answer, "rejected": WRONG} for problem in PROBLEMS]
    args = args_of(config, folder, **options)
    return trainer(copy.deepcopy(model), args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


OTHER_ANSWER = "1" * 3


def triple_trainer(base_model, folder, peft_config=None, **options):
    """Pairs, and an answer to imitate."""
    model, tokenizer = base_model
    rows = [
        {"prompt": problem.prompt, "chosen": OTHER_ANSWER, "rejected": WRONG, "reference": problem.answer} for problem in PROBLEMS
    ]
    how = {"args": args_of(TPOConfig, folder, **options), "train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
    return TPOTrainer(copy.deepcopy(model), peft_config=peft_config, **how)


def metered(trainer, folder) -> InformationMeter:
    meter = InformationMeter(trainer, folder / "run")
    trainer.add_callback(meter)
    return meter


def other_model(model, size: float = 0.02):
    """A model that is not the policy, so that margins are not zero from the start."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += size * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return other


def logps_of(model, tokenizer, answers: list[str]) -> list[np.ndarray]:
    """Log-probabilities in nats of the tokens of an answer to each problem, by the scorer of the study."""
    asked = [
        Problem(f"{row}", problem.prompt, answer, difficulty=2)
        for row, (problem, answer) in enumerate(zip(PROBLEMS, answers, strict=True))
    ]
    return [np.asarray(logps_T, dtype=float) for logps_T in answer_logprobs(model.eval(), tokenizer, asked)]


def log_ratios(model, reference, tokenizer, answers: list[str]) -> np.ndarray:
    """Log-ratios in nats of an answer to each problem."""
    scores = [[logps_T.sum() for logps_T in logps_of(each, tokenizer, answers)] for each in (model, reference)]
    return np.array(scores[0]) - np.array(scores[1])


WAYS = [
    pytest.param(dpo_trainer, {}, id="DPO"),
    pytest.param(dpo_trainer, LORA, id="DPO with adapters"),
    pytest.param(dpo_trainer, {"precompute_ref_log_probs": True}, id="DPO, reference computed before"),
    pytest.param(dpo_trainer, {"loss_type": ["ipo"], "gradient_accumulation_steps": 2}, id="IPO, two parts"),
    pytest.param(dpo_trainer, {"gradient_checkpointing": True}, id="DPO, blocks run again"),
    pytest.param(kto_trainer, {}, id="KTO"),
    pytest.param(kto_trainer, LORA, id="KTO with adapters"),
    pytest.param(kto_trainer, {"loss_type": "apo_zero_unpaired"}, id="KTO without KL"),
    pytest.param(reward_trainer, {}, id="reward model"),
    pytest.param(reward_trainer, {"gradient_accumulation_steps": 2}, id="reward model, two parts"),
    pytest.param(unreferenced_trainer, {}, id="CPO"),
    pytest.param(unreferenced_trainer, {"trainer": ORPOTrainer, "config": ORPOConfig, "gradient_accumulation_steps": 2}, id="ORPO"),
    pytest.param(triple_trainer, {}, id="TPO"),
    pytest.param(triple_trainer, LORA | {"gradient_accumulation_steps": 2, "loss_type": "tpo-l"}, id="TPO-L, two parts"),
    pytest.param(triple_trainer, {"tpo_alpha": 0.0, "gradient_checkpointing": True}, id="TPO without an answer"),
]


@pytest.mark.parametrize(("make", "options"), WAYS)
def test_flops_are_what_torch_counts_and_every_sample_is_recorded_once(base_model, tmp_path, make, options):
    trainer = make(base_model, tmp_path, **options)
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    assert meter.total_flops == pytest.approx(true.get_total_flops(), rel=0.02)
    run = read_run(tmp_path / "run")
    parts = options.get("gradient_accumulation_steps", 1)
    rows = run.table("prompts").to_pylist()
    assert run.manifest["regime"] == "preference"
    assert len(rows) == run.steps[-1]["samples/total"] == 4 * 8 * parts
    assert all(row["offered_bits"] > 0 and row["offered_bits_estimator"] == "label" for row in rows)
    assert run.steps[-1]["bits/offered_total"] == pytest.approx(sum(row["offered_bits"] for row in rows))
    assert np.mean([line["train/loss"] for line in run.steps]) == pytest.approx(
        trainer.state.log_history[-1]["train_loss"], rel=1e-4
    )


def test_what_an_evaluation_asks_the_reference_is_part_of_the_evaluation(base_model, tmp_path):
    trainer = dpo_trainer(base_model, tmp_path, max_steps=1)
    meter = metered(trainer, tmp_path)
    trainer.train()
    before = {phase: meter.cumulative[f"flops/{phase}"] for phase in ("score_reference", "train_forward", "total")}
    rows = [{"prompt": problem.prompt, "chosen": problem.answer, "rejected": WRONG} for problem in PROBLEMS[:8]]
    with torch_counter() as true:
        trainer.evaluate(Dataset.from_list(rows))
    assert {phase: meter.cumulative[f"flops/{phase}"] for phase in before} == before
    assert meter.cumulative["flops/evaluation"] == pytest.approx(true.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("make", [dpo_trainer, kto_trainer, reward_trainer, triple_trainer])
def test_weights_with_and_without_the_meter_are_bit_identical(base_model, tmp_path, make):
    assert_the_meter_moves_no_weight(lambda: make(base_model, tmp_path), lambda trainer: metered(trainer, tmp_path))


def test_a_pair_offers_one_bit_at_the_start_and_what_its_margin_says_later(base_model, tmp_path):
    model, tokenizer = base_model
    trainer = dpo_trainer(base_model, tmp_path / "same", max_steps=1)
    metered(trainer, tmp_path / "same")
    trainer.train()
    assert read_run(tmp_path / "same" / "run").table("prompts")["offered_bits"].to_pylist() == pytest.approx([1.0] * 8, abs=1e-5)

    other = other_model(model)
    trainer = dpo_trainer(base_model, tmp_path / "other", ref_model=other, max_steps=1, per_device_train_batch_size=32)
    metered(trainer, tmp_path / "other")
    trainer.train()
    recorded = sorted(read_run(tmp_path / "other" / "run").table("prompts")["offered_bits"].to_pylist())
    right = log_ratios(model, other, tokenizer, [problem.answer for problem in PROBLEMS])
    wrong = log_ratios(model, other, tokenizer, [WRONG] * len(PROBLEMS))
    assert recorded == pytest.approx(sorted(np.log2(1 + np.exp(-0.5 * (right - wrong)))), rel=1e-3)
    assert max(recorded) > min(recorded) + 0.01


def test_a_completion_with_its_verdict_offers_the_surprisal_of_the_verdict(base_model, tmp_path):
    model, tokenizer = base_model
    other = other_model(model)
    trainer = kto_trainer(
        base_model, tmp_path, ref_model=other, max_steps=1, per_device_train_batch_size=32, loss_type="apo_zero_unpaired"
    )
    metered(trainer, tmp_path)
    trainer.train()
    answers = [problem.answer if index % 2 else WRONG for index, problem in enumerate(PROBLEMS)]
    signs = np.where(np.arange(len(PROBLEMS)) % 2, 1, -1)
    expected = np.log2(1 + np.exp(-0.5 * signs * log_ratios(model, other, tokenizer, answers)))
    recorded = read_run(tmp_path / "run").table("prompts")["offered_bits"].to_pylist()
    assert sorted(recorded) == pytest.approx(sorted(expected), rel=1e-3)


def test_with_the_kl_of_the_batch_bits_and_loss_tell_one_probability(base_model, tmp_path):
    trainer = kto_trainer(base_model, tmp_path, ref_model=other_model(base_model[0]), learning_rate=1e-3)
    metered(trainer, tmp_path)
    trainer.train()
    run = read_run(tmp_path / "run")
    for line in run.steps:  # the loss is 1 - P(label)
        bits = [row["offered_bits"] for row in run.table("prompts").to_pylist() if row["step"] == line["step"]]
        assert line["train/loss"] == pytest.approx(np.mean(1 - np.exp2(-np.array(bits))), rel=1e-4)


def test_pairs_without_a_reference_offer_what_the_policy_says_of_them(base_model, tmp_path):
    model, tokenizer = base_model
    options = {"max_steps": 1, "per_device_train_batch_size": 32}
    for name, kinds in {"cpo": (CPOTrainer, CPOConfig), "orpo": (ORPOTrainer, ORPOConfig)}.items():
        trainer = unreferenced_trainer(base_model, tmp_path / name, *kinds, **options)
        metered(trainer, tmp_path / name)
        trainer.train()
    recorded = [sorted(read_run(tmp_path / name / "run").table("prompts")["offered_bits"].to_pylist()) for name in ("cpo", "orpo")]
    right, wrong = (
        logps_of(model, tokenizer, answers) for answers in ([each.answer for each in PROBLEMS], [WRONG] * len(PROBLEMS))
    )
    margins = np.array([0.5 * (r.sum() - w.sum()) for r, w in zip(right, wrong, strict=True)])
    assert recorded[0] == pytest.approx(sorted(np.log2(1 + np.exp(-margins))), rel=1e-3)
    means = [np.exp([each.mean() for each in logps]) for logps in (right, wrong)]  # ORPO's is a mean over tokens
    odds = [mean / (1 - mean) for mean in means]
    assert recorded[1] == pytest.approx(sorted(np.log2(1 + odds[1] / odds[0])), rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"loss_type": "tpo-l"}, {"tpo_alpha": 0.0}], ids=["TPO", "TPO-L", "no answer"])
def test_a_triple_offers_its_label_and_the_surprisal_of_its_answer(base_model, tmp_path, options):
    model, tokenizer = base_model
    trainer = triple_trainer(base_model, tmp_path, max_steps=1, per_device_train_batch_size=32, **options)
    metered(trainer, tmp_path)
    trainer.train()
    texts = [OTHER_ANSWER] * len(PROBLEMS), [WRONG] * len(PROBLEMS), [problem.answer for problem in PROBLEMS]
    chosen, rejected, answers = (logps_of(model, tokenizer, each) for each in texts)
    total = np.mean if options.get("loss_type") else np.sum  # over tokens
    margins = 0.5 * np.array([total(c) - total(r) for c, r in zip(chosen, rejected, strict=True)])
    surprisals = np.array([-logps_T.sum() / np.log(2) for logps_T in answers]) * (options.get("tpo_alpha") != 0)
    run = read_run(tmp_path / "run")
    expected = np.log2(1 + np.exp(-margins)) + surprisals
    assert sorted(run.table("prompts")["offered_bits"].to_pylist()) == pytest.approx(sorted(expected), rel=1e-3)
    assert run.steps[0].get("bits/surprisal_per_sample", 0.0) == pytest.approx(surprisals.mean(), rel=1e-3)


@pytest.mark.parametrize(("make", "options"), [(dpo_trainer, {}), (reward_trainer, {}), (triple_trainer, {"tpo_alpha": 0.0})])
def test_the_loss_of_pairs_is_their_bits(base_model, tmp_path, make, options):
    trainer = make(base_model, tmp_path, learning_rate=1e-3, **options)
    metered(trainer, tmp_path)
    trainer.train()
    for line in read_run(tmp_path / "run").steps:
        assert line["train/loss"] == pytest.approx(line["bits/offered_per_sample"] * np.log(2), rel=1e-4)


def test_what_has_no_preference_probability_is_null(base_model, tmp_path):
    trainer = dpo_trainer(base_model, tmp_path, f_divergence_type="js_divergence", max_steps=1)
    metered(trainer, tmp_path)
    trainer.train()
    run = read_run(tmp_path / "run")
    assert run.table("prompts")["offered_bits"].to_pylist() == [None] * 8
    assert "bits/offered_total" not in run.steps[-1] and run.steps[-1]["samples/total"] == 8
