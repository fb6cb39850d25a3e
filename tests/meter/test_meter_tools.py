"""The meter on GRPO whose model calls tools: several turns of generation, and tokens in the completion that it did not sample."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from scripts.tiny_qwen2 import SUMS, byte_level_bpe
from test_flops import torch_counter
from test_meter import SHARED
from transformers import LogitsProcessor, LogitsProcessorList, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_chat_template

from bitsample_llm import InformationMeter
from bitsample_llm.flops import forward_flops
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.records import read_run
from bitsample_llm.tasks import Problem, load_task

CALL = '<tool_call>\n{"name": "multiply", "arguments": {"a": 3, "b": 4}}\n</tool_call><|im_end|>'
RESULT = "<tool_response>\n12\n</tool_response>"
GROUP = 4
STEPS = 2


def multiply(a: int, b: int) -> int:
    """
    Multiply two numbers.

    Args:
        a: The first number.
        b: The second number.

    Returns:
        The product.
    """
    return a * b


class Multiplication:
    """An environment with the same tool and a reward of its own."""

    def reset(self, **kwargs) -> str:
        self.num_calls = 0
        return " Use the tool."

    def multiply(self, a: int, b: int) -> int:
        """
        Multiply two numbers.

        Args:
            a: The first number.
            b: The second number.

        Returns:
            The product.
        """
        self.num_calls += 1
        return a * b

    def get_reward(self) -> float:
        return float(self.num_calls > 0)


def called(completions, **kwargs) -> list[float]:
    """Whether a rollout used the tool."""
    return [float(any(message["role"] == "tool" for message in completion)) for completion in completions]


class CallsTheTool(LogitsProcessor):
    """Makes every other row of the first turn call the tool, and leaves later turns to the model."""

    def __init__(self, call_ids: list[int], prompt_length: int):
        self.call_ids = call_ids
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        position = input_ids.shape[1] - self.prompt_length
        if position < len(self.call_ids):
            forced = torch.full_like(scores[::2], -torch.inf)
            forced[:, self.call_ids[position]] = 0.0
            scores[::2] = forced
        return scores


@pytest.fixture(scope="module")
def tokenizer():
    fast = byte_level_bpe([*SUMS, *[CALL, RESULT, qwen3_chat_template, multiply.__doc__] * 20], vocab_size=900)
    fast.chat_template = qwen3_chat_template
    return fast


def tool_trainer(tokenizer, folder, environment: bool = False, **options) -> GRPOTrainer:
    """A trainer of a random model, every other rollout of which calls a tool once."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen2Config(
        vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=2048, attn_implementation="eager", **sizes | ends
    )
    model = Qwen2ForCausalLM(config)
    rows = [{"prompt": [{"role": "user", "content": f"What is 3 times {n}?"}], "problem_id": str(n)} for n in range(4)]
    defaults = {"num_generations": GROUP, "per_device_train_batch_size": 8, "max_completion_length": 120, "beta": 0.0}
    args = GRPOConfig(output_dir=str(folder / "checkpoints"), **SHARED | {"max_steps": STEPS} | defaults | options)
    tools = {"environment_factory": Multiplication} if environment else {"tools": [multiply], "reward_funcs": called}
    trainer = GRPOTrainer(model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, **tools)
    call_ids = tokenizer(CALL)["input_ids"]
    generate = model.generate

    def scripted(input_ids, **kwargs):
        is_first_turn = not any(RESULT in text for text in tokenizer.batch_decode(input_ids))
        processors = [CallsTheTool(call_ids, input_ids.shape[1])] if is_first_turn else []
        return generate(input_ids=input_ids, logits_processor=LogitsProcessorList(processors), **kwargs)

    model.generate = scripted
    return trainer


def weights(trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def metered(trainer, folder) -> InformationMeter:
    meter = InformationMeter(trainer, folder / "run")
    trainer.add_callback(meter)
    return meter


@pytest.mark.parametrize("environment", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["tools", "environment"])
def test_weights_of_a_run_with_tools_are_bit_identical_with_and_without_the_meter(tokenizer, tmp_path, environment):
    plain = tool_trainer(tokenizer, tmp_path, environment)
    plain.train()
    trainer = tool_trainer(tokenizer, tmp_path, environment)
    metered(trainer, tmp_path)
    trainer.train()
    assert torch.equal(weights(plain), weights(trainer))


@pytest.mark.slow
@pytest.mark.parametrize("environment", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["tools", "environment"])
def test_all_turns_cost_what_torch_counts(tokenizer, tmp_path, environment):
    trainer = tool_trainer(tokenizer, tmp_path, environment)
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    assert meter.total_flops == pytest.approx(true.get_total_flops(), rel=0.001)


def turns_of(trainer, name: str) -> list[tuple]:
    """What a method of the trainer was given first and returned, at each of its calls from now on."""
    calls, original = [], getattr(trainer, name)

    def told(first, *args, **kwargs):
        result = original(first, *args, **kwargs)
        calls.append((copy.deepcopy(first), copy.deepcopy(result)))
        return result

    setattr(trainer, name, told)
    return calls


def test_a_rollout_is_its_transcript_and_only_what_the_model_wrote_is_counted(tokenizer, tmp_path):
    trainer = tool_trainer(tokenizer, tmp_path, learning_rate=0.0)
    metered(trainer, tmp_path)
    generations = turns_of(trainer, "_generate")
    trainer.train()
    run = read_run(tmp_path / "run")
    rollouts = run.table("rollouts").to_pylist()
    assert [row["passed"] for row in rollouts] == [True, False] * (4 * STEPS)
    assert all((RESULT in row["text"]) is row["passed"] for row in rollouts)
    true = [sample for _, result in generations for sample in zip(*result[:3], strict=True)]
    for row, (prompt_ids, completion_ids, is_own) in zip(rollouts, true, strict=True):
        assert row["num_tokens"] == sum(is_own)
        assert (0 in is_own) is row["passed"]
        with torch.no_grad():
            logits = trainer.model(torch.tensor([prompt_ids + completion_ids])).logits[0, len(prompt_ids) - 1 : -1].double()
        logps = logits.log_softmax(-1)[range(len(completion_ids)), completion_ids].numpy()
        assert row["surprisal_bits"] == pytest.approx(-(logps * is_own).sum() / np.log(2), rel=1e-4)
    last = run.steps[-1]
    assert last["tokens/completion"] == sum(sum(is_own) for _, _, is_own in true)
    assert last["tokens/prompt"] + last["tokens/completion"] == sum(len(first) + len(second) for first, second, _ in true)


class ToolServer:
    """Stands for TRL's VLLMGeneration: every other completion calls the tool, until it was answered."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def sync_weights(self) -> None:
        """Nothing to send."""

    def generate(self, prompts, images, num_generations, profiler=None):
        """Token ids and log-probabilities as vLLM's client gives them."""
        call, answer = self.tokenizer(CALL)["input_ids"], self.tokenizer("12<|im_end|>")["input_ids"]
        is_first_turn = [RESULT not in text for text in self.tokenizer.batch_decode(prompts)]
        completions = [call if first and index % 2 == 0 else answer for index, first in enumerate(is_first_turn)]
        return prompts, completions, [[[0.0]] * len(ids) for ids in completions], None


def test_turns_that_no_hook_sees_are_priced_one_by_one(tokenizer, tmp_path):
    trainer = tool_trainer(tokenizer, tmp_path, max_steps=1, vllm_importance_sampling_correction=False)
    trainer.use_vllm, trainer.vllm_mode, trainer._last_loaded_step = True, "server", -1
    trainer.vllm_generation = ToolServer(tokenizer)
    turns = turns_of(trainer, "_generate_single_turn")
    meter = metered(trainer, tmp_path)
    trainer.train()
    assert [len(prompts) for prompts, _ in turns] == [8, 4]
    config, prefill, decode = trainer.model.config, 0.0, 0.0
    for prompts, (completions, _) in turns:
        for ids in {tuple(ids) for ids in prompts}:
            prefill += forward_flops(config, len(ids), (len(ids) + 1) / 2, 1)
        for ids, completion in zip(prompts, completions, strict=True):
            decode += sum(forward_flops(config, 1, len(ids) + passes + 1) for passes in range(len(completion) - 1))
    assert meter.cumulative["flops/prefill"] == pytest.approx(prefill)
    assert meter.cumulative["flops/decode"] == pytest.approx(decode)


def test_pass_rates_of_prompts_that_name_tools_are_not_exact(tokenizer, tmp_path):
    trainer = tool_trainer(tokenizer, tmp_path, max_steps=1)
    task = load_task("addition", "plain")
    problems = [Problem(str(n), f"What is 3 times {n}?", str(3 * n), 1) for n in range(4)]
    trainer.add_callback(InformationMeter(trainer, tmp_path / "run", verifier=RolloutVerifier(task, problems, tokenizer)))
    trainer.train()
    rows = read_run(tmp_path / "run").table("prompts").to_pylist()
    assert len(rows) == 2 and all(row["pass_rate"] is None for row in rows)
    assert {row["offered_bits_estimator"] for row in rows} == {"jackknife"}
