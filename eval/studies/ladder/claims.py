"""The essay's claims that the ladder tests, each with its statistic and threshold; thresholds were committed before the runs."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.columns import ABSORBED_BITS, ABSORBED_ON, SAMPLES, SPLITS
from bitsample_llm.report.estimates import Estimate, over_seeds
from bitsample_llm.report.runs import Arm, MeasuredRun
from eval.studies.ladder.rungs import Ladder, both_gained, pass_rates

DECADE_MARGIN = math.log(1.5)  # claim 3: FLOPs of a half-decade of the pass rate over those of the half-decade before
LOW_PASS_RATE = 0.1  # claim 4: early
ACQUIRED_SHARE, ACQUIRED_PASS_RATE = 0.05, 0.1  # claim 9
ROLLOUTS_MARGIN = 10  # claim 9: so rare that a tenth of a pass was to be expected among all rollouts of the problem
ELSEWHERE = ("shifted", "other_operation", "other_format")  # claim 12
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


def claim_3(ladder: Ladder) -> list[Claim]:
    """A row per start, of SFT at a rate low enough to resolve the half-decades."""
    found = []
    for arm in ladder.part("long"):
        if arm.tags.get("read_for") != "decades":
            continue
        spent = [half_decade_flops(run)[1:] for run in arm.runs]  # the first is cut by where the start happens to lie
        slopes = [float(np.polyfit(range(len(f)), np.log(f), 1)[0]) for f in spent if len(f) >= 2 and min(f) > 0]
        found.append(
            judged(
                "SFT spends the same compute on every decade of the pass rate.",
                f"slope of log FLOPs per half-decade on its number, {arm.start}; margin ±ln 1.5",
                over_seeds(slopes),
                (-DECADE_MARGIN, DECADE_MARGIN),
                Answers("contradicted: later ones cost more", "supported", "contradicted: later ones cost less"),
                len(arm.runs),
                f"{len(slopes)} of {len(arm.runs)} seeds crossed at least three half-decades",
                3,
            )
        )
    return found


# ---- claims 4 and 5: whose gradients are noisy, and when -------------------------------------------------------------


def ratio_of_scales(first: Estimate, second: Estimate) -> Estimate:
    """first / second with the interval that both intervals allow, as wide as if they erred together."""
    (low, high), (other_low, other_high) = first.interval, second.interval
    return Estimate(first.mean / second.mean, (low / other_high, high / other_low), first.n)


def claim_4(ladder: Ladder) -> list[Claim]:
    """Estimators with and without a baseline, the highest rung over the highest of those below `LOW_PASS_RATE`."""
    found = []
    for reason in ("latent", "unacquired"):
        for estimator in ("reinforce", "rloo", "grpo"):
            measured = [at for at in ladder.noise_of(reason) if at.scale(f"{estimator}_expected")]
            early = [at for at in measured if at.pass_rate < LOW_PASS_RATE]
            if not early or len(early) == len(measured):
                continue
            ratio = ratio_of_scales(*(at.scale(f"{estimator}_expected") for at in (measured[-1], early[-1])))
            statistic = (
                f"noise scale in rollouts at p = {measured[-1].pass_rate:.2f} over that at {early[-1].pass_rate:.3f}, {estimator}, "
                f"{reason}, n prompts"
            )
            text = f"RL gradients are noisiest early: there is less noise at the highest pass rate than below {LOW_PASS_RATE:g}."
            found.append(judged(text, statistic, ratio, (1, 1), LESS_IS_SUPPORT, 1, "", 4))
    return found


def claim_5(ladder: Ladder) -> list[Claim]:
    """How noise grows from the rung nearest to 0.1 to the highest, with label noise over without."""
    text = "SFT gradients are noisiest late because of irreducible entropy: with label noise they get noisier, without they do not."
    clean, *noisy = labels = ("sft_0", "sft_0.05", "sft_0.2")
    rungs = [at for at in ladder.noise_of("latent") if all(at.scale(label) for label in labels)]
    if len(rungs) < 2 or rungs[-1].pass_rate < 0.5:
        return []
    early, late = min(rungs, key=lambda at: abs(math.log(at.pass_rate / 0.1))), rungs[-1]
    rises = {label: ratio_of_scales(late.scale(label), early.scale(label)) for label in labels}
    places = f"from p = {early.pass_rate:.2f} to {late.pass_rate:.2f}, n prompts"
    statistic = f"rise of the noise scale without label noise {places}"
    found = [judged(text, statistic, rises[clean], (1, 1), LESS_IS_SUPPORT, 1, "", 5)]
    for label in noisy:
        statistic = f"rise with label noise {label.removeprefix('sft_')} over the rise without, {places}"
        found.append(judged(text, statistic, ratio_of_scales(rises[label], rises[clean]), (1, 1), MORE_IS_SUPPORT, 1, "", 5))
    return found


# ---- claim 9: nothing but what is latent -----------------------------------------------------------------------------


def acquired_share(run: MeasuredRun) -> tuple[float | None, int]:
    """Of the training problems too rare to be sampled, the share that ended above `ACQUIRED_PASS_RATE`; and their number."""
    before, after = pass_rates(run.run, "train")
    rare = before < 1 / (ROLLOUTS_MARGIN * max(run.value(SAMPLES) / len(before), 1))
    return float((after[rare] > ACQUIRED_PASS_RATE).mean()) if rare.any() else None, int(rare.sum())


def claim_9(ladder: Ladder) -> list[Claim]:
    """A row per unacquired start and arm of RL, a random reward as its control. An arm that gained nothing does not test it."""
    found = []
    for arm in ladder.part("long"):
        if arm.regime != "rl" or arm.tags.get("reason") != "unacquired":
            continue
        shares, numbers = zip(*map(acquired_share, arm.runs), strict=True)
        claim = judged(
            "RLVR only elicits: of unacquired problems too rare for their rollouts, at most 5 % are acquired.",
            f"share of training problems with p < 1/({ROLLOUTS_MARGIN} x their rollouts) that reach p > {ACQUIRED_PASS_RATE}, "
            f"{arm.name}, {arm.start}: {np.mean(numbers):.0f} such problems per seed",
            over_seeds(shares),
            (ACQUIRED_SHARE, ACQUIRED_SHARE),
            LESS_IS_SUPPORT,
            len(arm.runs),
            f"{sum(share is not None for share in shares)} of {len(arm.runs)} seeds have such problems",
            9,
        )
        gained = arm.estimate(ABSORBED_BITS).interval
        if claim.verdict == LESS_IS_SUPPORT.below and arm.is_control:
            claim = replace(claim, verdict="control: a random reward, for comparison")
        elif claim.verdict == LESS_IS_SUPPORT.below and not (gained and gained[0] > 0):
            why = "an arm that learns nothing scores the same, and this one is not known to have gained a bit"
            claim = replace(claim, verdict=f"undecided: {why}")
        found.append(claim)
    return found


# ---- claim 12: are RL's bits worth more elsewhere? -------------------------------------------------------------------


def transfer(arm: Arm, split: str) -> dict[int, float]:
    """Bits absorbed on other problems per bit absorbed on held-out problems of the same kind, by seed."""
    gains = {run.seed: (run.value(ABSORBED_ON[split]), run.value(ABSORBED_BITS)) for run in arm.runs}
    return {seed: there / here for seed, (there, here) in gains.items() if there is not None and here > 0}


def claim_12(ladder: Ladder) -> list[Claim]:
    """GRPO minus SFT at the same gain, averaged over the rungs where every seed of both gained the target."""
    found = []
    for reason in ("latent", "unacquired"):
        arms = [arm for arm in ladder.part("cells") if arm.tags.get("reason") == reason]
        gained = both_gained(arms)
        for split in ELSEWHERE:
            pairs = [(transfer(grpo, split), transfer(sft, split)) for grpo, sft in gained]
            pairs = [(grpo, sft) for grpo, sft in pairs if grpo and sft]
            if not pairs:
                continue
            seeds = sorted(set.intersection(*({*grpo} & {*sft} for grpo, sft in pairs)))
            of_sft = np.mean([sft[seed] for _, sft in pairs for seed in seeds]) if seeds else math.nan
            found.append(
                judged(
                    f"RL's bits are worth more: at the same gain GRPO absorbs more than SFT on {SPLITS[split]}.",
                    f"bits absorbed there per held-out bit, grpo minus sft, mean of {len(pairs)} {reason} rungs (sft {of_sft:.2f})",
                    over_seeds([float(np.mean([grpo[seed] - sft[seed] for grpo, sft in pairs])) for seed in seeds]),
                    (0, 0),
                    MORE_IS_SUPPORT,
                    len(gained[0][0].runs),
                    "not every seed gained bits at every rung",
                    12,
                )
            )
    return found


CLAIMS: Sequence[Callable[[Ladder], list[Claim]]] = (claim_1, claim_3, claim_4, claim_5, claim_9, claim_12)


def claims_of(ladder: Ladder) -> list[Claim]:
    """All that the recorded parts can test."""
    return [claim for test in CLAIMS for claim in test(ladder)]
