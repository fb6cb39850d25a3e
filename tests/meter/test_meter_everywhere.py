"""The meter gives the same record however a batch is cut up, and the right one in the less common ways TRL runs."""

import copy
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BASE, REPOSITORY
from datasets import Dataset
from test_flops import torch_counter
from test_meter import PROBLEMS, SHARED, TASK, exact_log2_pass_rates, metered, rl_trainer, sft_trainer
from torch.nn.functional import kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, Trainer
from trl import DistillationConfig, DistillationTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

from bitsample_llm import InformationMeter
from bitsample_llm.flops import forward_flops
from bitsample_llm.meter.distillation import divergence_bits
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.records import read_run
from bitsample_llm.training.rewards import VerdictReward

ACCELERATE = str(Path(sys.executable).parent / "accelerate")
OPTIONS = {
    "use_cpu": "true",
    "report_to": "none",
    "save_strategy": "no",
    "bf16": "false",
    "gradient_checkpointing": "false",
    "max_completion_length": 4,
    "max_steps": 3,
    "learning_rate": 1e-4,
    "beta": 0,
    "disable_tqdm": "true",
}
# name: launcher configuration, rows a process and micro-batch, accumulation steps
WAYS = {
    "1 process x 2 accumulation steps": (None, 24, 2),
    "2 processes": ("two_cpus", 24, 1),
    "2 processes, sharded by FSDP2": ("fsdp2_cpus", 24, 1),
    "2 processes x 2 accumulation steps": ("two_cpus", 12, 2),
}
PORTS = itertools.count(29700)


def recorded(folder: Path, way: str, num_generations: int):
    """The record of a run on deterministic rollouts."""
    config, rows, accumulation = WAYS[way]
    launcher = [sys.executable]
    if config:
        port = str(next(PORTS) + 10 * list(WAYS).index(way) + num_generations)
        launcher = [ACCELERATE, "launch", "--config_file", f"recipes/accelerate/{config}.yaml", "--main_process_port", port]
    options = OPTIONS | {
        "output_dir": folder,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulation,
        "num_generations": num_generations,
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [*launcher, "tests/scripts/deterministic_rollouts.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    processes = f"{2 if config else 1} processes, parameters {'sharded' if config == 'fsdp2_cpus' else 'whole'}"
    assert processes in done.stdout
    return read_run(folder / "run")


def rows_by_key(run, table: str, columns: list[str]) -> dict:
    """(generation step, problem, sample) -> what was recorded of it; fails where a row is there twice."""
    rows = run.table(table).to_pylist()
    found = {(row["generation_step"], row["problem_id"], row.get("sample")): [row[column] for column in columns] for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("num_generations", [8, 16], ids=["whole groups", "groups split over processes"])
def test_a_batch_has_one_record_however_it_is_cut_up(tmp_path, num_generations):
    runs = {way: recorded(tmp_path / way.replace(" ", "_"), way, num_generations) for way in WAYS}
    first = runs.pop("1 process x 2 accumulation steps")
    groups = rows_by_key(first, "prompts", ["step", "group_size", "num_passed"])
    rollouts = rows_by_key(first, "rollouts", ["step", "text", "ended", "passed", "reward", "num_tokens"])
    assert len(groups) == 3 * 48 // num_generations and len(rollouts) == 3 * 48
    assert 0 < sum(row[3] for row in rollouts.values()) < len(rollouts)
    for run in runs.values():
        assert rows_by_key(run, "prompts", ["step", "group_size", "num_passed"]) == groups
        assert rows_by_key(run, "rollouts", ["step", "text", "ended", "passed", "reward", "num_tokens"]) == rollouts
        for ours, theirs in zip(first.steps, run.steps, strict=True):
            for key in ("samples/total", "tokens/prompt", "tokens/completion", "group/num_rollouts", "group/pass_rate_estimate"):
                assert ours[key] == theirs[key], key
            for key in ("bits/offered_total", "bits/surprisal_per_sample", "flops/train_forward", "group/pass_rate"):
                assert ours[key] == pytest.approx(theirs[key], rel=1e-3), key
        both = [run_.table("evals").to_pylist() for run_ in (first, run)]
        assert [row["problem_id"] for row in both[0]] == [row["problem_id"] for row in both[1]]
        assert np.allclose(*([row["log2_pass_rate"] for row in rows] for rows in both), atol=0.05)
        assert both[0][-1]["update_norm"] == pytest.approx(both[1][-1]["update_norm"], rel=0.05) != 0


@pytest.mark.parametrize("make", [sft_trainer, rl_trainer])
def test_evaluation_between_steps_is_counted_apart(base_model, tmp_path, make):
    plain = make(base_model, tmp_path)
    metered(plain, tmp_path / "plain")
    plain.train()
    trainer = make(base_model, tmp_path, eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=8)
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    meter.totals.count_flops()  # the last evaluation comes after the last step
    runs = [read_run(folder / "run") for folder in (tmp_path / "plain", tmp_path)]
    for table in ("prompts", "rollouts"):
        assert runs[0].table(table).num_rows == runs[1].table(table).num_rows
    assert runs[1].steps[-1]["samples/total"] == runs[0].steps[-1]["samples/total"]
    if make is sft_trainer:  # the same samples, hence to the last FLOP
        assert runs[1].steps[-1]["flops/total"] == runs[0].steps[-1]["flops/total"]
    assert meter.cumulative["flops/evaluation"] > runs[0].steps[-1]["flops/evaluation"]
    assert meter.total_flops + meter.cumulative["flops/evaluation"] == pytest.approx(true.get_total_flops(), rel=0.02)


def test_a_last_batch_with_fewer_rows_has_as_many_rows(base_model, tmp_path):
    trainer = sft_trainer(base_model, tmp_path, per_device_train_batch_size=12, max_steps=-1, num_train_epochs=2)
    metered(trainer, tmp_path)
    trainer.train()
    run = read_run(tmp_path / "run")
    prompts = run.table("prompts").to_pylist()
    assert [sum(row["step"] == step for row in prompts) for step in range(1, 7)] == [12, 12, 8] * 2
    assert [line["samples/total"] for line in run.steps] == [12, 24, 32, 44, 56, 64]


@pytest.mark.parametrize("packing", [False, True], ids=["padding-free", "packed"])
def test_several_sequences_in_a_row_are_told_apart(base_model, tmp_path, packing):
    """Eager attention mixes the sequences of a row, so the surprisals are not those of separate rows; the sum is the loss."""
    trainer = sft_trainer(
        base_model, tmp_path, padding_free=not packing, packing=packing, max_length=64 if packing else None, max_steps=1
    )
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    run = read_run(tmp_path / "run")
    rows = run.table("prompts").to_pylist()
    assert len(rows) == (8 if not packing else len(PROBLEMS))
    names = {problem.problem_id for problem in PROBLEMS}
    assert {row["problem_id"] for row in rows} <= ({None} if packing else names)  # packing drops the column
    nats = sum(row["offered_bits"] for row in rows) * np.log(2)
    assert run.steps[0]["train/loss"] * run.steps[0]["tokens/completion"] == pytest.approx(nats, rel=1e-4)
    assert meter.total_flops == pytest.approx(true.get_total_flops(), rel=0.02)


def test_surprisal_is_known_where_the_loss_smooths_labels(base_model, tmp_path):
    exact = exact_log2_pass_rates(*base_model, PROBLEMS)
    trainer = sft_trainer(base_model, tmp_path, label_smoothing_factor=0.1, max_steps=1)
    metered(trainer, tmp_path)
    trainer.train()
    rows = read_run(tmp_path / "run").table("prompts").to_pylist()
    assert len(rows) == 8
    for row in rows:
        assert row["offered_bits"] == pytest.approx(-exact[row["problem_id"]], abs=1e-3)


class GenerationServer:
    """Stands for TRL's VLLMGeneration: generates out of the trained model's sight, with the same call."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    def sync_weights(self) -> None:
        """Nothing to send."""

    def generate(self, prompts, images, num_generations, profiler=None):
        """Token ids and log-probabilities as vLLM's client gives them; completions of 1 to 4 tokens."""
        ids = self.tokenizer.convert_tokens_to_ids(list("123"))
        completions = [[*ids[: index % 4], self.tokenizer.eos_token_id] for index in range(len(prompts))]
        return prompts, completions, [[[0.0]] * len(completion) for completion in completions], None


def test_generation_that_no_hook_sees_is_priced_by_its_tokens(base_model, tmp_path):
    asked = ["prompts", "images", "num_generations", "profiler"]
    assert VLLMGeneration.generate.__code__.co_varnames[1:5] == tuple(asked)  # what the stand-in stands for
    trainer = rl_trainer(base_model, tmp_path, max_steps=1, vllm_importance_sampling_correction=False)
    trainer.use_vllm, trainer._last_loaded_step = True, -1
    trainer.vllm_generation = GenerationServer(*base_model)
    meter = metered(trainer, tmp_path)
    trainer.train()
    config, length = base_model[0].config, len(PROBLEMS[0].prompt)
    # 4 distinct prompts, causal: a token attends to (length + 1) / 2 positions on average
    assert meter.cumulative["flops/prefill"] == pytest.approx(forward_flops(config, 4 * length, (length + 1) / 2, 4))
    # 16 completions of 1, 2, 3 and 4 tokens take 0, 1, 2 and 3 passes over a context that grows by one
    contexts = [length + 1 + index for passes in (0, 1, 2, 3) for index in range(passes)] * 4
    decode = sum(forward_flops(config, 1, context, 1) for context in contexts)
    assert meter.cumulative["flops/decode"] == meter.cumulative["flops_useful/decode"] == pytest.approx(decode)
    assert read_run(tmp_path / "run").table("rollouts").num_rows == 16


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_distillation_pays_for_its_teacher_and_offers_the_divergence(base_model, tmp_path, beta):
    model, tokenizer = base_model
    torch.manual_seed(0)
    shape = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=model.config.vocab_size, attn_implementation="eager", **shape))
    args = DistillationConfig(
        output_dir=str(tmp_path / "checkpoints"), per_device_train_batch_size=8, max_completion_length=4, beta=beta, **SHARED
    )
    rows = Dataset.from_list([{"prompt": problem.prompt, "problem_id": problem.problem_id} for problem in PROBLEMS])
    student = copy.deepcopy(model)
    trainer = DistillationTrainer(model=student, teacher_model=teacher, args=args, train_dataset=rows, processing_class=tokenizer)
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    assert meter.cumulative["flops/score_reference"] > 0
    assert meter.total_flops + meter.cumulative["flops/evaluation"] == pytest.approx(true.get_total_flops(), rel=0.02)
    run = read_run(tmp_path / "run")
    assert run.manifest["regime"] == "distillation"
    assert run.table("rollouts").num_rows == run.steps[-1]["samples/total"] == 4 * 8
    for line in run.steps:  # the loss is a mean over tokens
        nats = line["bits/offered_per_sample"] * np.log(2) * 8
        tokens = line["tokens/completion"] - (run.steps[line["step"] - 2]["tokens/completion"] if line["step"] > 1 else 0)
        assert nats == pytest.approx(line["train/loss"] * tokens, rel=1e-4)


SELF_DISTILLATION = {
    "distillation_mode": "full_logits",
    "distillation_alpha": 0.0,  # the loss is the forward divergence itself
    "distillation_is_clip": None,
    "teacher_model_kind": "base",
    "per_device_train_batch_size": 16,
    "num_generations": 8,
    "max_completion_length": 4,
}


def sdft_trainer(tokenizer, student, folder, **options):
    """The teacher sees a text beside the prompt."""
    options |= {"teacher_prompt_template": "{privileged_context}{prompt}"}
    args = SDFTConfig(output_dir=str(folder / "checkpoints"), **SHARED | SELF_DISTILLATION | options)
    rows = [{"prompt": problem.prompt, "privileged_context": "A12+30<24", "problem_id": problem.problem_id} for problem in PROBLEMS]
    return SDFTTrainer(model=student, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def sdpo_trainer(tokenizer, student, folder):
    """The teacher sees a rollout of the group that passed, where there is one."""
    args = SDPOConfig(output_dir=str(folder / "checkpoints"), **SHARED | SELF_DISTILLATION)
    rows = [{"prompt": problem.prompt, "problem_id": problem.problem_id} for problem in PROBLEMS]
    data = {"train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
    reward = VerdictReward(RolloutVerifier(TASK, PROBLEMS, tokenizer))
    return SDPOTrainer(model=student, reward_funcs=[reward], args=args, **data)


@pytest.mark.parametrize("make", [sdft_trainer, sdpo_trainer])
def test_a_teacher_that_sees_more_is_paid_for_and_offers_its_divergence(base_model, tmp_path, make):
    student = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")
    trainer = make(base_model[1], student, tmp_path)
    meter = metered(trainer, tmp_path)
    original, seen = trainer._compute_self_distillation_loss, []

    def watched(model, inputs, predictions):
        nats_BTV = kl_div(
            predictions.student_logits.log_softmax(-1),
            predictions.teacher_logits.log_softmax(-1),
            log_target=True,
            reduction="none",
        )
        nats_B = (nats_BTV.detach().sum(-1) * predictions.loss_mask).sum(1)
        seen.append((float(nats_B.mean()), float((nats_B / predictions.loss_mask.sum(1).clamp(min=1)).mean())))
        return original(model, inputs, predictions)

    trainer._compute_self_distillation_loss = watched
    with torch_counter() as true:
        trainer.train()
    assert meter.cumulative["flops/score_reference"] > 0
    assert meter.total_flops + meter.cumulative["flops/evaluation"] == pytest.approx(true.get_total_flops(), rel=0.02)
    run = read_run(tmp_path / "run")
    assert run.manifest["regime"] == "distillation"
    assert run.table("rollouts").num_rows == run.steps[-1]["samples/total"] == 4 * 16
    for line, (nats, mean_nats) in zip(run.steps, seen, strict=True):  # of a completion; per token, as the trainer's loss has it
        assert line["bits/offered_per_sample"] * np.log(2) == pytest.approx(nats, rel=1e-4) and nats > 0
        assert line["train/loss"] == pytest.approx(mean_nats, rel=1e-3)


def test_a_teacher_that_is_the_policy_is_counted_once(base_model, tmp_path):
    student = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")
    trainer = sdft_trainer(base_model[1], student, tmp_path, teacher_model_kind="live")
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    assert meter.cumulative["flops/score_old"] > 0 == meter.cumulative["flops/score_reference"]
    assert meter.total_flops + meter.cumulative["flops/evaluation"] == pytest.approx(true.get_total_flops(), rel=0.02)


CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    "options",
    [
        {"lmbda": 0.0},
        {"lmbda": 1.0},
        {"lmbda": 1.0, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
        {"lmbda": 1.0, "gradient_checkpointing": True},
    ],
    ids=["of the data", "own", "own, two parts", "own, without a cache"],
)
def test_a_teacher_of_completions_of_the_data_and_of_the_student_is_paid_for(base_model, tmp_path, options):
    model, tokenizer = base_model[0], AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    shape = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=model.config.vocab_size, attn_implementation="eager", **shape))
    how = SHARED | {"per_device_train_batch_size": 8, "max_new_tokens": 4, "beta": 0.0, "temperature": 1.0} | options
    rows = [
        {"messages": [{"role": "user", "content": problem.prompt}, {"role": "assistant", "content": problem.answer}]}
        for problem in PROBLEMS
    ]
    args = GKDConfig(output_dir=str(tmp_path / "checkpoints"), **how)
    data = {"train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
    trainer = GKDTrainer(model=copy.deepcopy(model), teacher_model=teacher, args=args, **data)
    meter = InformationMeter(trainer, tmp_path / "run")
    trainer.add_callback(meter)
    with torch_counter() as true:
        trainer.train()
    assert meter.cumulative["flops/score_reference"] > 0
    assert (meter.cumulative["flops/decode"] > 0) == (options["lmbda"] == 1)
    assert meter.total_flops == pytest.approx(true.get_total_flops(), rel=0.02)
    run = read_run(tmp_path / "run")
    assert run.manifest["regime"] == "distillation"
    assert run.table("prompts").num_rows == run.steps[-1]["samples/total"] == 4 * 8
    tokens = np.diff([0] + [line["tokens/completion"] for line in run.steps])
    nats = np.array([line["bits/offered_per_sample"] * np.log(2) * 8 for line in run.steps])
    assert all(nats > 0)
    # at beta 0 the loss is the forward divergence, a mean over the tokens of the data, which this trainer counts before it draws others
    if options["lmbda"] == 0:
        assert list(nats / tokens) == pytest.approx([line["train/loss"] for line in run.steps], rel=1e-3)


def test_the_divergence_of_two_predictions_is_that_of_the_definition():
    teacher, student = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 3, 5)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    p = teacher.softmax(-1)
    by_hand = [sum(float((p[row, t] * (p[row, t] * 5).log2()).sum()) for t in range(num)) for row, num in ((0, 2), (1, 1))]
    assert divergence_bits(teacher, student, mask).tolist() == pytest.approx(by_hand)


def test_generation_without_a_cache_is_generation_still(base_model, tmp_path):
    trainer = rl_trainer(base_model, tmp_path, max_steps=2, generation_kwargs={"use_cache": False})
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    assert meter.cumulative["flops/score_old"] == 0 < meter.cumulative["flops/prefill"] < meter.cumulative["flops/decode"]
    assert meter.total_flops + meter.cumulative["flops/evaluation"] == pytest.approx(true.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("options", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"temperature": 0.7}])
def test_the_record_says_how_completions_were_sampled(base_model, tmp_path, options):
    trainer = rl_trainer(base_model, tmp_path, max_steps=1, **options)
    metered(trainer, tmp_path)
    trainer.train()
    run = read_run(tmp_path / "run")
    truncated = "temperature" not in options
    assert run.manifest["sampling"]["is_truncated"] is truncated
    assert run.manifest["sampling"]["is_own_distribution"] is False
    assert ("bits/believed_per_sample" in run.steps[0]) is not truncated  # another distribution's surprisal says nothing of it
    assert {row["offered_bits_estimator"] for row in run.table("prompts").to_pylist()} == {"jackknife"}
    assert all(row["first_error_entropy_estimator"] == "jackknife" for row in run.table("prompts").to_pylist())


def test_first_error_bits_are_exact_and_never_less_than_the_outcomes(base_model, tmp_path):
    trainer = rl_trainer(base_model, tmp_path, max_steps=2)
    metered(trainer, tmp_path)
    trainer.train()
    run = read_run(tmp_path / "run")
    rows = run.table("prompts").to_pylist()
    for row in rows:
        assert row["first_error_entropy_estimator"] == "exact"
        assert row["first_error_entropy_bits"] >= row["offered_bits"] - 1e-9
    last = [row["first_error_entropy_bits"] for row in rows if row["step"] == 2]
    assert run.steps[-1]["bits/first_error_per_sample"] == pytest.approx(np.mean(last))


def half_right(completions, **kwargs) -> list[float]:
    """A reward that is neither 0 nor 1 for some."""
    return [len(completion) / 4 for completion in completions]


def test_a_reward_that_is_no_verdict_needs_a_threshold(base_model, tmp_path):
    trainer = rl_trainer(base_model, tmp_path, reward=half_right)
    metered(trainer, tmp_path, with_verifier=False)
    with pytest.raises(ValueError, match=r"neither 0 nor 1: tell the meter which reward is a pass.*pass_threshold"):
        trainer.train()
    trainer = rl_trainer(base_model, tmp_path, reward=half_right, max_steps=2)
    metered(trainer, tmp_path / "told", with_verifier=False, pass_threshold=0.7)
    trainer.train()
    for row in read_run(tmp_path / "told" / "run").table("rollouts").to_pylist():
        assert row["passed"] == (row["reward"] >= 0.7) and row["reward"] == len(row["text"]) / 4


def some_unscored(completions, **kwargs) -> list[float | None]:
    """Every other completion gets no reward."""
    return [None if index % 2 else float(len(text) == 3) for index, text in enumerate(completions)]


def test_a_rollout_without_a_reward_is_in_no_count(base_model, tmp_path):
    trainer = rl_trainer(base_model, tmp_path, reward=some_unscored, max_steps=2)
    metered(trainer, tmp_path, with_verifier=False)
    trainer.train()
    run = read_run(tmp_path / "run")
    assert {row["group_size"] for row in run.table("prompts").to_pylist()} == {2}
    assert [row["passed"] is None for row in run.table("rollouts").to_pylist()] == [False, True] * 16
    assert run.steps[-1]["group/num_rollouts"] == 8


def test_a_completion_that_the_trainer_masks_has_no_surprisal(base_model, tmp_path):
    trainer = rl_trainer(base_model, tmp_path, max_steps=1, max_completion_length=2, mask_truncated_completions=True)
    metered(trainer, tmp_path)
    trainer.train()
    rows = read_run(tmp_path / "run").table("rollouts").to_pylist()
    assert all((row["surprisal_bits"] is None) is not row["ended"] for row in rows)
    assert not all(row["ended"] for row in rows)


def test_a_trainer_that_learns_from_something_else_is_named(base_model, tmp_path):
    trainer = sft_trainer(base_model, tmp_path)
    plain = Trainer(trainer.model, trainer.args, processing_class=base_model[1])
    with pytest.raises(TypeError, match="not what a Trainer learns from"):
        metered(plain, tmp_path)


def test_rewards_are_weighted_as_the_trainer_weights_them(base_model, tmp_path):
    trainer = rl_trainer(base_model, tmp_path, max_steps=1, reward_weights=[0.5])
    metered(trainer, tmp_path)
    trainer.train()
    rows = read_run(tmp_path / "run").table("rollouts").to_pylist()
    assert {row["reward"] for row in rows} <= {0.0, 0.5}
    assert all(row["reward"] == 0.5 * dict(row["rewards"])["outcome"] for row in rows)
