"""The essay's claims that the ladder tests, each with its statistic and threshold; thresholds were committed before the runs."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bitsample_llm.estimators import wilson_interval
from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.columns import ABSORBED_BITS
from bitsample_llm.report.curve import evaluated_curve
from bitsample_llm.report.estimates import Estimate, over_seeds, ratio_over_seeds
from bitsample_llm.report.runs import Arm, MeasuredRun
from eval.studies.ladder.rungs import Ladder, by_rung, over_models

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
    """The instrument's own check, a row per arm. An arm that gained nothing does not test it, and SFT cannot: its ceiling is all that its labels' probabilities can gain."""
    text = "A sample tells at most -log2 p (a label) or H (a verdict): nothing learns more of random labels than its samples told."
    found = []
    for arm in ladder.part("memorise"):
        statistic = f"bits gained on memorised labels over the most that the run's samples told, {arm.name}, threshold 1"
        fraction = over_seeds([attained_fraction(run) for run in arm.runs])
        if arm.regime == "sft":
            found.append(
                Claim(text, statistic, fraction, "control: labels cannot gain more, by construction; what was attained", 1)
            )
        elif fraction.interval and fraction.interval[0] <= 0:
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


@dataclass(frozen=True)
class Compared:
    """Noise scales of an estimator at two rungs: their ratio over the pretraining seeds at which both are known.

    Attributes:
        pass_rates: at the first and at the second rung, mean over the pretraining seeds that have both.
        num_models: how many have both.
    """

    ratio: Estimate
    pass_rates: tuple[float, float]
    num_models: int

    @property
    def missing(self) -> str:
        """Why there is no verdict, where there is none."""
        return f"a noise scale is known at both for {self.ratio.n} of {self.num_models} pretraining seeds"


def compared(ladder: Ladder, reason: str, rungs: tuple[str, str], estimator: str) -> Compared:
    """The first rung over the second."""
    at = [{at.model: at for at in ladder.noise_of(reason) if at.rung == rung} for rung in rungs]
    models = [model for model in at[0] if model in at[1]]
    scales = [[of_rung[model].scale(estimator) for of_rung in at] for model in models]
    ratio = ratio_over_seeds([a.mean / b.mean for a, b in scales if a and b])
    pass_rates = tuple(float(np.mean([of_rung[model].pass_rate for model in models])) for of_rung in at)
    return Compared(ratio, pass_rates, len(models))


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
    text = f"RL gradients are noisiest early: there is less noise at the highest pass rate than below {LOW_PASS_RATE:g}."
    for reason in ("latent", "unacquired"):
        for estimator in ("reinforce", "rloo", "grpo"):
            rates = mean_pass_rates(ladder, reason, [f"{estimator}_expected"])
            early = [rung for rung, rate in rates.items() if rate < LOW_PASS_RATE]
            if not early or len(early) == len(rates):
                continue
            pair = compared(ladder, reason, (list(rates)[-1], early[-1]), f"{estimator}_expected")
            late, low = pair.pass_rates
            statistic = f"noise scale in rollouts at p = {late:.2f} over that at {low:.3f}, {estimator}, {reason}"
            needed = max(pair.num_models, 2)
            found.append(judged(text, statistic, pair.ratio, (1, 1), LESS_IS_SUPPORT, needed, pair.missing, 4))
    return found


def claim_5(ladder: Ladder) -> list[Claim]:
    """How noise grows from the rung nearest to 0.1 to the highest, with label noise over without."""
    text = "SFT gradients are noisiest late because of irreducible entropy: with label noise they get noisier, without they do not."
    clean, *noisy = labels = ("sft_0", "sft_0.05", "sft_0.2")
    rates = mean_pass_rates(ladder, "latent", labels)
    if len(rates) < 2 or list(rates.values())[-1] < 0.5:
        return []
    early, late = min(rates, key=lambda rung: abs(math.log(rates[rung] / 0.1))), list(rates)[-1]
    rises = {label: compared(ladder, "latent", (late, early), label) for label in labels}
    high, low = rises[clean].pass_rates
    places = f"from p = {low:.2f} to {high:.2f}"
    statistic = f"rise of the noise scale without label noise {places}"
    needed = max(rises[clean].num_models, 2)
    found = [judged(text, statistic, rises[clean].ratio, (1, 1), LESS_IS_SUPPORT, needed, rises[clean].missing, 5)]
    for label in noisy:
        statistic = f"rise with label noise {label.removeprefix('sft_')} over the rise without, {places}"
        both = ratio_over_seeds([a / b for a, b in zip(rises[label].ratio.values, rises[clean].ratio.values, strict=False)])
        found.append(judged(text, statistic, both, (1, 1), MORE_IS_SUPPORT, needed, rises[label].missing, 5))
    return found


# ---- claim 9: nothing but what is latent -----------------------------------------------------------------------------


def rollouts_on_each(arms: Sequence[Arm]) -> dict[str, float]:
    """Problem -> the rollouts that a run spent on it, mean over the runs."""
    runs = [run for arm in arms for run in arm.runs]
    total: Counter[str] = Counter()
    for run in runs:
        for row in run.run.table("prompts").select(["problem_id", "group_size"]).to_pylist():
            total[row["problem_id"]] += row["group_size"] or 0
    return {problem: num / len(runs) for problem, num in total.items()}


def rare_and_acquired(run: MeasuredRun, rollouts: dict[str, float]) -> tuple[int, int]:
    """Training problems too rare for the rollouts on them, and those of them that ended above `ACQUIRED_PASS_RATE`."""
    curve = evaluated_curve(run.run, "train")
    before, after = np.exp2(curve.log2_p_TP[[0, -1]])
    rare = before < [1 / (ROLLOUTS_MARGIN * max(rollouts.get(problem, 0.0), 1)) for problem in curve.problem_ids]
    return int(rare.sum()), int((after[rare] > ACQUIRED_PASS_RATE).sum())


def claim_9(ladder: Ladder) -> list[Claim]:
    """A row per unacquired rung and arm: RL, a random reward, and SFT, which shows whether the same problems can be learned. Problems of all
    pretraining seeds are counted together: there are few, and shares that are all 0 have no spread.
    """
    found, arms_by_place = [], by_rung(ladder.part("acquire"))
    for (rung, name), arms in arms_by_place.items():
        of_rl: dict[str, list[Arm]] = defaultdict(list)  # by pretraining seed
        for (other, _), others in arms_by_place.items():
            for arm in others:
                if other == rung and arm.regime == "rl" and not arm.is_control:
                    of_rl[arm.tags.get("model", "")].append(arm)
        counts = []
        for arm in arms:
            if spent := of_rl.get(arm.tags.get("model", "")):
                rollouts = rollouts_on_each(spent)
                counts += [rare_and_acquired(run, rollouts) for run in arm.runs]
        if not counts:
            continue
        num_rare, num_acquired = map(sum, zip(*counts, strict=True))
        interval = wilson_interval(num_acquired, num_rare) if num_rare else None
        share = Estimate(num_acquired / num_rare if num_rare else None, interval, num_rare)
        claim = judged(
            "RLVR only elicits: of unacquired problems too rare for their rollouts, at most 5 % are acquired.",
            f"share of training problems with p < 1/({ROLLOUTS_MARGIN} x the rollouts of RL on each) that reach p > {ACQUIRED_PASS_RATE}, {name}, {rung}; n: problems, Wilson interval",
            share,
            (ACQUIRED_SHARE, ACQUIRED_SHARE),
            LESS_IS_SUPPORT,
            1,
            "there are no such problems",
            9,
        )
        gained = over_models(arms, lambda run: run.value(ABSORBED_BITS)).interval
        if arms[0].regime == "sft":
            claim = replace(claim, verdict="control: what labels of the same problems teach")
        elif arms[0].is_control:
            claim = replace(claim, verdict="control: a random reward, for comparison")
        elif claim.verdict != LESS_IS_SUPPORT.above and not (gained and gained[0] > 0):
            why = "an arm that learns nothing scores the same, and this one is not known to have gained a bit"
            claim = replace(claim, verdict=f"undecided: {why}")
        found.append(claim)
    return found


CLAIMS: Sequence[Callable[[Ladder], list[Claim]]] = (claim_1, claim_3, claim_4, claim_5, claim_9)


def claims_of(ladder: Ladder) -> list[Claim]:
    """All that the recorded parts can test."""
    return [claim for test in CLAIMS for claim in test(ladder)]
