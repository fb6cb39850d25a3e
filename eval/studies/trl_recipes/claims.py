"""The statistics of README.md: factors against one base setting, closed forms of what they cost, how much each choice moves the price, and what chance does."""

import math
from collections.abc import Sequence

import numpy as np

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import Estimate, number_text
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
    "learning rate": {"third_of_the_rate": "1/3", BASE: "1", "three_times_the_rate": "3"},
    "KL penalty": {BASE: "0", "beta": ".04"},
    "dead batches": {BASE: "skipped", "not_skipped": "trained on, TRL's default"},
    "trainer": {BASE: "GRPO", "rloo": "RLOO", "reinforce": "REINFORCE", "rejection": "rejection SFT", "dpo": "DPO in rounds", "kto": "KTO in rounds", "online_dpo": "online DPO"},
}  # fmt: skip
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


def over_chance(
    runs: Sequence[PricedRun], arms: Sequence[str], rung: str, target: Target = HALF
) -> tuple[float | None, float | None]:
    """Largest over smallest price of the arms (medians over training seeds, geometric mean over models), and the share of shuffles of the runs among the arms of each model that part them as far;
    None where an arm has no price.
    """
    by_arm = [prices_of(runs, rung, arm, target) for arm in arms]
    if any(prices.median(model) is None for prices in by_arm for model in prices.by_model) or len(by_arm) < 2:
        return None, None
    models = sorted(by_arm[0].by_model)
    # lower bounds stand for prices: they are above every median here
    logs = [[[math.log(price) for price, _ in prices.by_model[model]] for prices in by_arm] for model in models]

    def spread(logs_by_model) -> float:
        return float(np.ptp(np.mean([[np.median(seeds) for seeds in of_model] for of_model in logs_by_model], axis=0)))

    observed, rng = spread(logs), np.random.default_rng(0)
    shuffled = []
    for _ in range(NUM_SHUFFLES):
        drawn = []
        for of_model in logs:
            ends = np.cumsum([len(seeds) for seeds in of_model])[:-1]
            drawn.append(np.split(rng.permutation(np.concatenate(of_model)), ends))
        shuffled.append(spread(drawn))
    return math.exp(observed), float(np.mean(np.array(shuffled) >= observed - 1e-12))


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
            _, chance = over_chance(found.runs, arms, rung)
            is_bound = "> " * any(of.median(model) is None for of in prices.values() for model in of.by_model)
            text = f"{is_bound}{number_text(least[dearest] / least[cheapest])}"
            rows.append([rung, choice, str(len(arms)), levels[cheapest], levels[dearest], text, number_text(chance)])
    note = "Prices to half of the bits; > where a level has no price at a model, and what it is known to exceed stands for it. By chance as much: share of 2,000 shuffles of the runs among the levels that part them as far (of ln price, medians over training seeds)."
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


def claims_of(found: RemedyRuns) -> list[Claim]:
    """Every question of README.md at every start whose runs are there."""
    claims = []
    for rung in found.rungs:
        arms, pass_rate = found.arms(rung), found.pass_rate(rung)

        def ask(arm: str, text: str, margins: tuple[float, float], answers: Answers, plain: str = BASE, scale: float = 1.0) -> None:
            """A claim on the FLOPs of `plain` over those of the arm, over `scale`."""
            if not {arm, plain} <= {*arms}:  # noqa: B023 - asked within the loop
                return
            saved = found.factor(rung, arm, HALF, plain)  # noqa: B023
            estimate = saved.estimate
            if estimate.interval is not None:
                ends = tuple(end / scale for end in estimate.interval)
                estimate = Estimate(estimate.mean / scale, ends, estimate.n, tuple(value / scale for value in estimate.values))
            over = f", over {scale:.3g} of the closed form" * (scale != 1.0)
            statistic = f"{rung}: FLOPs of {SPOKEN[plain]} over those with it, {HALF.name}{over}; thresholds {margins[0]:.3g}, {margins[1]:.3g}"  # noqa: B023
            claims.append(judged(text, statistic, estimate, margins, answers, 1, f"no price ({saved.text()})"))

        same = Answers("no, it saves", "yes", "no, it costs more")
        for choice, plain in (("loss, one pass", BASE), ("loss, four passes", "four_passes"), ("scale of advantages, four groups", "four_groups"), ("scale of advantages, one group", BASE)):  # fmt: skip
            for arm in (arm for arm in CHOICES[choice] if arm != plain):
                ask(arm, f"{SPOKEN[arm]}: the same price?", (1 / CLOSE, CLOSE), same, plain)
        pays = Answers("yes", "no: between", "no, it costs more")
        for arm in (
            arm for arm in SPOKEN if arm != BASE and not arm.startswith(("loss_", "four_passes_", "four_groups_", "scale_"))
        ):
            ask(arm, f"{SPOKEN[arm]}: does it pay?", (1 / PAYS, PAYS), pays)
        as_said = Answers("no, it is cheaper", "yes", "no, it is dearer")
        for arm in PREDICTED:
            ask(
                arm, f"{SPOKEN[arm]}: as the closed form says?", (1 / CLOSE, CLOSE), as_said, scale=predicted_factor(pass_rate, arm)
            )
    return claims
