"""The statistics of README.md: remedy factors, their closed form, and what each question is answered with."""

import numpy as np

from bitsample_llm.information import informative_group_probability
from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import Estimate, number_text, ratio_over_seeds
from bitsample_llm.report.prices import HALF, PricedRun, Target
from bitsample_llm.report.remedy_runs import RemedyRuns

SPOKEN = {
    "target": "the target alone",
    "target_unskipped": "the target, dead updates too",
    "target_unskipped_1e-4": "the same at 1e-4",
    "target_unskipped_3e-5": "the same at 3e-5",
    "target_unskipped_1e-5": "the same at 1e-5",
    "target_four": "four groups, one must inform",
    "target_refilled": "four groups, refilled",
    "uniform": "the pool in turn",
    "only_C": "author C alone (p = .5)",
    "only_E": "author E alone (p = .1)",
    "easy_to_hard": "easy to hard",
    "thompson": "Thompson sampling",
    "probe": "4 probing rollouts",
    "exact_variance": "exact p(1 - p)",
    "exact_half": "exact p nearest .5",
    "sft": "SFT, the target alone",
    "sft_uniform": "SFT, the pool in turn",
    "sft_easy_to_hard": "SFT, easy to hard",
    "sft_exact_half": "SFT, exact p nearest .5",
}
# the arm that each is held against
PLAIN_OF = {arm: "sft" if arm.startswith("sft") else "target" for arm in SPOKEN}
SAVES, SAME, CLOSE = 1.1, 1.25, 1.5
# FLOPs per rollout of three digits, of drawing it and of training on it: `flops/prefill` + `flops/decode`, and `flops/train_forward` + `flops/train_backward`,
# over the samples of a run in which no update was skipped
DRAW_FLOPS, TRAIN_FLOPS = 27.6e6, 81.0e6
STEPS = 64  # of the mean over the way


def saving_on_the_way(pass_rates: np.ndarray, size: int, chosen_size: int, share: float) -> float:
    """The price of an informative group, averaged over the way to a share of the bits in equal steps of log p, over its price at p = .5; groups of
    `size` rollouts without the choice and of `chosen_size` with it.
    """
    steps = (np.arange(STEPS) + 0.5) / STEPS * share
    informative = [informative_group_probability(pass_rates ** (1 - step), size).mean() for step in steps]
    plain = size * (DRAW_FLOPS * np.mean(1 / np.array(informative)) + TRAIN_FLOPS)
    at_half = informative_group_probability(np.array([0.5]), chosen_size)[0]
    return float(plain / (chosen_size * (DRAW_FLOPS / at_half + TRAIN_FLOPS)))


def predicted_factor(run: PricedRun, oracle: PricedRun, target: Target) -> float:
    """What asking for p = .5 saves if every informative update is worth the same."""
    size, chosen_size = (one.settings["num_generations"] for one in (run, oracle))
    return saving_on_the_way(run.pass_rates_before, size, chosen_size, target.share)


def claims_of(found: RemedyRuns) -> list[Claim]:
    """Every question of README.md at every start whose runs are there."""
    claims = []
    for rung in found.rungs:
        arms = found.arms(rung)
        asked = [
            (
                "exact_half",
                "target",
                "Asking for p = .5 saves FLOPs of RL.",
                SAVES,
                Answers("supported", "undecided", "contradicted"),
                6,
            ),
            (
                "sft_exact_half",
                "sft",
                "Asking for p = .5 hardly saves FLOPs of SFT.",
                SAVES,
                Answers("contradicted", "undecided", "supported"),
                6,
            ),
            (
                "thompson",
                "exact_half",
                "Does Thompson sampling cost at most 1.5 times what the exact choice costs?",
                1 / CLOSE,
                Answers("yes", "undecided", "no"),
                None,
            ),
            (
                "exact_half",
                "uniform",
                "Does the exact choice save a quarter compared with the pool in turn?",
                SAME,
                Answers("yes", "undecided", "no"),
                None,
            ),
            (
                "only_E",
                "target",
                "Author E alone, easier than the target, saves FLOPs of RL.",
                SAVES,
                Answers("supported", "undecided", "contradicted"),
                None,
            ),
            (
                "only_C",
                "only_E",
                "Author C alone, whose pass rate is a half, is cheaper than author E alone.",
                SAVES,
                Answers("supported", "undecided", "contradicted"),
                None,
            ),
            (
                "target_refilled",
                "target",
                "Is DAPO's refill of four groups cheaper than one group per update?",
                1.0,
                Answers("yes", "undecided", "no"),
                None,
            ),
            (
                "probe",
                "uniform",
                "Are probing rollouts worth their price, compared with the pool in turn?",
                1.0,
                Answers("yes", "undecided", "no"),
                None,
            ),
        ]
        for arm, plain, text, threshold, answers, number in asked:
            if not {arm, plain} <= set(arms):
                continue
            saved = found.factor(rung, arm, HALF, plain)
            statistic = (
                f"{rung}: FLOPs of {SPOKEN[plain]} over those of {SPOKEN[arm]}, {HALF.name}; threshold {number_text(threshold)}"
            )
            claims.append(
                judged(text, statistic, saved.estimate, (threshold, threshold), answers, 1, f"no price ({saved.text()})", number)
            )
        if {"exact_half", "target"} <= set(arms):
            claims.append(form_claim(found, rung))
    return claims


def form_claim(found: RemedyRuns, rung: str) -> Claim:
    """Whether the closed form says what asking for p = .5 saves."""
    saved = found.factor(rung, "exact_half", HALF)
    of_arm = {arm: {run.model: run for run in found.of(rung, arm)} for arm in ("target", "exact_half")}
    predicted = ratio_over_seeds(
        [
            predicted_factor(run, of_arm["exact_half"][model], HALF)
            for model, run in of_arm["target"].items()
            if model in of_arm["exact_half"]
        ]
    ).mean
    measured = saved.estimate
    quotient = Estimate(None, None, 0)
    if measured.mean is not None:
        quotient = Estimate(measured.mean / predicted, tuple(bound / predicted for bound in measured.interval), measured.n)
    answers = Answers("no, it saves more", f"yes, within {CLOSE:g}", "no, it saves less")
    text = f"Is what it saves the price of an informative group, {number_text(predicted)} times?"
    statistic = f"{rung}: measured factor over the closed form, within {CLOSE:g}"
    return judged(text, statistic, quotient, (1 / CLOSE, CLOSE), answers, 1, f"no price ({saved.text()})")
