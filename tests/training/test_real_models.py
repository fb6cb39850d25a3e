"""Every recipe on models of the families that people train, whose tokens cover several digits, and what they leave behind."""

import copy
import runpy
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig
from scripts.tiny_families import FAMILIES, make
from test_flops import torch_counter
from test_meter import SHARED
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from bitsample_llm import InformationMeter
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.records import read_run
from bitsample_llm.scoring.likelihood import encode_prompt, exact_pass_rates
from bitsample_llm.tasks import load_task
from bitsample_llm.training.prompt_format import as_messages, labelled_rows
from bitsample_llm.training.rewards import VerdictReward

TASK = load_task("addition", "plain", difficulty=1)
PROBLEMS = TASK.problems("train", 8, seed=0)
SMALL = {
    "answer_format": "plain",
    "difficulty": 1,
    "num_train_problems": 8,
    "num_heldout_problems": 4,
    "save_strategy": "no",
    "disable_tqdm": "true",
}
RECIPES = {
    "sft": ("sft", {}),
    "sft on passing rollouts with LoRA": ("sft", {"labels": "passing_rollouts", "use_peft": "true"}),
    "grpo": ("grpo", {"max_completion_length": 4}),
    "rloo with LoRA": ("grpo", {"max_completion_length": 4, "trainer": "rloo", "use_peft": "true", "learning_rate": 1e-3}),
    "grpo in bf16": ("grpo", {"max_completion_length": 4, "dtype": "bfloat16", "bf16": "true"}),
    "step credit with LoRA, stopping early": (
        "grpo",
        {"max_completion_length": 4, "reward": "first_error", "stop_at_first_error": "true", "use_peft": "true"},
    ),
}


def ran(monkeypatch, name: str, model, output_dir, **options):
    """The record of a recipe, run in this process as from the command line."""
    words = [str(word) for key, value in (SMALL | options).items() for word in (f"--{key}", value)]
    config = REPOSITORY / "recipes" / "configs" / f"{name}.yaml"
    command = [f"{name}.py", "--config", str(config), "--model_name_or_path", str(model), "--output_dir", str(output_dir)]
    monkeypatch.setattr(sys, "argv", [*command, *words])
    monkeypatch.chdir(REPOSITORY)
    runpy.run_path(str(REPOSITORY / "recipes" / f"{name}.py"), run_name="__main__")
    return read_run(output_dir)


# half of them wait for the slow set
SOME_SLOW = [pytest.param(name, marks=pytest.mark.slow) if name in ("smollm", "gpt_neox") else name for name in FAMILIES]


@pytest.fixture(scope="module", params=SOME_SLOW)
def taught(request, tmp_path_factory):
    """A folder with a model of a family that has seen the answers for a while: sft.py's own, as it leaves it."""
    folder = tmp_path_factory.mktemp(request.param)
    model = make(request.param, folder / "random")
    with pytest.MonkeyPatch.context() as patch:
        run = ran(patch, "sft", model, folder / "run", max_steps=80, learning_rate=3e-3, save_strategy="steps", save_steps=100)
    assert run.manifest["state"] == "finished"
    return folder / "run" / "model"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_on_every_family(taught, tmp_path, monkeypatch, name):
    recipe, options = RECIPES[name]
    run = ran(monkeypatch, recipe, taught, tmp_path / "run", max_steps=2, **options)
    assert run.manifest["state"] == "finished" and [line["step"] for line in run.steps] == [1, 2]
    assert run.manifest["data"]["pass_rates"] == "exact"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(taught), AutoTokenizer.from_pretrained(taught)
    problems = TASK.problems("train", 4, seed=0)
    if run.manifest["data"]["prompt_format"] == "chat":
        problems = [as_messages(problem) for problem in problems]
    rates = dict(zip([problem.problem_id for problem in problems], exact_pass_rates(model, tokenizer, problems), strict=True))
    assert min(rates.values()) > 1e-6 and max(rates.values()) > 0.05  # taught, after all
    if "bf16" in name:
        return
    for row in run.table("evals").to_pylist():
        if row["step"] == 0 and row["split"] == "train":
            assert 2 ** row["log2_pass_rate"] == pytest.approx(rates[row["problem_id"]], rel=1e-3)
    for row in run.table("prompts").to_pylist():
        if recipe == "grpo":
            assert row["offered_bits_estimator"] == "exact" and 0 <= row["pass_rate"] <= 1


@pytest.mark.parametrize("recipe", ["sft", "grpo"])
def test_an_adapter_alone_is_saved_and_loads_again_with_peft_transformers_and_the_recipes(taught, tmp_path, monkeypatch, recipe):
    options = {"use_peft": "true", "learning_rate": 1e-2, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    if recipe == "grpo":
        options["max_completion_length"] = 4
    ran(monkeypatch, recipe, taught, tmp_path / "run", **options)
    for folder in (tmp_path / "run" / "model", tmp_path / "run" / "checkpoints" / "checkpoint-2"):
        assert (folder / "adapter_model.safetensors").is_file() and not list(folder.glob("model*.safetensors"))
        assert AutoTokenizer.from_pretrained(folder).eos_token is not None
        ids = torch.tensor([[5, 17, 40, 3]])
        logits = [
            AutoPeftModelForCausalLM.from_pretrained(folder).eval()(input_ids=ids).logits,
            AutoModelForCausalLM.from_pretrained(folder).eval()(input_ids=ids).logits,
        ]
        assert torch.allclose(*logits, atol=1e-5)
        before = AutoModelForCausalLM.from_pretrained(taught).eval()(input_ids=ids).logits
        assert not torch.allclose(logits[0], before, atol=1e-5)
    again = ran(monkeypatch, recipe, tmp_path / "run" / "model", tmp_path / "again", **options | {"max_steps": 1})
    first, second = (read_run(tmp_path / name).table("evals").to_pylist() for name in ("run", "again"))
    last = {row["problem_id"]: row["log2_pass_rate"] for row in first if row["step"] == 2 and row["split"] == "heldout"}
    start = {row["problem_id"]: row["log2_pass_rate"] for row in second if row["step"] == 0 and row["split"] == "heldout"}
    assert again.manifest["state"] == "finished" and last.keys() == start.keys()
    assert [start[name] for name in last] == pytest.approx(list(last.values()), abs=1e-3)


@pytest.fixture(scope="module", params=SOME_SLOW)
def family(request, tmp_path_factory):
    """A random model, its tokenizer, and problems in the form it takes."""
    folder = make(request.param, tmp_path_factory.mktemp("random") / request.param)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    problems = [as_messages(problem) for problem in PROBLEMS] if tokenizer.chat_template else PROBLEMS
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager"), tokenizer, problems


def trainers(family, folder, lora: bool = False) -> dict:
    """An SFT and a GRPO trainer as the recipes make them."""
    model, tokenizer, problems = family
    shared = SHARED | {"output_dir": str(folder), "max_steps": 2, "per_device_train_batch_size": 8}
    rows = [{"prompt": problem.prompt, "problem_id": problem.problem_id} for problem in problems]
    sft = SFTTrainer(
        copy.deepcopy(model),
        args=SFTConfig(**shared),
        train_dataset=Dataset.from_list(labelled_rows(problems, tokenizer)),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, task_type="CAUSAL_LM") if lora else None,
    )
    grpo = GRPOTrainer(
        copy.deepcopy(model),
        [VerdictReward(RolloutVerifier(TASK, problems, tokenizer))],
        args=GRPOConfig(**shared, num_generations=4, max_completion_length=4, beta=0.0),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, task_type="CAUSAL_LM") if lora else None,
    )
    return {"sft": sft, "grpo": grpo}


def test_prompts_and_labels_are_the_tokens_that_the_trainers_feed(family, tmp_path):
    model, tokenizer, problems = family
    fed, _, _ = trainers(family, tmp_path)["grpo"]._tokenize_prompts([problem.prompt for problem in problems])
    assert [list(ids) for ids in fed] == [encode_prompt(tokenizer, problem.prompt) for problem in problems]
    answers = [problem.answer for problem in problems]
    if tokenizer.chat_template:  # TRL's conversational form, in which the answer is a message
        answers = [[{"role": "assistant", "content": answer}] for answer in answers]
    rows = [{"prompt": p.prompt, "completion": answer} for p, answer in zip(problems, answers, strict=True)]
    args = SFTConfig(**SHARED | {"output_dir": str(tmp_path), "shuffle_dataset": False})
    theirs = SFTTrainer(copy.deepcopy(model), args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    after_the_end = tokenizer("\n", add_special_tokens=False)["input_ids"] if tokenizer.chat_template else []
    by_tokens = {tuple(row["input_ids"]): row["labels"] for row in theirs.train_dataset}
    for row in labelled_rows(problems, tokenizer):  # what the template writes after the end is no part of our label
        assert by_tokens[tuple(row["input_ids"] + after_the_end)] == row["labels"] + after_the_end


@pytest.mark.parametrize("lora", [False, True], ids=["all parameters", "LoRA"])
def test_flops_on_every_family_are_what_torch_counts(family, tmp_path, lora):
    for name, trainer in trainers(family, tmp_path, lora).items():
        meter = InformationMeter(trainer, tmp_path / name)
        trainer.add_callback(meter)
        with torch_counter() as true:
            trainer.train()
        counted = meter.total_flops + meter.cumulative["flops/evaluation"]
        assert counted == pytest.approx(true.get_total_flops(), rel=0.02), name
        assert np.isfinite(read_run(tmp_path / name).steps[-1]["bits/offered_per_sample"])
