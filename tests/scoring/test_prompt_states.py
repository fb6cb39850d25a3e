"""A right answer is as probable after what a generation has computed as after prompts computed anew."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scripts.tiny_families import FAMILIES, make
from test_flops import any_type, assert_close, torch_counter
from test_meter import PROBLEMS, exact_log2_pass_rates, metered, rl_trainer
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from bitsample_llm.meter import verdicts
from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.records import read_run
from bitsample_llm.scoring import prompt_states
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import Spelling, answer_spellings, scoring_plan, spelling_logprobs
from bitsample_llm.scoring.prompt_states import PromptStates, is_deterministic
from bitsample_llm.tasks import load_task

EOS = 1
TYPES = ["llama", "gpt2", "mistral", "gemma3_text", "qwen3", "olmo2", "gpt_oss"]
PROMPTS = [[3, 4, 5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16, 17, 18, 19, 20, 21], [9, 10, 12]]


def generated_from(model, prompts: list[list[int]], num: int = 3, most_tokens: int = 5) -> tuple[PromptStates, list[list[int]]]:
    """What is kept of a generation of `num` rollouts per prompt, padded on the left, in training mode; and their tokens."""
    longest = max(map(len, prompts))
    rows = [prompt for prompt in prompts for _ in range(num)]
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in rows])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in rows])
    states = PromptStates()
    states.begin(most_tokens)
    hook = model.register_forward_hook(lambda module, args, kwargs, output: states.keep(kwargs, output), with_kwargs=True)
    with torch.no_grad():
        options = {"max_new_tokens": 5, "do_sample": True, "eos_token_id": EOS, "pad_token_id": EOS}
        rollouts = model.train().generate(input_ids=ids, attention_mask=mask, **options)[:, longest:]
    hook.remove()
    return states, rollouts.tolist()


def spelled_of(prompts: list[list[int]]) -> list[Spelling]:
    """Two answers after each prompt, of one to four tokens, that any of two tokens ends."""
    answers = [[5, EOS], [EOS], [6, 7, 8, EOS], [9, 4, EOS]]
    pairs = [(number, answers[(number + more) % 4]) for number in range(len(prompts)) for more in (0, 1)]
    return [Spelling(number, prompts[number], answer, (EOS, 2), True, True) for number, answer in pairs]


class Tokens:
    eos_token_id = pad_token_id = EOS


def deterministic(name: str):
    """A model of a type, from random weights, without dropout."""
    torch.manual_seed(0)
    model = any_type(name)
    for key in model.config.to_dict():
        if "drop" in key or "pdrop" in key:
            setattr(model.config, key, 0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert is_deterministic(model)
    return model


@pytest.mark.parametrize("name", TYPES)
def test_answers_are_as_probable_after_prompts_that_were_kept(name):
    model = deterministic(name)
    (states, _), spelled = generated_from(model, PROMPTS), spelled_of(PROMPTS)
    counter = FlopCounter(model, {EOS})
    with torch_counter() as true:
        kept = states.logprobs(model, spelled)
    assert_close(counter.executed_flops["evaluation"], true.get_total_flops())
    assert model.training
    again = spelling_logprobs(model, Tokens, spelled, scoring_plan(model, spelled))
    assert sorted(kept) == list(range(len(spelled)))
    for index, logps_T in enumerate(again):
        assert kept[index] == pytest.approx(logps_T, abs=1e-4)
    assert counter.executed_flops["evaluation"] > 0 and states.logprobs(model, spelled) == {}  # asked once


@pytest.mark.parametrize("name", TYPES)
def test_an_answer_that_a_rollout_sampled_is_scored_without_a_pass(name, monkeypatch):
    model = deterministic(name)
    states, rollouts = generated_from(model, PROMPTS, most_tokens=4)
    ends = [rollout.index(EOS) if EOS in rollout else 4 for rollout in rollouts]
    # the end of an answer need not have been sampled: its probability follows from what was
    answers = [rollout[: min(end, place % 4 + 1)] + [EOS] for place, (rollout, end) in enumerate(zip(rollouts, ends, strict=True))]
    spelled = [Spelling(place // 3, PROMPTS[place // 3], answer, (EOS, 2), True, True) for place, answer in enumerate(answers)]
    again = spelling_logprobs(model, Tokens, spelled, scoring_plan(model, spelled))
    counter = FlopCounter(model, {EOS})
    monkeypatch.setattr(prompt_states, "MAX_LOGITS", 2 * 6 * model.config.vocab_size)  # two at a time
    kept = states.logprobs(model, spelled)
    assert not counter.executed_flops and sorted(kept) == list(range(len(spelled)))
    for index, logps_T in enumerate(again):
        assert kept[index] == pytest.approx(logps_T, abs=1e-4)
    assert {len(answer) for answer in answers} >= {2, 3, 4}


@pytest.mark.parametrize("name", FAMILIES)
def test_all_spellings_of_real_tokenizers_are_scored(name, tmp_path, monkeypatch):
    folder = make(name, tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    end = AnswerEnd.of(model, tokenizer)
    problems = [p for digits in (1, 3) for p in load_task("addition", difficulty=digits).problems("heldout", 4, seed=1)]
    spelled = answer_spellings(tokenizer, problems, end)
    assert len(spelled) > len(problems)
    states, _ = generated_from(model, [list(prompt) for prompt in {tuple(s.prompt_ids) for s in spelled}])
    again = spelling_logprobs(model, tokenizer, spelled, scoring_plan(model, spelled))
    monkeypatch.setattr(prompt_states, "MAX_LOGITS", 5 * 3 * model.config.vocab_size)  # a few rows at a time
    kept = states.logprobs(model, spelled)
    assert len(kept) == len(spelled)
    for index, logps_T in enumerate(again):
        assert kept[index] == pytest.approx(logps_T, abs=1e-4)


class Rates(TrainerCallback):
    """The exact pass rates of all problems at the start of every step."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.by_step = {}

    def on_step_begin(self, args, state, control, model, **kwargs):
        self.by_step[state.global_step + 1] = exact_log2_pass_rates(model, self._tokenizer, PROBLEMS)


@pytest.mark.parametrize("options", [{}, {"num_iterations": 2, "steps_per_generation": 2}])
def test_a_training_records_the_rates_of_the_weights_that_sampled(base_model, tmp_path, options, monkeypatch):
    def refused(*args):
        raise AssertionError("a pass over the prompts was made")

    trainer = rl_trainer(base_model, tmp_path, learning_rate=1e-3, **options)
    metered(trainer, tmp_path)
    rates = Rates(base_model[1])
    trainer.add_callback(rates)
    monkeypatch.setattr(verdicts, "_shared_logprobs", refused)
    trainer.train()
    rows = read_run(tmp_path / "run").table("prompts").to_pylist()
    assert len(rows) >= 4
    for row in rows:
        assert np.log2(row["pass_rate"]) == pytest.approx(rates.by_step[row["step"]][row["problem_id"]], abs=1e-3)
    first, last = (rates.by_step[step] for step in (1, max(rates.by_step)))
    assert max(abs(first[name] - last[name]) for name in first) > 0.1  # so that rates of other weights would be seen


def test_no_more_is_kept_than_there_is_memory_for(monkeypatch):
    model = any_type("llama")
    prompts, config = [[3, 4, 5], [6, 7, 8]], model.config
    numbers = 2 * config.num_key_value_heads * config.head_dim * config.num_hidden_layers  # of a token
    monkeypatch.setattr(prompt_states, "MOST_KEPT", 2 * 3 * numbers)
    assert len(generated_from(model, prompts)[0].logprobs(model, spelled_of(prompts))) == 4
    monkeypatch.setattr(prompt_states, "MOST_KEPT", prompt_states.MOST_KEPT - 1)
    assert generated_from(model, prompts)[0].logprobs(model, spelled_of(prompts)) == {}


def test_what_there_is_no_memory_for_is_scored_by_a_pass(monkeypatch):
    model = deterministic("llama")
    config, prompts = model.config, [[3, 4, 5], [6, 7, 8]]
    numbers = 2 * config.num_key_value_heads * config.head_dim * config.num_hidden_layers  # of a token
    room = 2 * 3 * numbers + 6 * config.vocab_size  # for the prompts, and the logits of one more token of each rollout
    for most, is_scored_by_a_pass in ((room, True), (room + 2 * 6 * config.vocab_size, False)):
        monkeypatch.setattr(prompt_states, "MOST_KEPT", most)
        torch.manual_seed(1)
        states, rollouts = generated_from(model, prompts)
        answers = [rollouts[place][:length] + [EOS] for place, length in ((0, 1), (3, 3))]
        assert all(EOS not in answer[:-1] for answer in answers)
        spelled = [Spelling(number, prompts[number], answer, (EOS,), True, True) for number, answer in enumerate(answers)]
        again = spelling_logprobs(model, Tokens, spelled, scoring_plan(model, spelled))
        counter = FlopCounter(model, {EOS})
        kept = states.logprobs(model, spelled)
        counter.detach()
        assert bool(counter.executed_flops) is is_scored_by_a_pass
        for index, logps_T in enumerate(again):
            assert kept[index] == pytest.approx(logps_T, abs=1e-4)


def test_of_longer_rollouts_no_more_tokens_are_kept_than_answers_have():
    model = deterministic("llama")
    states, rollouts = generated_from(model, PROMPTS, most_tokens=2)
    assert len(rollouts[0]) > 2 and [len(kept.passes) for kept in states._generations] == [2]
    spelled = [Spelling(number, PROMPTS[number], [*rollouts[3 * number][:3], EOS], (EOS,), True, True) for number in range(4)]
    again = spelling_logprobs(model, Tokens, spelled, scoring_plan(model, spelled))
    kept = states.logprobs(model, spelled)  # by a pass
    assert sorted(kept) == [0, 1, 2, 3]
    for index, logps_T in enumerate(again):
        assert kept[index] == pytest.approx(logps_T, abs=1e-4)


def test_prompts_of_a_model_with_dropout_are_computed_anew(base_model, tmp_path, monkeypatch):
    model = copy.deepcopy(base_model[0])
    assert is_deterministic(model) and is_deterministic(get_peft_model(copy.deepcopy(model), LoraConfig(r=2)))
    assert not is_deterministic(get_peft_model(copy.deepcopy(model), LoraConfig(r=2, lora_dropout=0.1)))
    model.config.attention_dropout = 0.1
    assert not is_deterministic(model) and not is_deterministic(any_type("gpt2"))
    made_anew = []
    original = verdicts._shared_logprobs
    monkeypatch.setattr(verdicts, "_shared_logprobs", lambda *args: made_anew.append(args) or original(*args))
    trainer = rl_trainer((model, base_model[1]), tmp_path)
    metered(trainer, tmp_path)
    trainer.train()
    assert len(made_anew) == 4
