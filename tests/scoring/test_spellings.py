"""Every token sequence that decodes to an answer is found, and the pass rate is the sum over them."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from scripts.tiny_families import FAMILIES, make
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import answer_logprobs, encode_prompt, exact_pass_rates
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.scoring.spellings import decoded, num_ways
from bitsample_llm.tasks import Problem, load_task

LEVEL = 0.001  # of the chi-square test, fixed before it was run
ROLLOUTS = 4000


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A random model and its tokenizer."""
    folder = make(request.param, tmp_path_factory.mktemp("family") / request.param)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager"), tokenizer


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2 has it: a space before every word is part of its token, and unknown characters are bytes."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁0123456789é", "▁4", "46", "▁46", "<|x|>"]
    model = models.BPE({token: index for index, token in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


def found_by_force(tokenizer, texts: list[str]) -> dict[str, list[list[int]]]:
    """Of all sequences of one or two tokens, those that decode to each text."""
    ids = [index for index in tokenizer.get_vocab().values() if index != tokenizer.eos_token_id]
    every = [list(sequence) for length in (1, 2) for sequence in itertools.product(ids, repeat=length)]
    found = {text: [] for text in texts}
    for sequence, written in zip(every, decoded(tokenizer, every), strict=True):
        if written in found:
            found[written].append(sequence)
    return {text: sorted(sequences) for text, sequences in found.items()}


def spellings(tokenizer, text: str) -> list[list[int]] | None:
    """The tokens before the end of sequence in all ways to write an answer."""
    every = AnswerEnd.of(None, tokenizer).spellings(text)
    return every and [ids for ids, _ in every]


def num_spellings(tokenizer, text: str) -> int:
    return num_ways(tokenizer, text.encode())[0]


def test_spellings_are_those_that_an_exhaustive_search_finds(family):
    _, tokenizer = family
    for text, found in found_by_force(tokenizer, ["46", "é", "7", " 1", "in", "\n"]).items():
        assert found and spellings(tokenizer, text) == found
        assert num_spellings(tokenizer, text) == len(found)


def test_a_space_that_is_stripped_at_the_start_makes_spellings_of_its_own():
    tokenizer = byte_fallback_tokenizer()
    for text, forced in found_by_force(tokenizer, ["46", "4", "é"]).items():
        found = spellings(tokenizer, text)
        assert forced and [ids for ids in found if len(ids) <= 2] == forced
        assert all(written == text for written in decoded(tokenizer, found))
        assert len(found) == num_spellings(tokenizer, text)


def test_an_answer_with_too_many_spellings_has_none_and_no_pass_rate(family):
    model, tokenizer = family
    answer = "1" * 60
    assert num_spellings(tokenizer, answer) > 10**6 and spellings(tokenizer, answer) is None
    many, few = (Problem(text, "What is it?", text, 1) for text in (answer, "7"))
    rates = exact_pass_rates(model, tokenizer, [many, few])
    assert np.isnan(rates[0]) and rates[1] > 0


def test_the_empty_answer_is_its_end_alone(base_model):
    model, tokenizer = base_model
    assert spellings(tokenizer, "") == [[]]
    problem = load_task("addition", "reversed").problem(40, 6)
    (rate,) = exact_pass_rates(model, tokenizer, [dataclasses.replace(problem, answer="")])
    assert rate == pytest.approx(walked(model, encode_prompt(tokenizer, problem.prompt), [], [tokenizer.eos_token_id]), rel=1e-4)
    assert len(spellings(byte_fallback_tokenizer(), "")) == 3  # a space at the start is stripped, and there are two of them


def test_one_token_a_character_is_one_spelling(base_model):
    model, tokenizer = base_model
    problems = load_task("addition", "reversed", difficulty=2, mark="C").problems("heldout", 20, seed=3)
    assert {num_spellings(tokenizer, problem.answer) for problem in problems} == {1}
    own = np.exp([logps.sum() for logps in answer_logprobs(model, tokenizer, problems)])
    assert exact_pass_rates(model, tokenizer, problems) == pytest.approx(own)


def walked(model, prompt_ids: list[int], answer_ids: list[int], end_ids: list[int]) -> float:
    """Probability of an answer with any end, one step at a time."""
    probability, ids = 1.0, list(prompt_ids)
    for token in [*answer_ids, None]:
        with torch.no_grad():
            distribution = model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        probability *= float(distribution[end_ids].sum() if token is None else distribution[token])
        ids.append(token)
    return probability


@pytest.mark.parametrize("chat", [False, True])
def test_pass_rate_is_the_sum_over_spellings_and_ends_walked_step_by_step(family, chat):
    model, tokenizer = family
    if chat and not tokenizer.chat_template:
        pytest.skip("no chat template")
    question = "What is 40 plus 6?"
    problems = [Problem(a, [{"role": "user", "content": question}] if chat else question, a, 1) for a in ("46", "146", "8")]
    end = AnswerEnd.of(model, tokenizer)
    for problem, rate in zip(problems, exact_pass_rates(model, tokenizer, problems), strict=True):
        prompt_ids = encode_prompt(tokenizer, problem.prompt)
        by_hand = [walked(model, prompt_ids, ids, end.token_ids) for ids, _ in end.spellings(problem.answer)]
        assert rate == pytest.approx(sum(by_hand), rel=1e-4)
    assert len(spellings(tokenizer, "46")) == 2


def trained_on_spellings(model, tokenizer, problem: Problem, steps: int = 60):
    """Teach a model a problem's answer in all its spellings alike."""
    torch.manual_seed(0)
    prompt_ids = encode_prompt(tokenizer, problem.prompt)
    every = spellings(tokenizer, problem.answer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        ids = [*prompt_ids, *every[step % len(every)], tokenizer.eos_token_id]
        labels = [-100] * len(prompt_ids) + ids[len(prompt_ids) :]
        model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_rollouts_of_a_bpe_model_pass_as_often_as_the_sum_over_spellings_says(family):
    model, tokenizer = family
    problem = Problem("sum", "What is 80 plus 66?", "146", 1)
    model = trained_on_spellings(copy.deepcopy(model), tokenizer, problem)
    (rate,), (own,) = exact_pass_rates(model, tokenizer, [problem]), answer_logprobs(model, tokenizer, [problem])
    assert 0.05 < rate < 0.999
    verifier = RolloutVerifier(load_task("addition"), [problem], tokenizer, AnswerEnd.of(model, tokenizer))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(1)
    completions = sampled_completions(model, tokenizer, [problem] * ROLLOUTS, max_new_tokens=5, batch_size=2000)
    judged = verifier.judged(["sum"] * ROLLOUTS, completions)
    passed = sum(verdict.passed for _, _, verdict in judged)
    print(f"pass rate {rate:.4f}, own spelling {np.exp(own.sum()):.4f}, {passed} of {ROLLOUTS} rollouts passed")
    assert stats.binomtest(passed, ROLLOUTS, rate).pvalue > LEVEL
    assert stats.binomtest(passed, ROLLOUTS, float(np.exp(own.sum()))).pvalue < LEVEL  # one spelling is not enough


def test_a_completion_with_a_token_that_no_vocabulary_has_does_not_pass(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(make("qwen2", tmp_path / "qwen2"))
    problem = load_task("addition", "plain").problem(40, 6)
    verifier = RolloutVerifier(load_task("addition", "plain"), [problem], tokenizer)
    right = [*tokenizer("46")["input_ids"], tokenizer.eos_token_id]
    unknown = len(tokenizer) + 3
    assert tokenizer.decode([unknown]) == ""
    judged = verifier.judged([problem.problem_id] * 2, [right, [unknown, *right]])
    assert [verdict.passed for _, _, verdict in judged] == [True, False]
