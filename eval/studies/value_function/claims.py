"""The statistics of README.md: closed forms of what an end saves, calibration, bias, and what each question is answered with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitsample_llm.information import informative_group_probability
from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import Estimate, number_text, ratio_over_seeds
from bitsample_llm.report.prices import HALF, Target
from bitsample_llm.report.remedies import prices_of
from bitsample_llm.report.remedy_runs import RemedyRuns
from bitsample_llm.report.stops import PLACES, StopRun, calibration, lost_passes

SPOKEN = {
    "plain": "nothing is ended",
    "first_error": "end at the first error",
    "low_value": "end at a low value",
    "as_others": "end by chance",
    "run_on": "the head alone",
    "baseline": "baseline per token",
    "both": "low value, baseline",
}
PLAIN_OF = dict.fromkeys(SPOKEN, "plain")
NUM_RUN_ON, GROUP = 2, 8
CLOSE, SAME = 1.5, 1.25
MOST_LOST, NOTHING, MUCH = 0.1, 0.1, 1 / 3
EARLY_FLOPS = 5e10
FEWEST_RUNS = 3  # of an arm per pretraining seed, for a verdict
STEPS = 64  # of the mean over the way
YES = Answers("yes", "undecided", "no")


@dataclass(frozen=True)
class Found(RemedyRuns):
    """The runs, with what they say of their rollouts' ends."""

    stops: Sequence[StopRun] = ()

    def stops_of(self, rung: str, *arms: str) -> list[StopRun]:
        """The runs of arms at a start."""
        return [run for run in self.stops if run.rung == rung and run.arm in arms]


def predicted_factors(run: StopRun, target: Target) -> dict[str, float]:
    """What an end, or a baseline, saves by the closed forms of README.md, with the FLOPs per rollout that a plain run paid, from its start to a
    share of the bits.
    """
    prefill, decode = run.flops["prefill"] / run.num_samples, run.flops["decode"] / run.num_samples
    update = (run.flops["train_forward"] + run.flops["train_backward"]) / run.num_informative
    costs = {name: [] for name in ("plain", "first_error", "low_value", "baseline")}
    for step in (np.arange(STEPS) + 0.5) / STEPS * target.share:
        reached = [np.exp2(np.cumsum(of_answer) * (1 - step)) for of_answer in run.token_log2_p]
        # a rollout draws its first token, and each later one if all before it are right
        drawn = np.mean([1 + of_answer[:-1].sum() for of_answer in reached]) / np.mean([len(of_answer) for of_answer in reached])
        passed = np.minimum([of_answer[-1] for of_answer in reached], 1)
        informative = informative_group_probability(passed, GROUP).mean()
        share_on = NUM_RUN_ON / GROUP
        costs["plain"].append((prefill + decode) / informative + update)
        costs["first_error"].append((prefill + decode * drawn) / informative + update)
        costs["low_value"].append((prefill + decode * (share_on + (1 - share_on) * drawn)) / informative + update)
        costs["baseline"].append((prefill + decode + update) / informative)
    return {name: float(np.mean(costs["plain"]) / np.mean(of_arm)) for name, of_arm in costs.items()}


def predicted(found: Found, rung: str, arm: str) -> float:
    """Geometric mean over the plain runs of a start, to half of the bits."""
    return ratio_over_seeds([predicted_factors(run, HALF)[arm] for run in found.stops_of(rung, "plain")]).mean


def samples_per_flop(found: Found, rung: str, arm: str) -> Estimate:
    """Rollouts per FLOP over those of plain runs of the same seeds, over the first `EARLY_FLOPS`."""
    plain = {(run.model, run.seed): run for run in found.of(rung, "plain")}
    pairs = [(run, plain[run.model, run.seed]) for run in found.of(rung, arm) if (run.model, run.seed) in plain]
    ends = [min(EARLY_FLOPS, *(run.flops[-1] for run in pair)) for pair in pairs]
    drawn = [[np.interp(end, run.flops, run.samples) for run in pair] for pair, end in zip(pairs, ends, strict=True)]
    return ratio_over_seeds([float(mine / other) for mine, other in drawn])


def has_enough(found: Found, rung: str, *arms: str) -> bool:
    """Whether every pretraining seed has runs enough of the arms for a verdict on a factor."""
    sides = [prices_of(found.runs, rung, arm, HALF).by_model.values() for arm in arms]
    return all(side and min(map(len, side)) >= FEWEST_RUNS for side in sides)


def claims_of(found: Found) -> list[Claim]:
    """Every question of README.md at every start whose runs are there."""
    return [claim for rung in found.rungs if found.of(rung, "plain") for claim in claims_at(found, rung)]


def claims_at(found: Found, rung: str) -> list[Claim]:
    """The questions at one start."""
    claims, arms = [], found.arms(rung)

    def ask(arm, text, threshold, answers=YES, plain="plain", number=None, scale=1.0):
        if not {arm, plain} <= set(arms):
            return
        saved = found.factor(rung, arm, HALF, plain)
        estimate = saved.estimate
        if scale != 1.0 and estimate.mean is not None:
            estimate = Estimate(estimate.mean / scale, tuple(end / scale for end in estimate.interval), estimate.n)
        few = not has_enough(found, rung, arm, plain)
        if few and estimate.mean is not None:  # a bootstrap over two runs knows nothing of a third
            estimate = Estimate(estimate.mean, None, estimate.n)
        margins = threshold if isinstance(threshold, tuple) else (threshold, threshold)
        statistic = f"{rung}: FLOPs of {SPOKEN[plain]} over those of {SPOKEN[arm]}{' over the form' * (scale != 1)}, {HALF.name}; threshold {' to '.join(map(number_text, sorted(set(margins))))}"
        claims.append(
            judged(
                text,
                statistic,
                estimate,
                margins,
                answers,
                1,
                f"fewer than {FEWEST_RUNS} runs of an arm" if few else f"no price ({saved.text()})",
                number,
            )
        )

    for arm, what in (("first_error", "An ideal value function"), ("low_value", "A learned value function")):
        expected = predicted(found, rung, arm)
        text = f"{what} saves at least half of what is predicted, {number_text(expected)} times."
        half = 1 / (1 - 0.5 * (1 - 1 / expected))
        ask(arm, text, half, Answers("supported", "undecided", "contradicted"), number=7)
    form = predicted(found, rung, "first_error")
    within = Answers("no, it saves more", f"yes, within {CLOSE:g}", "no, it saves less")
    ask(
        "first_error",
        f"Does the ideal end save what the closed form says, {number_text(form)} times?",
        (1 / CLOSE, CLOSE),
        within,
        scale=form,
    )
    ask("as_others", "Does an end by chance save FLOPs?", 1.0)
    ask("low_value", "Is a low value a better end than chance?", 1.0, plain="as_others")
    ask("baseline", "Does a baseline per token save FLOPs?", 1.0)
    ask("run_on", "Is the head alone free?", (1 / SAME, SAME), Answers("no, it saves", f"yes, within {SAME:g}", "no, it costs"))
    late = [calibration(found.stops_of(rung, "run_on"), place, 1) for place in (0, 1)]
    for of_place, place, threshold in zip(late, PLACES, (NOTHING, MUCH), strict=False):
        if of_place is not None:
            statistic = f"{rung}: share of the verdicts' variance, {place}, second half of the generations; threshold {number_text(threshold)}"
            text = f"Does the value explain verdicts ({place})?"
            claims.append(judged(text, statistic, of_place.explained, (threshold, threshold), YES, 2, "too few runs"))
    lost = lost_passes(found.stops_of(rung, "run_on", "low_value", "both"))
    statistic = (
        f"{rung}: share of the passes that run on which the threshold would have ended; threshold {MOST_LOST:g}; n counts passes"
    )
    answers = Answers("no", "undecided", "yes")
    claims.append(
        judged("Are fewer than a tenth of the passes lost?", statistic, lost, (MOST_LOST, MOST_LOST), answers, 1, "no threshold")
    )
    return claims
