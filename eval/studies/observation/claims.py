"""The statistics of README.md: what bits predict, what the optimizer's path predicts, and what each question is answered with."""

import itertools
import math
from dataclasses import dataclass, field, replace

import numpy as np

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import Estimate, number_text, over_seeds
from bitsample_llm.report.paths import PathRuns, path_factor
from bitsample_llm.report.prices import HALF, PricedRun
from bitsample_llm.report.remedies import Factor

SPOKEN = {
    "verdict": "the verdict",
    "verdict_pairs": "the verdict, groups of two",
    "reinforce": "the verdict, no baseline",
    "place": "the first error's place",
    "place_and_digit": "its place and the right digit",
    "answer": "the right answer afterwards",
    "label": "labels without rollouts",
    "teacher": "a teacher's predictions",
    "verdict_same_rate": "the verdict, at the labels' rate",
    "place_same_rate": "the first error's place, at the labels' rate",
    "teacher_same_rate": "a teacher's predictions, at the labels' rate",
    "reply_answer": "reply to predict: right answer",
    "reply_verdict": "reply to predict: verdict",
}
PLAIN_OF = dict.fromkeys(SPOKEN, "verdict")
ROW = ("verdict", "place", "place_and_digit", "answer")  # ever more is told of the same rollouts
OFFERED = dict(zip(ROW, ("verdict", "first_error", "first_error_label", "answer"), strict=True)) | {
    "label": "answer",
    "reinforce": "verdict",
}
MATCHED = "verdict_pairs"  # plain GRPO with the batch, the groups and the rate of the arms of the row
PRICED = ("reinforce", *ROW[1:], "label", "teacher")
SAME_RATE = ("verdict_same_rate", "place_same_rate", "teacher_same_rate")  # at the unacquired start
REPLIES = ("reply_answer", "reply_verdict")
HELPS, CLOSE, SAME_PATH, FOLLOWS, MOVES, MUCH = 1.1, 1.5, 2.0, 2 / 3, 0.25, 0.05
STEPS = 64  # of the mean over the way
FEWEST_RUNS = 2  # per pretraining seed, for a verdict on a factor


@dataclass(frozen=True)
class Found(PathRuns):
    """The runs, with their optimizers' paths, and what a rollout offers at each start: (start, model) -> convention -> observation -> bits."""

    offered: dict[tuple[str, str], dict[str, dict[str, float]]] = field(default_factory=dict)

    @property
    def latent(self) -> "Found":
        """The starts at which prices are measured."""
        return replace(self, runs=[run for run in self.runs if run.tags["reason"] == "latent"])

    def bits(self, rung: str, arm: str, convention: str = "essay") -> float:
        """What one rollout offers in an arm of the row, mean over models."""
        return float(np.mean([told[convention][OFFERED[arm]] for (of, _), told in self.offered.items() if of == rung]))


def live_share(arm: str, step_pass_rates: np.ndarray, group: int) -> float:
    """Probability that a group of rollouts of one problem moves the weights: what is told of them differs, or, for labels, there is something to learn."""
    reached = np.cumprod(np.concatenate([[1.0], step_pass_rates]))
    p = reached[-1]
    if arm in ("verdict", MATCHED):
        return 1 - p**group - (1 - p) ** group
    if arm == "reinforce":
        return 1 - (1 - p) ** group
    if arm == "place":
        return 1 - p**group - float(((reached[:-1] * (1 - step_pass_rates)) ** group).sum())
    return 1 - p**group if arm == "place_and_digit" else 1.0


def predicted_price(found: Found, run: PricedRun, share: float = HALF.share) -> float:
    """FLOPs per unit of learning rate and live update, mean over the way to a share of the bits in equal steps of the log-probabilities: what is drawn until an
    update is live, and the update, at what they cost in the run.
    """
    path, settings = found.path(run), run.settings
    batch, group = settings["per_device_train_batch_size"], settings.get("num_generations", 1)
    drawn = path.flops["prefill"] + path.flops["decode"]
    update = (sum(path.flops.values()) - drawn) / max(path.live_updates[-1], 1)
    prices = []
    for step in (np.arange(STEPS) + 0.5) / STEPS * share:
        rates = [np.minimum(np.exp2(np.array(of_answer) * (1 - step)), 1.0) for of_answer in path.token_log2_p]
        live = 1 - (1 - np.mean([live_share(run.arm, of_answer, group) for of_answer in rates])) ** (batch // group)
        prices.append(drawn / path.num_samples * batch / live + update)
    return float(np.mean(prices)) / settings["learning_rate"]


def predicted_factor(found: Found, rung: str, arm: str, plain: str = MATCHED) -> float:
    """What an arm saves if the path is all that counts: geometric mean over models."""
    logs = {name: [] for name in (plain, arm)}
    for name, values in logs.items():
        for model in sorted({run.model for run in found.of(rung, name)}):
            values.append(np.mean([math.log(predicted_price(found, run)) for run in found.of(rung, name) if run.model == model]))
    return math.exp(np.mean(logs[plain]) - np.mean(logs[arm]))


def scaled(saved: Factor, scale: float) -> Estimate:
    """A factor over a number."""
    estimate = saved.estimate
    if estimate.mean is None:
        return estimate
    return Estimate(estimate.mean / scale, tuple(end / scale for end in estimate.interval), estimate.n)


def bits_exponent(found: Found, rung: str, arm: str, plain: str = MATCHED) -> Estimate:
    """ln of an arm's factor over ln of the ratio of offered bits: 1 where FLOPs fall as bits rise, 0 where bits do not matter."""
    estimate, ratio = found.factor(rung, arm, HALF, plain).estimate, math.log(found.bits(rung, arm) / found.bits(rung, "verdict"))
    if estimate.mean is None:
        return estimate
    ends = tuple(math.log(end) / ratio if 0 < end < math.inf else math.copysign(math.inf, end - 1) for end in estimate.interval)
    return Estimate(math.log(estimate.mean) / ratio, ends, estimate.n)


def end_gains(found: Found, rung: str, arm: str, of_bits: bool) -> dict[tuple[str, int], float]:
    """What each run gained from its start to its end: in mean log2 p (a run that diverged: -20 bits), or in pass rate."""
    runs = found.of(rung, arm)
    if of_bits:
        return {(run.model, run.seed): max(run.log2_p[-1], -20.0) - run.log2_p[0] for run in runs}
    return {(run.model, run.seed): run.pass_rate[-1] - run.pass_rate[0] for run in runs}


def end_difference(found: Found, rung: str, arm: str, plain: str, of_bits: bool = False) -> Estimate:
    """Gain of an arm minus that of another one, paired by model and seed."""
    gains, others = (end_gains(found, rung, name, of_bits) for name in (arm, plain))
    return over_seeds([gains[key] - others[key] for key in sorted(gains.keys() & others.keys())])


def claims_of(found: Found) -> list[Claim]:
    """Every question of README.md at every start whose runs are there."""
    priced = found.latent.rungs
    return [claim for rung in found.rungs for claim in (priced_claims if rung in priced else end_claims)(found, rung)]


def priced_claims(found: Found, rung: str) -> list[Claim]:
    """The questions at a start where prices are measured."""
    arms, claims = found.arms(rung), []
    few = "fewer than two runs of an arm per pretraining seed"

    def ask(
        text: str, statistic: str, estimate: Estimate, margins: tuple[float, float], answers: Answers, saved: Factor, *needed: str
    ):
        enough = all(
            len([run for run in found.of(rung, arm) if run.model == model]) >= FEWEST_RUNS
            for arm in needed
            for model in {run.model for run in found.of(rung, arm)}
        )
        estimate = estimate if enough else Estimate(estimate.mean, None, estimate.n)
        claims.append(
            judged(text, f"{rung}: {statistic}", estimate, margins, answers, 1, f"no price ({saved.text()})" if enough else few)
        )

    pays = Answers("yes", "no: between", "no, it costs more")
    limits = f"thresholds {HELPS:g} and 1/{HELPS:g}"
    for arm, plain in itertools.product((arm for arm in PRICED if arm in arms), ("verdict", MATCHED)):
        saved, over = found.factor(rung, arm, HALF, plain), f"FLOPs of {SPOKEN[plain]} over those of {SPOKEN[arm]}, {HALF.name}"
        ask(f"Does it save FLOPs: {SPOKEN[arm]}?", f"{over}; {limits}", saved.estimate, (1 / HELPS, HELPS), pays, saved, arm, plain)
    for arm, plain in itertools.product((arm for arm in PRICED if {arm, MATCHED} <= set(arms)), (MATCHED, "verdict")):
        saved, over = found.factor(rung, arm, HALF, plain), f"FLOPs of {SPOKEN[plain]} over those of {SPOKEN[arm]}, {HALF.name}"
        form = predicted_factor(found, rung, arm, plain)
        close = Answers("no, it saves more", f"yes, within {CLOSE:g}", "no, it saves less")
        text = f"Is that what an equal path of the optimizer predicts, {number_text(form)} ({SPOKEN[arm]})?"
        ask(text, f"{over}, over the form; within {CLOSE:g}", scaled(saved, form), (1 / CLOSE, CLOSE), close, saved, arm, plain)
        if arm in ROW:
            follows = Answers("yes", "", "no, less than the bits")
            text = f"Do FLOPs fall as offered bits rise ({SPOKEN[arm]}: {number_text(found.bits(rung, arm) / found.bits(rung, 'verdict'))} times the bits)?"
            ask(
                text,
                f"ln factor over {SPOKEN[plain]} over ln bits; threshold {number_text(FOLLOWS)}",
                bits_exponent(found, rung, arm, plain),
                (FOLLOWS, FOLLOWS),
                follows,
                saved,
                arm,
                plain,
            )
        went = path_factor(found, rung, arm, plain)
        path = Answers("no, a shorter one", f"yes, within {SAME_PATH:g}", "no, a longer one")
        statistic = f"rate x live updates of {SPOKEN[plain]} over those of {SPOKEN[arm]}, {HALF.name}; within {SAME_PATH:g}"
        ask(
            f"Is the optimizer's path that of the verdict: {SPOKEN[arm]}?",
            statistic,
            went.estimate,
            (1 / SAME_PATH, SAME_PATH),
            path,
            went,
            arm,
            plain,
        )
    for less, more in (*itertools.pairwise(ROW), ("answer", "label")):
        if {less, more} <= set(arms) and less != "verdict":
            saved = found.factor(rung, more, HALF, less)
            statistic = f"FLOPs of {SPOKEN[less]} over those of {SPOKEN[more]}, {HALF.name}; thresholds {HELPS:g} and 1/{HELPS:g}"
            ask(
                f"Does the next of the row save more: {SPOKEN[more]}?",
                statistic,
                saved.estimate,
                (1 / HELPS, HELPS),
                pays,
                saved,
                less,
                more,
            )
    return claims + reply_claims(found, rung)


def reply_claims(found: Found, rung: str) -> list[Claim]:
    """Whether predicting the environment's reply changes the attempt."""
    moved = Answers("yes, for the better", "no", "yes, for the worse")
    gains = {arm: over_seeds(list(end_gains(found, rung, arm, True).values())) for arm in REPLIES if arm in found.arms(rung)}
    statistic = f"{rung}: mean log2 p of the attempt in the end, minus before; thresholds {MOVES:g} bits"
    return [
        judged(f"Does it change the attempt: {SPOKEN[arm]}?", statistic, gain, (-MOVES, MOVES), moved, 2, "too few runs")
        for arm, gain in gains.items()
    ]


def end_claims(found: Found, rung: str) -> list[Claim]:
    """The questions at a start where nothing keeps half of the bits: what the same FLOPs gained."""
    claims, more = [], Answers("yes", f"no: within {MUCH:g}", "no, less")
    for arm, plain in (
        *((arm, "verdict") for arm in PRICED),
        *((arm, "answer") for arm in SAME_RATE),
        ("answer", "place_and_digit"),
        ("label", "answer"),
        ("teacher", "answer"),
    ):
        if {arm, plain} <= set(found.arms(rung)):
            statistic = f"{rung}: mean p gained by {SPOKEN[arm]} minus by {SPOKEN[plain]}, same FLOPs; thresholds {MUCH:g}"
            gained = end_difference(found, rung, arm, plain)
            claims.append(
                judged(
                    f"Does {SPOKEN[arm]} gain more than {SPOKEN[plain]}?", statistic, gained, (-MUCH, MUCH), more, 2, "too few runs"
                )
            )
    return claims + reply_claims(found, rung)
