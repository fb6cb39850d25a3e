"""The exact pass rate is the probability with which sampling passes."""

import numpy as np
import pytest
import torch
from scipy import stats

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.likelihood import answer_logprobs, exact_pass_rates
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import load_task

LEVEL = 0.001  # of the pooled chi-square test, fixed before it was run
PROMPTS = 50


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


def passes_by_prompt(model, tokenizer, task, problems, rollouts: int, seed: int) -> np.ndarray:
    """Passes among `rollouts` sampled completions of each problem."""
    verifier = RolloutVerifier(task, problems, tokenizer)
    torch.manual_seed(seed)
    passed = np.zeros(len(problems), dtype=int)
    for index, problem in enumerate(problems):
        completions = sampled_completions(model, tokenizer, [problem] * rollouts, max_new_tokens=4, batch_size=4000)
        judged = verifier.judged([problem.problem_id] * len(completions), completions)
        passed[index] = sum(verdict.passed for _, _, verdict in judged)
    return passed


def pooled_chi_square(passed: np.ndarray, pass_rates: np.ndarray, rollouts: int) -> float:
    """P-value that the passes are binomial with these pass rates, over all prompts."""
    statistic = ((passed - rollouts * pass_rates) ** 2 / (rollouts * pass_rates * (1 - pass_rates))).sum()
    return float(stats.chi2.sf(statistic, len(passed)))


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
    pass_rates = exact_pass_rates(model, tokenizer, problems)
    passed = passes_by_prompt(model, tokenizer, task, problems, rollouts, seed=5)
    p_value = pooled_chi_square(passed, pass_rates, rollouts)
    print(f"pooled chi-square over {PROMPTS} prompts, {rollouts} rollouts each: p = {p_value:.3f}")
    assert p_value > LEVEL
    # the same test sees pass rates that are off by as little as p ** power
    assert pooled_chi_square(passed, pass_rates**power, rollouts) < LEVEL
