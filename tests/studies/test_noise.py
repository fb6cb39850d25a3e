"""The gradient noise scale against closed forms, against sampling and against TRL."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from conftest import BASE
from trl.trainer.utils import nanstd

from bitsample_llm.estimators import noise_scale
from bitsample_llm.records import read_manifest
from bitsample_llm.scoring.likelihood import answer_logprobs
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import load_task
from eval.studies.ladder import make_noise
from eval.studies.ladder.make_noise import exact_gradients, measured_prompt, score_of
from eval.studies.ladder.noise import (
    ESTIMATORS,
    NUM_BLOCKS,
    NoiseTally,
    expected_arm,
    fail_square,
    fieller_interval,
    group_advantages,
    group_weights,
    label_arm,
    noise_estimate,
    sampled_arm,
)

# One prompt answered by a softmax over the logits of one right and `wrong` equally likely wrong answers.


def bandit_scores(p: float, wrong: int) -> np.ndarray:
    """Gradient in the logits of each answer's log-probability, the right one first."""
    return np.eye(1 + wrong) - np.array([p] + [(1 - p) / wrong] * wrong)


def bandit_squares(p: float, wrong: int) -> tuple[float, float]:
    """|score|^2 of the right answer and of a wrong one; both are rows of `bandit_scores`."""
    q = (1 - p) / wrong
    return (1 - p) ** 2 * (1 + 1 / wrong), 1 + p**2 - 2 * q + wrong * q**2


def scale_without_baseline(p: float) -> float:
    return (1 - p) / p


def scale_with_baseline_p(p: float, wrong: int) -> float:
    """E|(r - p) score|^2 / |G|^2 - 1 with G = p times the right answer's score."""
    right, other = bandit_squares(p, wrong)
    return (1 - p) ** 2 / p + (1 - p) * other / right - 1


def scale_of_rloo(p: float, wrong: int, group_size: int) -> float:
    """Per rollout. RLOO is the U-statistic with kernel (r_i - r_j)(s_i - s_j) / 2, whose variance is Hoeffding's; scores of
    the right and a wrong answer differ by sqrt 2.
    """
    right, _ = bandit_squares(p, wrong)
    second = p * (1 - p) / (p**2 * right) - 1
    return ((group_size - 2) * scale_with_baseline_p(p, wrong) + 2 * second) / (group_size - 1)


def bandit_groups(p: float, wrong: int, group_size: int, num_groups: int, rng: np.random.Generator):
    """Passes (N,), summed scores of the fails (N, D)."""
    counts_ND = rng.multinomial(group_size, [p] + [(1 - p) / wrong] * wrong, size=num_groups)
    return counts_ND[:, 0], counts_ND[:, 1:] @ bandit_scores(p, wrong)[1:]


def bandit_estimate(estimator: str, p: float, wrong: int, group_size: int, num_groups: int, seed: int):
    """Noise estimate of groups of one prompt, each taken as a prompt of its own."""
    passed_N, failing_ND = bandit_groups(p, wrong, group_size, num_groups, np.random.default_rng(seed))
    tally = NoiseTally(["arm"], 1 + wrong)
    for index, (passed, failing_D) in enumerate(zip(passed_N, failing_ND, strict=True)):
        basis_BD = np.stack([bandit_scores(p, wrong)[0], failing_D])
        gram_BB = basis_BD @ basis_BD.T
        arm = sampled_arm(group_weights(estimator, np.array([passed]), group_size), gram_BB)
        tally.add(index % NUM_BLOCKS, {"arm": arm}, basis_BD.astype(np.float32), gram_BB)
    return tally.estimate("arm")


def estimate_of(gradients_PD: np.ndarray, num_blocks: int = NUM_BLOCKS):
    """Noise estimate of units of different prompts, all with equal blocks."""
    blocks_ND = gradients_PD.reshape(num_blocks, -1, gradients_PD.shape[1]).sum(axis=1)
    square_N = (gradients_PD**2).sum(axis=1).reshape(num_blocks, -1).sum(axis=1)
    size_N = np.full(num_blocks, len(gradients_PD) // num_blocks)
    return noise_estimate(blocks_ND @ blocks_ND.T, np.stack([size_N, square_N, square_N, square_N * math.nan], axis=1))


@pytest.mark.parametrize("p", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("wrong", [1, 20])
def test_closed_squares_of_the_bandit_are_those_of_its_scores(p, wrong):
    right, other = bandit_squares(p, wrong)
    squares = (bandit_scores(p, wrong) ** 2).sum(axis=1)
    assert squares == pytest.approx([right] + [other] * wrong)


def test_closed_form_with_a_baseline_is_u_shaped():
    assert scale_with_baseline_p(1e-4, 10**6) == pytest.approx(1e4, rel=1e-3)
    assert scale_with_baseline_p(1 - 1e-4, 10**6) == pytest.approx(2e4, rel=1e-3)
    assert scale_with_baseline_p(0.4, 10**6) < 3
    assert scale_with_baseline_p(0.5, 1) == pytest.approx(0)  # two answers, even odds: every sample pushes the same way


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
def test_sampled_bandit_has_the_scale_of_its_closed_form(p):
    wrong, group_size, num_groups = 20, 8, 20_000
    expected = {"reinforce": scale_without_baseline(p), "rloo": scale_of_rloo(p, wrong, group_size)}
    for estimator, scale in expected.items():
        measured = bandit_estimate(estimator, p, wrong, group_size, num_groups, seed=1)
        low, high = measured.interval
        assert low * group_size < scale < high * group_size
        assert measured.noise_scale * group_size == pytest.approx(scale, rel=0.06)
        assert high - low < 0.15 * measured.noise_scale  # sharp enough to fail


def expected_scale(estimator: str, p: float, wrong: int, group_size: int) -> float:
    """Scale in rollouts of a bandit's expected arm."""
    right, other = bandit_squares(p, wrong)
    arm = expected_arm(estimator, math.log(p), right, (1 - p) * other, group_size, 1)
    return (arm.unit_square / arm.own_square - 1) * group_size


@pytest.mark.parametrize("p", [1e-3, 0.05, 0.5, 0.999])
@pytest.mark.parametrize("group_size", [2, 8, 64])
def test_expected_arm_has_the_closed_forms(p, group_size):
    assert expected_scale("reinforce", p, 20, group_size) == pytest.approx(scale_without_baseline(p), rel=1e-9)
    assert expected_scale("rloo", p, 20, group_size) == pytest.approx(scale_of_rloo(p, 20, group_size), rel=1e-9)


def test_large_groups_approach_the_scale_with_baseline_p():
    """GRPO's differs: the standard deviation it divides by errs with the same luck as the gradient, the more so at low p."""
    p, wrong = 0.3, 20
    saved = 0.75 * (1 - 2 * p) ** 2 / (p * (1 - p))  # by the delta method
    assert expected_scale("rloo", p, wrong, 4000) == pytest.approx(scale_with_baseline_p(p, wrong), rel=1e-3)
    assert expected_scale("grpo", p, wrong, 4000) == pytest.approx(scale_with_baseline_p(p, wrong) - saved, rel=1e-3)


def test_expected_grpo_is_the_mean_over_sampled_groups():
    p, wrong, group_size = 0.2, 20, 8
    passed_N, failing_ND = bandit_groups(p, wrong, group_size, 100_000, np.random.default_rng(2))
    passing, failing = group_advantages("grpo", passed_N, group_size)
    right_D = bandit_scores(p, wrong)[0]
    units_ND = ((passed_N * passing)[:, None] * right_D + failing[:, None] * failing_ND) / group_size
    right, other = bandit_squares(p, wrong)
    arm = expected_arm("grpo", math.log(p), right, (1 - p) * other, group_size, 1)
    assert arm.unit_square == pytest.approx((units_ND**2).sum(axis=1).mean(), rel=0.01)
    assert units_ND.mean(axis=0) == pytest.approx(arm.weights_B[0] * right_D, abs=2e-3)


@pytest.mark.parametrize("p", [0.1, 0.7])
def test_square_of_failing_scores_is_unbiased(p):
    wrong, group_size = 20, 8
    passed_N, failing_ND = bandit_groups(p, wrong, group_size, 50_000, np.random.default_rng(3))
    right, other = bandit_squares(p, wrong)
    estimate = fail_square(group_size - passed_N, (failing_ND**2).sum(axis=1), p / (1 - p), right, group_size)
    assert estimate == pytest.approx((1 - p) * other, rel=0.01)


def test_scale_is_that_of_the_estimators_where_each_unit_is_a_block():
    gradients = np.random.default_rng(0).normal(1.0, 2.0, size=(50, 7))
    measured = estimate_of(gradients, num_blocks=50)
    assert measured.noise_scale == pytest.approx(noise_scale(gradients))
    assert estimate_of(gradients, num_blocks=10).noise_scale == pytest.approx(measured.noise_scale)
    assert measured.within_fraction is None  # one unit a prompt


def gaussian_units(signal: float, rng: np.random.Generator) -> np.ndarray:
    """100 units with |G|^2 = signal^2 and tr(Sigma) = 30."""
    return rng.normal(size=(100, 30)) + np.eye(30)[0] * signal


def test_squared_norm_is_unbiased_and_that_of_the_mean_is_not():
    rng = np.random.default_rng(4)
    samples = [gaussian_units(0.3, rng) for _ in range(2000)]
    unbiased = np.array([estimate_of(sample).squared_norm for sample in samples])
    plug_in = np.array([(sample.mean(axis=0) ** 2).sum() for sample in samples])
    error = 4 * unbiased.std() / math.sqrt(len(samples))
    assert unbiased.mean() == pytest.approx(0.09, abs=error)
    assert error < 0.01
    assert plug_in.mean() == pytest.approx(0.09 + 30 / 100, abs=error)  # tr(Sigma) / B too much


@pytest.mark.parametrize("signal", [0.0, 0.5, 3.0])
def test_intervals_cover_their_share(signal):
    rng = np.random.default_rng(5)
    estimates = [estimate_of(gaussian_units(signal, rng)) for _ in range(400)]
    bounds = np.array([estimate.squared_norm_interval for estimate in estimates])
    assert ((bounds[:, 0] <= signal**2) & (signal**2 <= bounds[:, 1])).mean() > 0.92
    measured = [estimate for estimate in estimates if estimate.noise_scale is not None]
    assert [estimate.interval is None for estimate in estimates] == [estimate.noise_scale is None for estimate in estimates]
    if signal == 0:
        assert len(measured) < 0.025 * len(estimates)  # the null is found significant as rarely as it says
    else:
        covered = [low <= 30 / signal**2 <= high for low, high in (estimate.interval for estimate in measured)]
        assert np.mean(covered) > 0.92


def test_interval_of_a_ratio_knows_that_its_parts_err_together():
    spread = 0.2 * np.array([[1.0, 3.0], [3.0, 9.0]])  # the trace is always three times the signal
    assert fieller_interval(6.0, 2.0, spread) == pytest.approx((3.0, 3.0), abs=1e-6)
    low, high = fieller_interval(6.0, 2.0, np.diag([0.2, 0.0]))  # the trace is known
    assert (low, high) == pytest.approx((6 / (2 + math.sqrt(0.2)), 6 / (2 - math.sqrt(0.2))))


def test_scale_is_unmeasured_where_the_interval_of_the_signal_holds_zero():
    estimate = estimate_of(gaussian_units(0.0, np.random.default_rng(6)))
    low, high = estimate.squared_norm_interval
    assert low < 0 < high
    assert estimate.noise_scale is estimate.interval is None
    with pytest.raises(ValueError, match="at least three"):
        noise_estimate(np.eye(2), np.ones((2, 4)))
    with pytest.raises(ValueError, match="all with prompts"):
        noise_estimate(np.eye(3), np.zeros((3, 4)))


def test_noise_splits_into_a_part_within_prompts_and_one_between():
    """Prompts of mean m_i ~ N(mu, 2) and units of N(m_i, 1), 20 parameters: a third of the noise is within prompts."""
    rng = np.random.default_rng(7)
    tally = NoiseTally(["arm"], 20)
    for index in range(2000):
        basis_BD = 2.0 + math.sqrt(2) * rng.normal(size=20) + rng.normal(size=(2, 20))
        arm = sampled_arm(np.eye(2), basis_BD @ basis_BD.T)
        tally.add(index % NUM_BLOCKS, {"arm": arm}, basis_BD.astype(np.float32), basis_BD @ basis_BD.T)
    estimate = tally.estimate("arm")
    assert estimate.within_fraction == pytest.approx(1 / 3, rel=0.05)
    assert estimate.trace == pytest.approx(60, rel=0.05)
    assert estimate.squared_norm == pytest.approx(80, rel=0.05)


def test_label_noise_is_a_coin_averaged_out():
    rng = np.random.default_rng(8)
    basis_BD = rng.normal(size=(3, 5))  # one right label, two wrong ones
    gram_BB = basis_BD @ basis_BD.T
    clean = label_arm(0.0, np.eye(3)[1:], gram_BB)
    assert clean.unit_square == clean.own_square == pytest.approx(gram_BB[0, 0])
    arm = label_arm(0.2, np.eye(3)[1:], gram_BB)
    wrong_D = basis_BD[1:].mean(axis=0)
    assert arm.weights_B @ basis_BD == pytest.approx(0.8 * basis_BD[0] + 0.2 * wrong_D)
    assert arm.unit_square == pytest.approx(0.8 * gram_BB[0, 0] + 0.1 * (gram_BB[1, 1] + gram_BB[2, 2]))
    assert arm.own_square == pytest.approx((0.8 * basis_BD[0] + 0.2 * basis_BD[1]) @ (0.8 * basis_BD[0] + 0.2 * basis_BD[2]))


@pytest.mark.parametrize("num_passed", range(9))
def test_advantages_are_those_of_trl(num_passed):
    rewards = (torch.arange(8) < num_passed).float()
    by_trl = {
        "reinforce": rewards,
        "rloo": rewards - (rewards.sum() - rewards) / 7,
        "grpo": (rewards - rewards.mean()) / (nanstd(rewards[None], dim=1) + 1e-4),
    }
    for estimator in ESTIMATORS:
        passing, failing = group_advantages(estimator, num_passed, 8)
        assert np.where(np.arange(8) < num_passed, passing, failing) == pytest.approx(by_trl[estimator].numpy(), abs=1e-5)


def test_rloo_of_three_rollouts_by_hand():
    """Rewards 1, 0, 0: advantages 1, -1/2, -1/2."""
    right_D, failing_D = np.array([1.0, 0.0]), np.array([0.2, 0.4]) + np.array([-0.6, 0.2])
    weights_KB = group_weights("rloo", np.array([1]), 3)
    assert weights_KB @ np.stack([right_D, failing_D]) == pytest.approx(np.array([[0.4, -0.1]]))


def test_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="unknown estimator 'ppo'"):
        group_advantages("ppo", 1, 8)


@pytest.fixture(scope="module")
def measured_prompts(base_model):
    """Prompts of three digits by a mark of care 0.5, each with 4 groups of 16 rollouts."""
    model, tokenizer = base_model
    problems = load_task("addition", "reversed", difficulty=3, mark="C").problems("train", 6, seed=0)
    torch.manual_seed(0)
    rollouts = sampled_completions(model, tokenizer, [problem for problem in problems for _ in range(64)], 5)
    wrong = [tokenizer("1234")["input_ids"] + [tokenizer.eos_token_id]] * 2
    return [
        measured_prompt(model, tokenizer, problem, [rollouts[64 * index + 16 * k :][:16] for k in range(4)], wrong)
        for index, problem in enumerate(problems)
    ]


def arm_gradient(prompts, name: str) -> torch.Tensor:
    return sum(torch.tensor(prompt.arms[name].weights_B, dtype=torch.float32) @ prompt.basis_BD for prompt in prompts)


@pytest.mark.parametrize("estimator", ["reinforce", "rloo"])
def test_sampled_gradient_points_where_the_exact_gradient_of_the_pass_rate_does(measured_prompts, estimator):
    sampled, exact = arm_gradient(measured_prompts, estimator), arm_gradient(measured_prompts, "exact")
    assert torch.cosine_similarity(sampled, exact, dim=0) > {"reinforce": 0.99, "rloo": 0.8}[estimator]
    assert float(sampled @ exact / (exact @ exact)) == pytest.approx(1, abs=0.2)


def test_sampled_and_expected_groups_of_the_model_agree(measured_prompts):
    for estimator in ESTIMATORS:
        sampled = sum(prompt.arms[estimator].unit_square for prompt in measured_prompts)
        expected = sum(prompt.arms[f"{estimator}_expected"].unit_square for prompt in measured_prompts)
        assert sampled == pytest.approx(expected, rel=0.35)


def test_exact_gradients_are_the_slopes_of_what_they_ascend(base_model, measured_prompts):
    """Of the mean log p and the mean p, as the likelihood finds them a little to both sides along the gradient."""
    model, tokenizer = base_model
    problems = load_task("addition", "reversed", difficulty=3, mark="C").problems("train", 6, seed=0)
    gradients = exact_gradients(model, tokenizer, problems)
    for gradient_D, name in zip(gradients, ("sft_0", "exact"), strict=True):
        assert torch.allclose(gradient_D * 6, arm_gradient(measured_prompts, name), rtol=1e-3, atol=1e-4)
        step = 1e-2 / float(gradient_D.norm())
        means = []
        for side in (1, -1):
            moved = copy.deepcopy(model)
            flat = torch.nn.utils.parameters_to_vector(moved.parameters()) + side * step * gradient_D
            torch.nn.utils.vector_to_parameters(flat.detach(), moved.parameters())
            log_p = [logps.sum() for logps in answer_logprobs(moved, tokenizer, problems)]
            means.append(np.mean(log_p if name == "sft_0" else np.exp(log_p)))
        assert (means[0] - means[1]) / (2 * step) == pytest.approx(float(gradient_D @ gradient_D), rel=0.02)


def test_score_of_a_group_is_the_sum_of_the_scores_of_its_rollouts(base_model):
    model, tokenizer = base_model
    prompt, *completions = (tokenizer(text)["input_ids"] for text in ("A123+456<", "975", "12", "1"))
    log_p, score_D = score_of(model, prompt, completions, tokenizer.pad_token_id)
    alone = [score_of(model, prompt, [completion], tokenizer.pad_token_id) for completion in completions]
    assert log_p == pytest.approx(sum(value for value, _ in alone), rel=1e-4)
    assert torch.allclose(score_D, sum(gradient for _, gradient in alone), rtol=1e-3, atol=1e-3)
    assert score_of(model, prompt, [], tokenizer.pad_token_id)[1].abs().sum() == 0


@pytest.fixture
def run_recipe(monkeypatch, tmp_path):
    """Runs the recipe on few prompts of a mark and returns what it wrote."""

    def run(mark: str, *options) -> dict:
        path = tmp_path / mark
        small = ["--num_train_problems", 20, "--num_heldout_problems", 4, "--num_generations", 4, "--difficulty", 3]
        words = ["make_noise.py", "--model_name_or_path", BASE, "--mark", mark, "--output_dir", path, *small, *options]
        monkeypatch.setattr("sys.argv", [str(word) for word in words])
        make_noise.main()
        return json.loads((path / "noise.json").read_text(), parse_constant=pytest.fail)

    return run


@pytest.mark.slow
def test_recipe_writes_what_it_measured(run_recipe, tmp_path):
    record = run_recipe("C")
    assert record["start"] == "base"
    assert read_manifest(tmp_path / "C")["state"] == "finished"  # what a study asks for before it runs it again
    assert 0.3 < record["mean_pass_rate"] < 0.7
    assert record["mean_surprisal_bits"] > -math.log2(record["mean_pass_rate"])
    assert record["num_passed"] + record["num_failed"] == 20 * 2 * 4
    assert all(0 < cosine <= 1 for cosine in record["coherence"].values())
    assert set(record["arms"]) == {"sft_0", "sft_0.05", "sft_0.2", "exact", *ESTIMATORS, *(f"{e}_expected" for e in ESTIMATORS)}
    rloo, clean = record["arms"]["rloo_expected"], record["arms"]["sft_0"]
    assert rloo["noise_scale_in_samples"] == pytest.approx(4 * rloo["noise_scale"])
    assert rloo["interval"][0] < rloo["noise_scale"] < rloo["interval"][1]
    assert clean["noise_scale_in_samples"] == clean["noise_scale"] < rloo["noise_scale"]
    assert clean["within_fraction"] == pytest.approx(0, abs=1e-6)
    assert (rloo["units"], clean["units"]) == (40, 20)
    assert run_recipe("C")["arms"] == record["arms"]  # the seed decides


@pytest.mark.slow
def test_recipe_leaves_null_what_few_rollouts_cannot_tell(run_recipe):
    rare_pass, rare_fail = run_recipe("H")["arms"], run_recipe("A")["arms"]
    assert rare_pass["reinforce"]["noise_scale"] is rare_pass["reinforce"]["noise_scale_in_samples"] is None
    assert rare_pass["reinforce_expected"]["noise_scale"] > rare_pass["sft_0"]["noise_scale"]
    assert rare_fail["rloo_expected"]["noise_scale"] is rare_fail["rloo_expected"]["trace"] is None


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--num_generations", 1], 2, "--num_generations must be at least 2, got 1"),
        (["--groups_per_prompt", 1], 2, "--groups_per_prompt must be at least 2, got 1"),
        (["--num_train_problems", 19], 1, "--num_train_problems must be at least 20, got 19"),
        (["--output_dir", ""], 1, "no run directory: pass --output_dir FOLDER"),
        (["--answer_format", "scratchpad"], 1, "several completions pass"),
        (["--seed", -1], 2, "--seed must be from 0 to 4294967295, got -1"),
        (["--model_name_or_path", "./absent"], 1, "model folder ./absent does not exist"),
    ],
)
def test_bad_input_is_one_line(run_recipe, capsys, options, status, message):
    with pytest.raises(SystemExit) as raised:
        run_recipe("C", *options)
    errors = capsys.readouterr().err
    assert raised.value.code == status
    assert errors.count("\n") == 1
    assert message in errors
