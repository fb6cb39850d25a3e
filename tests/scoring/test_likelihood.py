"""The exact pass rate is the probability with which sampling passes."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from scipy import stats
from scripts.tiny_families import FAMILIES, make
from test_flops import any_type, assert_close, torch_counter
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitsample_llm.flops import forward_flops
from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring import likelihood
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import answer_logprobs, encode_answer, exact_pass_rates, scored_answers
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import load_task
from bitsample_llm.training.prompt_format import after_shots

LEVEL = 0.001  # of the pooled chi-square test, fixed before it was run
PROMPTS = 50
SMOLLM2 = REPOSITORY / "runs" / "models" / "smollm2-135m"  # what data/pretraining/get_smollm2.py makes


def test_log_probabilities_are_those_of_a_step_by_step_walk(base_model):
    model, tokenizer = base_model
    problem = load_task("addition", "reversed", difficulty=2, mark="C").problems("heldout", 1, seed=3)[0]
    (logps,) = answer_logprobs(model, tokenizer, [problem])
    ids = tokenizer(problem.prompt)["input_ids"]
    walked = []
    for token in [*tokenizer(problem.answer)["input_ids"], tokenizer.eos_token_id]:
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        walked.append(float(torch.log_softmax(logits, -1)[token].detach()))
        ids.append(token)
    assert logps == pytest.approx(walked, abs=1e-4)
    assert len(logps) == len(problem.answer) + 1


def test_batch_company_and_padding_do_not_change_a_probability(base_model):
    model, tokenizer = base_model
    mixed = [
        p
        for digits in (1, 2, 4)
        for p in load_task("addition", "reversed", difficulty=digits, mark="A").problems("heldout", 5, seed=1)
    ]
    together = answer_logprobs(model, tokenizer, mixed)
    alone = [answer_logprobs(model, tokenizer, [problem])[0] for problem in mixed]
    for first, second in zip(together, alone, strict=True):
        assert first == pytest.approx(second, abs=1e-4)


def test_probabilities_of_all_answers_of_one_digit_sum_to_less_than_one(base_model):
    model, tokenizer = base_model
    task = load_task("addition", "reversed", difficulty=1, mark="C")
    problem = task.problem(3, 4)
    answers = [type(problem)(str(n), problem.prompt, str(n), 1) for n in range(100)]
    total = exact_pass_rates(model, tokenizer, answers).sum()
    assert 0.5 < total <= 1.0 + 1e-6


def test_the_models_mode_is_kept(base_model):
    model, tokenizer = base_model
    problems = load_task("addition", difficulty=2).problems("heldout", 2, seed=0)
    for training in (True, False):
        model.train(training)
        answer_logprobs(model, tokenizer, problems)
        assert model.training == training


def test_a_tokenizer_without_an_end_is_refused(base_model):
    class NoEnd:
        eos_token_id = None

    with pytest.raises(ValueError, match="EOS"):
        answer_logprobs(base_model[0], NoEnd(), [])


def shown(problems: list, num: int) -> list:
    """All but the last `num` problems, after those."""
    return [after_shots(problem, problems[-num:], "\n") for problem in problems[:-num]]


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path):
    folder = make(request.param, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")  # which torch counts whole
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def test_tokens_that_all_prompts_share_are_computed_once_and_change_no_probability(family, monkeypatch):
    model, tokenizer = family
    problems = [p for digits in (1, 2, 3) for p in load_task("addition", difficulty=digits).problems("heldout", 4, seed=1)]
    problems = shown(problems, 4)
    counter = FlopCounter(model, {tokenizer.eos_token_id})
    with torch_counter() as true:
        once = scored_answers(model, tokenizer, problems, batch_size=8)
    shared_flops, useful = counter.executed_flops["evaluation"], counter.useful_flops["evaluation"]
    assert_close(shared_flops, true.get_total_flops())
    assert useful < shared_flops and set(counter.executed_flops) == {"evaluation"}
    monkeypatch.setattr(likelihood, "MIN_SHARED", 10**6)
    every = scored_answers(model, tokenizer, problems, batch_size=8)
    for first, second in zip(once, every, strict=True):
        assert first.logps_T == pytest.approx(second.logps_T, abs=1e-5)
        assert first.log_pass_rate == pytest.approx(second.log_pass_rate, abs=1e-5)
    assert len({len(tokenizer(problem.prompt)["input_ids"]) for problem in problems}) > 1  # and so there was padding
    assert shared_flops < 0.5 * (counter.executed_flops["evaluation"] - shared_flops)


@pytest.mark.parametrize("model_type", ["gemma3_text", "cohere2", "olmo3"])
def test_shared_tokens_change_nothing_where_attention_has_a_window(base_model, model_type, monkeypatch):
    model, tokenizer = any_type(model_type).eval(), base_model[1]
    problems = shown(load_task("addition", difficulty=2).problems("heldout", 6, seed=1), 4)  # more tokens than the window has
    once = answer_logprobs(model, tokenizer, problems)
    monkeypatch.setattr(likelihood, "MIN_SHARED", 10**6)
    for first, second in zip(once, answer_logprobs(model, tokenizer, problems), strict=True):
        assert first == pytest.approx(second, abs=1e-5)


def test_useful_flops_of_answers_after_shared_tokens_are_those_of_real_tokens(family):
    model, tokenizer = family
    problems = shown(load_task("addition", difficulty=1).problems("heldout", 5, seed=1), 3)
    problems = [dataclasses.replace(problem, verifier="numeric") for problem in problems]  # their own spelling only
    rows = [prompt + answer[:-1] for prompt, answer in (encode_answer(tokenizer, problem) for problem in problems)]
    num_shared = next(i for i, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1)
    counter = FlopCounter(model, {tokenizer.eos_token_id})
    answer_logprobs(model, tokenizer, problems)
    tokens = num_shared + sum(len(row) - num_shared for row in rows)
    attended = sum(range(1, num_shared + 1)) + sum(sum(range(num_shared + 1, len(row) + 1)) for row in rows)
    outputs = 1 + sum(len(row) - num_shared for row in rows)  # at most: of the answers and what predicts them
    most = forward_flops(model.config, tokens, attended / tokens, outputs)
    assert forward_flops(model.config, tokens, attended / tokens, 1) < counter.useful_flops["evaluation"] <= most


@pytest.mark.parametrize("num_shots", [0, 3])
def test_answers_whose_logits_are_too_many_are_scored_in_parts(family, monkeypatch, num_shots):
    model, tokenizer = family
    problems = load_task("addition", difficulty=7).problems("heldout", 6, seed=1)
    problems = shown(problems, num_shots) if num_shots else problems
    whole = scored_answers(model, tokenizer, problems)
    monkeypatch.setattr(likelihood, "MAX_LOGITS", 3 * model.config.vocab_size)
    counter, longest = FlopCounter(model, {tokenizer.eos_token_id}), 0

    def keep_longest(module, args, output):
        nonlocal longest
        longest = max(longest, output.shape[0] * output.shape[1])

    model.get_output_embeddings().register_forward_hook(keep_longest)
    with torch_counter() as true:
        parts = scored_answers(model, tokenizer, problems)
    assert 2 <= longest <= 4 and min(len(score.logps_T) for score in parts) > 4
    assert_close(counter.executed_flops["evaluation"], true.get_total_flops())
    for first, second in zip(whole, parts, strict=True):
        assert first.logps_T == pytest.approx(second.logps_T, abs=1e-5)
        assert first.log_pass_rate == pytest.approx(second.log_pass_rate, abs=1e-5)


def passes_by_prompt(model, tokenizer, task, problems, rollouts: int, seed: int, end: AnswerEnd) -> np.ndarray:
    """Passes among `rollouts` sampled completions of each problem, which are no longer than an answer can be."""
    verifier = RolloutVerifier(task, problems, tokenizer, end)
    longest = max(len(problem.answer) for problem in problems) + 1
    torch.manual_seed(seed)
    passed = np.zeros(len(problems), dtype=int)
    for index, problem in enumerate(problems):
        completions = sampled_completions(model, tokenizer, [problem] * rollouts, longest, batch_size=4000, end=end)
        judged = verifier.judged([problem.problem_id] * len(completions), completions)
        passed[index] = sum(verdict.passed for _, _, verdict in judged)
    return passed


def pooled_chi_square(passed: np.ndarray, pass_rates: np.ndarray, rollouts: int) -> float:
    """P-value that the passes are binomial with these pass rates, over all prompts."""
    statistic = ((passed - rollouts * pass_rates) ** 2 / (rollouts * pass_rates * (1 - pass_rates))).sum()
    return float(stats.chi2.sf(statistic, len(passed)))


def check_agreement(model, tokenizer, task, problems, rollouts: int, power: float, end: AnswerEnd) -> None:
    """Rollouts pass as often as the exact pass rates say, and the same test sees pass rates that are off by as little as p ** power."""
    pass_rates = exact_pass_rates(model, tokenizer, problems, end)
    passed = passes_by_prompt(model, tokenizer, task, problems, rollouts, seed=5, end=end)
    p_value = pooled_chi_square(passed, pass_rates, rollouts)
    print(f"pooled chi-square over {len(problems)} prompts, {rollouts} rollouts each: p = {p_value:.3f}")
    assert p_value > LEVEL
    assert pooled_chi_square(passed, pass_rates**power, rollouts) < LEVEL


@pytest.mark.parametrize(
    ("rollouts", "power"),
    [pytest.param(1000, 1.1, marks=pytest.mark.slow), pytest.param(4000, 1.05, marks=pytest.mark.long)],
)
def test_sampled_rollouts_pass_as_often_as_the_exact_pass_rate_says(base_model, rollouts, power):
    model, tokenizer = base_model
    model.eval()
    problems, task = [], None
    for mark in ("B", "C", "D", "E", "F"):  # the ladder covers the range of pass rates
        task = load_task("addition", "reversed", difficulty=2, mark=mark)
        candidates = task.problems("heldout", 60, seed=11)
        pass_rates = exact_pass_rates(model, tokenizer, candidates)
        inside = [p for p, rate in zip(candidates, pass_rates, strict=True) if 0.02 <= rate <= 0.98]
        problems += inside[:10]
    problems = problems[:PROMPTS]
    assert len(problems) == PROMPTS
    check_agreement(model, tokenizer, task, problems, rollouts, power, AnswerEnd.of(model, tokenizer))


@pytest.mark.long
@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="python data/pretraining/get_smollm2.py makes the model")
def test_rollouts_of_a_pretrained_model_pass_as_often_as_the_exact_pass_rate_says():
    model, tokenizer = AutoModelForCausalLM.from_pretrained(SMOLLM2).eval(), AutoTokenizer.from_pretrained(SMOLLM2)
    end = AnswerEnd.of(model, tokenizer, "\n")
    task = load_task("addition", difficulty=1, mark="none")
    candidates = shown(task.problems("pretrain", 45, seed=11), 4)
    pass_rates = exact_pass_rates(model, tokenizer, candidates, end)
    problems = [p for p, rate in zip(candidates, pass_rates, strict=True) if 0.05 <= rate <= 0.95][:20]
    assert len(problems) == 20
    check_agreement(model, tokenizer, task, problems, rollouts=100, power=1.5, end=end)
