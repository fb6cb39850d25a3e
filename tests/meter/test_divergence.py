"""How far a policy has moved from its start: against the sum over all completions of two tokens, and undone without a trace."""

import copy
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from bitsample_llm.meter.divergence import ParameterChange, kl_to_start_bits
from bitsample_llm.scoring import likelihood
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import encode_prompt
from bitsample_llm.tasks import load_task

PROBLEM = load_task("addition", "reversed", mark="C").problems("heldout", 1, seed=0)[0]


@pytest.fixture
def moved(base_model):
    """A trainer whose model is not where it began, how it got there, and the tokenizer."""
    model, tokenizer = copy.deepcopy(base_model[0]), base_model[1]
    change = ParameterChange(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return SimpleNamespace(accelerator=Accelerator(cpu=True), model=model, processing_class=tokenizer), change, tokenizer


@torch.no_grad()
def next_logps(model, ids: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(dim=-1)


def enumerated_kl_bits(trainer, change, prompt_ids: list[int], end: AnswerEnd) -> float:
    """KL divergence over all completions of at most two tokens."""
    logps_V = next_logps(trainer.model, prompt_ids)
    with change.undone():
        start_V = next_logps(trainer.model, prompt_ids)
    total = float((logps_V.exp() * (logps_V - start_V)).sum())
    for token, logp in enumerate(logps_V):
        if not end.is_end(token):
            then_V = next_logps(trainer.model, [*prompt_ids, token])
            with change.undone():
                then_start_V = next_logps(trainer.model, [*prompt_ids, token])
            total += float(logp.exp() * (then_V.exp() * (then_V - then_start_V)).sum())
    return total / math.log(2)


def test_the_mean_over_rollouts_is_the_divergence_of_whole_completions(moved):
    trainer, change, tokenizer = moved
    end = AnswerEnd.of(trainer.model, tokenizer)
    drawn = [dataclasses.replace(PROBLEM, problem_id=str(number)) for number in range(400)]
    bits = torch.tensor(kl_to_start_bits(trainer, drawn, change, 2, end))
    known = enumerated_kl_bits(trainer, change, encode_prompt(tokenizer, PROBLEM.prompt), end)
    assert known > 0.05
    assert abs(float(bits.mean()) - known) < 4 * float(bits.std()) / 20
    assert kl_to_start_bits(trainer, drawn, change, 2, end) == bits.tolist()  # the draws are those of the problems


def test_asking_leaves_weights_random_states_and_mode_as_they_were(moved):
    trainer, change, tokenizer = moved
    trainer.model.train()
    before, random_state = copy.deepcopy(trainer.model.state_dict()), torch.get_rng_state()
    kl_to_start_bits(trainer, [PROBLEM], change, 4, AnswerEnd.of(trainer.model, tokenizer))
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state) and trainer.model.training


def test_completions_whose_logits_are_too_many_are_compared_in_parts(moved, monkeypatch):
    trainer, change, tokenizer = moved
    drawn = [dataclasses.replace(PROBLEM, problem_id=str(number)) for number in range(4)]
    asked = trainer, drawn, change, 8, AnswerEnd.of(trainer.model, tokenizer)
    whole = kl_to_start_bits(*asked)
    monkeypatch.setattr(likelihood, "MAX_LOGITS", 4 * 3 * trainer.model.config.vocab_size)
    assert kl_to_start_bits(*asked) == pytest.approx(whole, rel=1e-4) and min(whole) > 0


def test_a_policy_that_did_not_move_has_none(base_model):
    model, tokenizer = base_model
    trainer = SimpleNamespace(accelerator=Accelerator(cpu=True), model=model, processing_class=tokenizer)
    assert kl_to_start_bits(trainer, [PROBLEM], ParameterChange(model), 4, AnswerEnd.of(model, tokenizer)) == [0.0]
