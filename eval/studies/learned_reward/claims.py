"""The statistics of README.md: factors, the closed form of the judge's own price, and what the policy made of the judge."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bitsample_llm.estimators import wilson_interval
from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import Estimate, number_text, over_seeds
from bitsample_llm.report.prices import HALF, NINE_TENTHS, PricedRun, Target
from bitsample_llm.report.remedies import Factor, Prices, factor, prices_of
from bitsample_llm.report.remedy_runs import RemedyRuns
from eval.studies.learned_reward.courses import PARTS, Course

GIVEN = " given"  # after an arm: what its runs paid once the judge had its verdicts
JUDGES = {"learned_16": 16, "learned_64": 64, "learned_256": 256}  # frozen ones: rollouts that they learned from
SPOKEN = {
    "outcome": "the outcome",
    "exact": "exact verdicts on steps",
    **{
        name: text
        for arm, num in JUDGES.items()
        for name, text in ((arm, f"judge of {num} rollouts"), (arm + GIVEN, f"judge of {num}, given"))
    },
    "learned_16_on": "judge of 16, learning on",
    "learned_64_on": "judge of 64, learning on",
    "learned_64_kl": "judge of 64, KL penalty",
    "shuffled": "judge of shuffled verdicts",
}
PLAIN_OF = dict.fromkeys(SPOKEN, "outcome")
REMEDIES = {"learned_16_on": "learned_16", "learned_64_on": "learned_64", "learned_64_kl": "learned_64"}
HELPS, CLOSE, MUCH = 1.1, 1.5, 0.1
# FLOPs per rollout of three digits: `flops/prefill` + `flops/decode` of drawing it, and `flops/reward_model` of a judge that reads it
DRAW_FLOPS, READ_FLOPS = 27.5e6, 29.6e6


@dataclass(frozen=True)
class Found(RemedyRuns):
    """The runs by their evaluations, judges once more as if they had been given, and by their updates."""

    courses: Sequence[Course] = ()

    def pairs(self, rung: str, arm: str) -> list[tuple[PricedRun, Course]]:
        """The runs of an arm at a start, each with its course."""
        courses = {course.key: course for course in self.courses if course.arm == arm}
        of_arm = sorted(self.of(rung, arm), key=lambda run: (run.model, run.seed))
        return [(run, courses[run.rung, run.model, run.seed]) for run in of_arm]


def found_of(runs: Sequence[PricedRun], courses: Sequence[Course]) -> Found:
    """The runs of the study with their courses."""
    first_flops = {(course.arm, *course.key): course.judged_flops for course in courses}
    given = [since(run, first_flops[run.arm, run.rung, run.model, run.seed]) for run in runs if run.arm in JUDGES]
    return Found([*runs, *(replace(run, arm=run.arm + GIVEN) for run in given)], SPOKEN, PLAIN_OF, courses=courses)


def since(run: PricedRun, flops: float) -> PricedRun:
    """The run as if these first FLOPs, in which the policy stood still, had not been spent."""
    kept = [0, *(index for index, spent in enumerate(run.flops) if spent > flops)]
    cut = {name: [getattr(run, name)[index] for index in kept] for name in ("updates", "samples", "log2_p", "pass_rate", "kl_bits")}
    return replace(run, flops=[0.0, *(run.flops[index] - flops for index in kept[1:])], useful_flops=[], seconds=[], **cut)


def as_good_as_exact(found: Found, rung: str, arm: str, target: Target) -> Factor:
    """What the closed form says that a judge as good as the verifier would cost, over what was paid."""
    by_model: dict[str, list[tuple[float, bool]]] = {}
    for run, _ in found.pairs(rung, "exact"):
        (flops, is_kept), (rollouts, _) = run.price(target), run.price(target, "samples")
        price = flops + JUDGES[arm] * (DRAW_FLOPS + READ_FLOPS) + rollouts * READ_FLOPS
        by_model.setdefault(run.model, []).append((price, is_kept))
    return factor(Prices(by_model), prices_of(found.runs, rung, arm, target))


def is_overrated(course: Course) -> bool:
    """Whether in the last fifth the judge takes more for right than is right."""
    return bool(course.part(course.judged_share, -1).mean() - course.part(course.true_share, -1).mean() > MUCH)


def is_unlearned(run: PricedRun, course: Course) -> bool:
    """Whether the held-out pass rate ends below what it was, and the judge has not seen it fall."""
    true, judged_shares = (
        [course.part(values, number).mean() for number in range(PARTS)] for values in (course.true_share, course.judged_share)
    )
    return bool(has_fallen(run) and judged_shares[-1] >= judged_shares[int(np.argmax(true))])


def has_fallen(run: PricedRun) -> bool:
    """Whether the held-out pass rate ends below what it was."""
    return max(run.pass_rate) - run.pass_rate[-1] > MUCH


def exploited_counts(pairs: Sequence[tuple[PricedRun, Course]]) -> tuple[int, int, int, int]:
    """How many runs have fallen, are overrated, are unlearned, and one of the last two."""
    flags = [(has_fallen(run), is_overrated(course), is_unlearned(run, course)) for run, course in pairs]
    fell, overrated, unlearned = (sum(flag[place] for flag in flags) for place in range(3))
    return fell, overrated, unlearned, sum(flag[1] or flag[2] for flag in flags)


def exploited_claim(found: Found, rung: str, arm: str) -> Claim:
    """Whether a reward is exploited in more than half of its runs."""
    pairs = found.pairs(rung, arm)
    num = exploited_counts(pairs)[-1]
    share = num / len(pairs)
    low, high = (float(end) for end in wilson_interval(num, len(pairs)))
    verdict = ("yes" if share > 0.5 else "no") + ", but the interval holds a half" * (low <= 0.5 <= high)
    statistic = f"{rung}: share of runs that are overrated or unlearned, more than .5"
    return Claim(f"Is the reward exploited, {SPOKEN[arm]}?", statistic, Estimate(share, (low, high), len(pairs)), verdict)


def paired_ends(found: Found, rung: str, arm: str, other: str) -> Estimate:
    """Held-out pass rate in the end, of an arm minus another one with the same start and seed."""
    ends = [{course.key: run.pass_rate[-1] for run, course in found.pairs(rung, name)} for name in (arm, other)]
    return over_seeds([ends[0][key] - ends[1][key] for key in sorted(ends[0].keys() & ends[1].keys())])


def drift(found: Found, rung: str, arm: str) -> Estimate:
    """Accuracy of a judge in the last fifth, minus that in the first."""
    return over_seeds([course.accuracy(-1) - course.accuracy(0) for _, course in found.pairs(rung, arm)])


def claims_of(found: Found) -> list[Claim]:
    """Every question of README.md at every start whose runs are there."""
    claims = []
    for rung in found.rungs:
        arms = set(found.arms(rung))
        pays = Answers("yes", "no: between", "no, it costs more")
        asked = [("exact", "Do exact verdicts on steps save FLOPs?", Answers("helps", "neither", "hurts"), 8)]
        asked += [(arm, f"Does a {SPOKEN[arm]} save FLOPs?", pays, None) for arm in ("learned_64", "learned_256", "learned_64_on")]
        asked += [
            (arm + GIVEN, f"Does a {SPOKEN[arm]} save FLOPs where it is given?", pays, None)
            for arm in ("learned_64", "learned_256")
        ]
        for arm, text, answers, number in asked:
            if {arm, "outcome"} <= arms:
                saved = found.factor(rung, arm, HALF)
                statistic = f"{rung}: FLOPs of plain GRPO over those with it, {HALF.name}; thresholds {HELPS:g} and 1/{HELPS:g}"
                claims.append(
                    judged(text, statistic, saved.estimate, (1 / HELPS, HELPS), answers, 1, f"no price ({saved.text()})", number)
                )
        for arm in (arm for arm in JUDGES if {arm, "exact"} <= arms):
            for target in (HALF, NINE_TENTHS):
                saved = as_good_as_exact(found, rung, arm, target)
                statistic = f"{rung}: price of a judge as good as the verifier over that of the {SPOKEN[arm]}, {target.name}; within {CLOSE:g}"
                answers = Answers("yes, better", "yes", "no, worse")
                text = f"Is the {SPOKEN[arm]} as good as the verifier?"
                claims.append(judged(text, statistic, saved.estimate, (1 / CLOSE, CLOSE), answers, 1, f"no price ({saved.text()})"))
        claims += [
            exploited_claim(found, rung, arm)
            for arm in SPOKEN
            if arm in arms and not arm.endswith(GIVEN) and arm not in ("outcome", "shuffled")
        ]
        for arm, plain in (pair for pair in REMEDIES.items() if set(pair) <= arms):
            text = f"Is the {SPOKEN[arm]}, better in the end than the {SPOKEN[plain]}?"
            statistic = f"{rung}: held-out pass rate in the end, difference by run; threshold {MUCH:g}"
            repaired = paired_ends(found, rung, arm, plain)
            claims.append(judged(text, statistic, repaired, (-MUCH, MUCH), Answers("yes", "no", "no, it harms"), 2, "too few runs"))
        for arm in (arm for arm in (*JUDGES, *REMEDIES) if arm in arms):
            statistic = f"{rung}: accuracy on steps, last fifth minus first; thresholds {MUCH:g}"
            answers = Answers("it rises", f"it stays within {MUCH:g}", "it falls")
            claims.append(
                judged(
                    f"How does the {SPOKEN[arm]} drift?",
                    statistic,
                    drift(found, rung, arm),
                    (-MUCH, MUCH),
                    answers,
                    2,
                    "too few runs",
                )
            )
        if "shuffled" in arms:
            kept = prices_of(found.runs, rung, "shuffled", HALF).kept_text()
            num, of = (int(word) for word in kept.split(" of "))
            low, high = (float(end) for end in wilson_interval(num, of))
            text = "Does a judge of shuffled verdicts teach?"
            claims.append(
                Claim(
                    text,
                    f"{rung}: share of runs that kept {HALF.name}",
                    Estimate(num / of, (low, high), of),
                    f"{'yes' if num else 'no'}: {kept}",
                )
            )
    return claims


def mean_text(values: Sequence[float | None]) -> str:
    """Mean over runs."""
    return number_text(float(np.mean(values))) if values and None not in values else number_text(None)
