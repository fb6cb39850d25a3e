"""The essay's claims that the ladder tests, each with its statistic and threshold; thresholds were committed before the runs."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.columns import ABSORBED_BITS, SAMPLES
from bitsample_llm.report.estimates import Estimate, over_seeds, ratio_over_seeds
from bitsample_llm.report.runs import MeasuredRun
from eval.studies.ladder.rungs import Ladder, by_rung, over_models, pass_rates

DECADE_MARGIN = math.log(1.5)  # claim 3: FLOPs of a half-decade of the pass rate over those of the half-decade before
LOW_PASS_RATE = 0.1  # claim 4: early
ACQUIRED_SHARE, ACQUIRED_PASS_RATE = 0.05, 0.1  # claim 9
ROLLOUTS_MARGIN = 10  # claim 9: so rare that a tenth of a pass was to be expected among all rollouts of the problem
LESS_IS_SUPPORT = Answers("contradicted", "neither", "supported")
MORE_IS_SUPPORT = Answers("supported", "neither", "contradicted")

# ---- claim 1: nothing learns more than its samples tell --------------------------------------------------------------


def attained_fraction(run: MeasuredRun) -> float:
    """Bits gained on the memorised problems over what the run's samples told of them at most."""
    ceiling = json.loads((run.run.run_dir / "ceiling.json").read_text())
    return run.value(ABSORBED_BITS) * ceiling["problems"] / ceiling["ceiling_bits"]


def claim_1(ladder: Ladder) -> list[Claim]:
    """The instrument's own check, a row per arm. An arm that gained nothing does not test it."""
    text = "A sample tells at most -log2 p (a label) or H (a verdict): nothing learns more of random labels than its samples told."
    found = []
    for arm in ladder.part("memorise"):
        statistic = f"bits gained on memorised labels over the most that the run's samples told, {arm.name}, threshold 1"
        fraction = over_seeds([attained_fraction(run) for run in arm.runs])
        if fraction.interval and fraction.interval[0] <= 0:
            verdict = f"undecided: {arm.name} is not known to have gained a bit, so nothing was near the ceiling"
            found.append(Claim(text, statistic, fraction, verdict, 1))
        else:
            found.append(judged(text, statistic, fraction, (1, 1), LESS_IS_SUPPORT, len(arm.runs), "one seed has no interval", 1))
    return found


# ---- claim 3: the same compute for every decade ----------------------------------------------------------------------


def half_decade_flops(run: MeasuredRun) -> list[float]:
    """FLOPs spent on every half-decade of the mean pass rate between its start and 1/2; empty if it did not cross all."""
    lowest, highest = 2 * math.log10(run.curve.pass_rate[0]), 2 * math.log10(0.5)
    levels = 10 ** (np.arange(math.ceil(lowest + 0.02), math.floor(highest) + 1) / 2)
    highest_yet = np.maximum.accumulate(run.curve.pass_rate)
    if not levels.size or highest_yet[-1] < levels[-1]:
        return []
    return np.diff([run.curve.flops[0], *np.interp(levels, highest_yet, run.curve.flops)]).tolist()


def decades_slope(run: MeasuredRun) -> float | None:
    """Slope of log FLOPs per half-decade on its number; None where fewer than three half-decades were crossed, the first of which is cut by where
    the start happens to lie.
    """
    spent = half_decade_flops(run)[1:]
    return float(np.polyfit(range(len(spent)), np.log(spent), 1)[0]) if len(spent) >= 2 and min(spent) > 0 else None


def claim_3(ladder: Ladder) -> list[Claim]:
    """A row per rung, of SFT at a rate low enough to resolve the half-decades."""
    found = []
    for (rung, _), arms in by_rung(ladder.part("decades")).items():
        slope = over_models(arms, decades_slope)
        found.append(
            judged(
                "SFT spends the same compute on every decade of the pass rate.",
                f"slope of log FLOPs per half-decade on its number, {rung}; margin ±ln 1.5",
                slope,
                (-DECADE_MARGIN, DECADE_MARGIN),
                Answers("contradicted: later ones cost more", "supported", "contradicted: later ones cost less"),
                max(len(arms), 2),
                f"{slope.n} of {len(arms)} pretraining seeds crossed at least three half-decades",
                3,
            )
        )
    return found


# ---- claims 4 and 5: whose gradients are noisy, and when -------------------------------------------------------------


def ratio_of_scales(ladder: Ladder, reason: str, first: tuple[str, str], second: tuple[str, str]) -> Estimate:
    """Noise scale at one (rung, estimator) over that at another, over the pretraining seeds that have both."""
    scales = [
        {at.model: at.scale(estimator) for at in ladder.noise_of(reason) if at.rung == rung} for rung, estimator in (first, second)
    ]
    pairs = [(scales[0][model], scales[1][model]) for model in scales[0] if model in scales[1]]
    return ratio_over_seeds([a.mean / b.mean for a, b in pairs if a and b])


def mean_pass_rates(ladder: Ladder, reason: str, estimators: Sequence[str]) -> dict[str, float]:
    """Rung -> mean pass rate over its pretraining seeds, ascending; of the rungs at which all the estimators have a scale."""
    rates: dict[str, list[float]] = defaultdict(list)
    for at in ladder.noise_of(reason):
        if all(at.scale(estimator) for estimator in estimators):
            rates[at.rung].append(at.pass_rate)
    return dict(sorted(((rung, float(np.mean(found))) for rung, found in rates.items()), key=lambda item: item[1]))


def claim_4(ladder: Ladder) -> list[Claim]:
    """Estimators with and without a baseline, the highest rung over the highest of those below `LOW_PASS_RATE`."""
    found = []
    for reason in ("latent", "unacquired"):
        for estimator in ("reinforce", "rloo", "grpo"):
            rates = mean_pass_rates(ladder, reason, [f"{estimator}_expected"])
            early = [rung for rung, rate in rates.items() if rate < LOW_PASS_RATE]
            if not early or len(early) == len(rates):
                continue
            late = list(rates)[-1]
            ratio = ratio_of_scales(ladder, reason, *((rung, f"{estimator}_expected") for rung in (late, early[-1])))
            statistic = (
                f"noise scale in rollouts at p = {rates[late]:.2f} over that at {rates[early[-1]]:.3f}, {estimator}, {reason}"
            )
            text = f"RL gradients are noisiest early: there is less noise at the highest pass rate than below {LOW_PASS_RATE:g}."
            found.append(judged(text, statistic, ratio, (1, 1), LESS_IS_SUPPORT, 2, "one pretraining seed", 4))
    return found


def claim_5(ladder: Ladder) -> list[Claim]:
    """How noise grows from the rung nearest to 0.1 to the highest, with label noise over without."""
    text = "SFT gradients are noisiest late because of irreducible entropy: with label noise they get noisier, without they do not."
    clean, *noisy = labels = ("sft_0", "sft_0.05", "sft_0.2")
    rates = mean_pass_rates(ladder, "latent", labels)
    if len(rates) < 2 or list(rates.values())[-1] < 0.5:
        return []
    early, late = min(rates, key=lambda rung: abs(math.log(rates[rung] / 0.1))), list(rates)[-1]
    rises = {label: ratio_of_scales(ladder, "latent", (late, label), (early, label)) for label in labels}
    places = f"from p = {rates[early]:.2f} to {rates[late]:.2f}"
    statistic = f"rise of the noise scale without label noise {places}"
    found = [judged(text, statistic, rises[clean], (1, 1), LESS_IS_SUPPORT, 2, "one pretraining seed", 5)]
    for label in noisy:
        statistic = f"rise with label noise {label.removeprefix('sft_')} over the rise without, {places}"
        both = ratio_over_seeds([a / b for a, b in zip(rises[label].values, rises[clean].values, strict=False)])
        found.append(judged(text, statistic, both, (1, 1), MORE_IS_SUPPORT, 2, "one pretraining seed", 5))
    return found


# ---- claim 9: nothing but what is latent -----------------------------------------------------------------------------


def acquired_share(run: MeasuredRun, rollouts: float) -> float | None:
    """Of the training problems too rare to be sampled, with so many rollouts in all, the share that ended above `ACQUIRED_PASS_RATE`."""
    before, after = pass_rates(run.run, "train")
    rare = before < 1 / (ROLLOUTS_MARGIN * max(rollouts / len(before), 1))
    return float((after[rare] > ACQUIRED_PASS_RATE).mean()) if rare.any() else None


def claim_9(ladder: Ladder) -> list[Claim]:
    """A row per unacquired rung and arm: RL, a random reward, and SFT, which shows whether the same problems can be learned."""
    found, arms_by_place = [], by_rung(ladder.part("acquire"))
    for (rung, name), arms in arms_by_place.items():
        of_rl = [
            arm
            for (other, _), others in arms_by_place.items()
            for arm in others
            if other == rung and arm.regime == "rl" and not arm.is_control
        ]
        if not of_rl:
            continue
        rollouts = float(np.mean([run.value(SAMPLES) for arm in of_rl for run in arm.runs]))
        share = over_models(arms, lambda run, rollouts=rollouts: acquired_share(run, rollouts))
        claim = judged(
            "RLVR only elicits: of unacquired problems too rare for their rollouts, at most 5 % are acquired.",
            f"share of training problems with p < 1/({ROLLOUTS_MARGIN} x the rollouts of RL) that reach p > {ACQUIRED_PASS_RATE}, {name}, {rung}",
            share,
            (ACQUIRED_SHARE, ACQUIRED_SHARE),
            LESS_IS_SUPPORT,
            max(len(arms), 2),
            f"{share.n} of {len(arms)} pretraining seeds have such problems",
            9,
        )
        gained = over_models(arms, lambda run: run.value(ABSORBED_BITS)).interval
        if arms[0].regime == "sft":
            claim = replace(claim, verdict="control: what labels of the same problems teach")
        elif arms[0].is_control:
            claim = replace(claim, verdict="control: a random reward, for comparison")
        elif claim.verdict == LESS_IS_SUPPORT.below and not (gained and gained[0] > 0):
            why = "an arm that learns nothing scores the same, and this one is not known to have gained a bit"
            claim = replace(claim, verdict=f"undecided: {why}")
        found.append(claim)
    return found


CLAIMS: Sequence[Callable[[Ladder], list[Claim]]] = (claim_1, claim_3, claim_4, claim_5, claim_9)


def claims_of(ladder: Ladder) -> list[Claim]:
    """All that the recorded parts can test."""
    return [claim for test in CLAIMS for claim in test(ladder)]
