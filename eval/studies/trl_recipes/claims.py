"""The statistics of README.md: factors against one base setting, closed forms of what they cost, how much each choice moves the price, and what chance does."""

import math
from collections.abc import Sequence

import numpy as np

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import UNMEASURED, Estimate, number_text, ratio_over_seeds
from bitsample_llm.report.prices import HALF, PricedRun, Target
from bitsample_llm.report.remedies import prices_of
from bitsample_llm.report.remedy_runs import RemedyRuns
from bitsample_llm.report.study import Table

BASE = "plain"
LOSSES = ("grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo", "gmpo")
# What is chosen: the arms of each choice with what they are called; the first is what the others are held against.
CHOICES = {
    "loss, one pass": {BASE: "dapo", **{f"loss_{loss}": loss for loss in LOSSES}},
    "loss, four passes": {"four_passes": "dapo", **{f"four_passes_{loss}": loss for loss in LOSSES if loss != "bnpo"}},
    "passes over each batch": {BASE: "1", "two_passes": "2", "four_passes": "4", "slow_four_passes": "4, a third of the rate"},
    "group size": {"groups_of_2": "2", "groups_of_4": "4", BASE: "8", "groups_of_16": "16", "groups_of_32": "32"},
    "groups per update": {BASE: "1", "four_groups": "4"},
    "scale of advantages, four groups": {"four_groups": "group", "four_groups_batch": "batch", "four_groups_none": "none"},
    "scale of advantages, one group": {BASE: "group", "scale_none": "none"},
    "learning rate": {"third_of_the_rate": "a third", BASE: "3e-4", "three_times_the_rate": "three times"},
    "KL penalty": {BASE: "0", "beta": ".04"},
    "dead batches": {BASE: "skipped", "not_skipped": "trained on, TRL's default"},
    "nothing but the seeds": {BASE: "seeds 1 to 3", "plain_again": "seeds 4 to 6"},
    "trainer": {BASE: "GRPO", "rloo": "RLOO", "reinforce": "REINFORCE", "rejection": "rejection SFT", "dpo": "DPO in rounds", "kto": "KTO in rounds", "online_dpo": "online DPO"},
}  # fmt: skip
# Choices whose levels are predicted to cost the same as the first.
SAME = ("loss, one pass", "loss, four passes", "scale of advantages, four groups", "scale of advantages, one group", "nothing but the seeds")  # fmt: skip
SPOKEN = {BASE: "base setting"} | {
    arm: f"{choice}: {level}" for choice, levels in CHOICES.items() for arm, level in levels.items() if arm != BASE
}
SPOKEN |= {"four_passes": "passes over each batch: 4", "four_groups": "groups per update: 4"}
CLOSE, PAYS = 1.25, 1.1
# FLOPs per rollout of three digits: drawing it, one pass of training, one pass of scoring
DRAW, TRAIN, SCORE = 27.4e6, 89.0e6, 29.6e6
NUM_SHUFFLES = 2_000


def informative(pass_rate: np.ndarray, group_size: int, has_baseline: bool = True) -> np.ndarray:
    """Probability that a group teaches: its verdicts differ, or without a baseline there is a pass."""
    return 1 - (1 - pass_rate) ** group_size - has_baseline * pass_rate**group_size


def predicted_price(
    pass_rate: float, group_size: int = 8, passes: int = 1, scored: bool = False, groups: int = 1, skips: bool = True
) -> float:
    """FLOPs per informative update, averaged over log p from the start to half of the bits, if each of them does as much as any other."""
    on_the_way = np.geomspace(pass_rate, pass_rate**0.5, 50)
    wait = 1 / (1 - (1 - informative(on_the_way, group_size)) ** groups)  # batches until one teaches
    drawn = DRAW + SCORE * (scored or passes > 1)
    return float(np.mean(groups * group_size * (drawn * wait / passes + TRAIN * (1 if skips else wait))))


PREDICTED = {  # what differs from the base setting
    **{f"groups_of_{size}": {"group_size": size} for size in (2, 4, 16, 32)},
    **{"two_passes": {"passes": 2}, "four_passes": {"passes": 4}, "beta": {"scored": True}, "rloo": {"scored": True}},
    **{"four_groups": {"groups": 4}, "not_skipped": {"skips": False}, "reinforce": {}, "rejection": {}},
}


def predicted_factor(pass_rate: float, arm: str) -> float | None:
    """Of the closed form; None where it says nothing."""
    known = PREDICTED.get(arm)
    return None if known is None else predicted_price(pass_rate) / predicted_price(pass_rate, **known)


def over_chance(runs: Sequence[PricedRun], arms: Sequence[str], rung: str, target: Target = HALF) -> float | None:
    """Share of shuffles of the prices among the arms, within each model and seed, that part the arms as far as they are (medians over seeds, mean ln over models);
    None where the arms have no seeds in common, or one of them has no price.
    """
    ln_price = {(run.arm, run.model, run.seed): math.log(run.price(target)[0]) for run in runs if run.rung == rung}
    cells = [[(m, s) for a, m, s in ln_price if a == arm] for arm in arms]
    shared = sorted(set.intersection(*map(set, cells)))
    by_arm = [prices_of(runs, rung, arm, target) for arm in arms]
    if not shared or any(prices.median(model) is None for prices in by_arm for model in prices.by_model):
        return None
    models = sorted({model for model, _ in shared})
    # of each model, arms by seeds; lower bounds stand for prices, since they lie above the medians
    tables = [np.array([[ln_price[arm, m, s] for m, s in shared if m == model] for arm in arms]) for model in models]
    rng = np.random.default_rng(0)
    observed, *shuffled = (
        np.ptp(np.mean([np.median(table, axis=1) for table in drawn], axis=0))
        for drawn in [tables, *([rng.permuted(table, axis=0) for table in tables] for _ in range(NUM_SHUFFLES))]
    )
    return float(np.mean(np.array(shuffled) >= observed - 1e-12))


def paired_ratios(found: RemedyRuns, rung: str, arm: str, target: Target = HALF) -> list[float]:
    """FLOPs of the base setting over those of an arm for each model and seed at which both have a price."""
    known = [
        {(run.model, run.seed): run.price(target)[0] for run in found.of(rung, name) if run.price(target)[1]}
        for name in (BASE, arm)
    ]
    return [known[0][key] / known[1][key] for key in sorted(known[0].keys() & known[1].keys())]


def pairs_table(found: RemedyRuns) -> Table:
    """The factor of each recipe by pairs."""
    rows = [["start", "recipe", "pairs", "factor", "least", "most", "half kept", "half in the end", "log2 p in the end"]]
    for rung in found.rungs:
        for arm in found.arms(rung):
            runs, ratios = found.of(rung, arm), paired_ratios(found, rung, arm)
            ends = [number_text(of(ratios)) if ratios else UNMEASURED for of in (min, max)]
            factor = ratio_over_seeds(ratios).text() if ratios else UNMEASURED
            kept, held = (sum(of(run) for run in runs) for of in (lambda run: run.price(HALF)[1], lambda run: run.has_at_end(HALF)))
            last = number_text(float(np.mean([run.log2_p[-1] for run in runs])))
            rows.append(
                [rung, SPOKEN[arm], str(len(ratios)), factor, *ends, f"{kept} of {len(runs)}", f"{held} of {len(runs)}", last]
            )
    note = "Pairs: same model and training seed, both kept half of the bits. Geometric mean with the 95 % t interval over pairs, as if models were a seed more; runs of one seed draw the same rollouts as long as their updates agree. In the end: when the budget was spent, or 90 % of the bits had been kept."
    return Table("By pairs, and what is left in the end", rows, note)


def spread_table(found: RemedyRuns) -> Table:
    """How much each choice moves the price."""
    rows = [["start", "choice", "levels", "cheapest", "dearest", "dearest over cheapest", "by chance as much"]]
    for rung in found.rungs:
        for choice, levels in CHOICES.items():
            arms = [arm for arm in levels if arm in found.arms(rung)]
            if len(arms) < 2:
                continue
            prices = {arm: prices_of(found.runs, rung, arm, HALF) for arm in arms}
            least = {arm: float(np.exp(np.mean([np.log(of.least(model)) for model in of.by_model]))) for arm, of in prices.items()}
            cheapest, dearest = min(least, key=least.get), max(least, key=least.get)
            chance = over_chance(found.runs, arms, rung)
            is_bound = "> " * any(of.median(model) is None for of in prices.values() for model in of.by_model)
            text = f"{is_bound}{number_text(least[dearest] / least[cheapest])}"
            rows.append([rung, choice, str(len(arms)), levels[cheapest], levels[dearest], text, number_text(chance)])
    note = "Prices to half of the bits; > where a level has no price at a model, and what it is known to exceed stands for it. By chance as much: share of 2,000 shuffles of the prices among the levels, within each model and seed, that part them as far."
    return Table("How much does each choice move the price?", rows, note)


def excluded(found: RemedyRuns, rung: str, arms: Sequence[str], target: Target = HALF) -> tuple[list[str], list[str], int]:
    """Arms whose interval lies above 1, those whose interval lies below it, and how many have one."""
    known = {arm: found.factor(rung, arm, target).estimate.interval for arm in arms}
    known = {arm: interval for arm, interval in known.items() if interval is not None}
    return [a for a, (low, _) in known.items() if low > 1], [a for a, (_, high) in known.items() if high < 1], len(known)


def winners(found: RemedyRuns, rung: str, target: Target = HALF) -> list[str]:
    """Arms that are cheaper than the base setting by their whole interval and at every model, the best first."""
    above, _, _ = excluded(found, rung, [arm for arm in found.arms(rung) if arm != BASE], target)
    factors = {arm: found.factor(rung, arm, target).estimate for arm in above}
    return sorted((arm for arm, saved in factors.items() if min(saved.values) > 1), key=lambda arm: -factors[arm].mean)


def ask(
    found: RemedyRuns, rung: str, arm: str, what: str, limit: float, answers: Answers, plain: str = BASE, scale: float = 1.0
) -> list[Claim]:
    """A claim on FLOPs of `plain` over those of an arm, over `scale`, with thresholds `limit` and its inverse; none where one of the two was not run."""
    if not {arm, plain} <= {*found.arms(rung)}:
        return []
    saved = found.factor(rung, arm, HALF, plain)
    estimate = saved.estimate
    if estimate.interval is not None:
        ends = tuple(end / scale for end in estimate.interval)
        estimate = Estimate(estimate.mean / scale, ends, estimate.n, tuple(value / scale for value in estimate.values))
    over = f", over {scale:.3g} of the closed form" * (scale != 1.0)
    statistic = (
        f"{rung}: FLOPs of {SPOKEN[plain]} over those with it, {HALF.name}{over}; thresholds {limit:.3g} and {1 / limit:.3g}"
    )
    margins = 1 / limit, limit
    return [judged(f"{SPOKEN[arm]}: {what}?", statistic, estimate, margins, answers, 1, f"no price ({saved.text()})")]


def claims_of(found: RemedyRuns) -> list[Claim]:
    """Every question of README.md at every start whose runs are there."""
    claims = []
    same = Answers("no, it saves", "yes", "no, it costs more")
    pays = Answers("yes", "no: between", "no, it costs more")
    as_said = Answers("no, it is cheaper", "yes", "no, it is dearer")
    alike = {arm: next(iter(CHOICES[choice])) for choice in SAME for arm in CHOICES[choice]}
    for rung in found.rungs:
        for arm, plain in alike.items():
            claims += ask(found, rung, arm, "the same price", CLOSE, same, plain) if arm != plain else []
        for arm in (arm for arm in SPOKEN if alike.get(arm, arm) == arm and arm != BASE):
            claims += ask(found, rung, arm, "does it pay", PAYS, pays)
        for arm in PREDICTED:
            scale = predicted_factor(found.pass_rate(rung), arm)
            claims += ask(found, rung, arm, "as the closed form says", CLOSE, as_said, scale=scale)
    return claims
