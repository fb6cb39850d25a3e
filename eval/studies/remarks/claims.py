"""The statistics of README.md: what is told, in one way of learning, against what it costs; and one thing told, in two ways."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import Estimate, number_text
from bitsample_llm.report.paths import PathRuns, path_factor
from bitsample_llm.report.prices import HALF
from bitsample_llm.report.remedies import Factor

KINDS = ("verdict", "place", "place_and_digit", "answer")
SAID = dict(zip(KINDS, ("verdict", "place", "digit", "answer"), strict=True))  # digit: the place, too
BY_LABEL = {"verdict": "verdict_pairs", "place": "place", "place_and_digit": "place_and_digit", "answer": "answer"}
IN_CONTEXT = {kind: f"read_{kind}" for kind in KINDS}
NOW = "_now"  # the policy of the moment is the teacher, in place of the start
BY = {"": "", NOW: ", the teacher moving"}
SPOKEN = {
    "verdict": "verdict, GRPO",
    "verdict_pairs": "verdict, GRPO in pairs",
    "place": "place, GRPO",
    "place_and_digit": "digit, label",
    "answer": "answer, label",
    **{arm: f"{SAID[kind]}, read" for kind, arm in IN_CONTEXT.items()},
    **{f"{arm}{NOW}": f"{SAID[kind]}, read{BY[NOW]}" for kind, arm in IN_CONTEXT.items()},
    "read_as_trl": "digit, read, TRL's loss",
}
SHOWN = [arm for arm in SPOKEN if NOW not in arm and arm != "read_as_trl"]  # in figures of curves
PLAIN_OF = dict.fromkeys(SPOKEN, "verdict")
MATCHED = "verdict_pairs"  # with the batch and the groups of the arms that read
HELPS, CLOSE, SAME_PATH, FOLLOWS = 1.1, 1.5, 2.0, 2 / 3
FEWEST_RUNS = 2  # per pretraining seed, for a verdict


@dataclass(frozen=True)
class Found(PathRuns):
    """The runs, with their optimizers' paths and the lines of make_told.py."""

    told: list[dict] = field(default_factory=list)

    def bits(self, rung: str, kind: str, name: str = "in_context") -> float:
        """What a remark tells, mean over models: `offered`, or what make_told.py says of reading it."""
        of_rung = [line for line in self.told if line["rung"] == rung]
        return float(np.mean([line["offered"][kind] if name == "offered" else line["remarks"][kind][name] for line in of_rung]))


def bits_exponent(found: Found, rung: str, less: str, more: str, teacher: str = "") -> Estimate:
    """ln of FLOPs of who reads less over FLOPs of who reads more, over ln of the bits read: 1 where FLOPs fall as bits rise."""
    estimate = found.factor(rung, IN_CONTEXT[more] + teacher, HALF, IN_CONTEXT[less] + teacher).estimate
    ratio = math.log(found.bits(rung, more) / found.bits(rung, less))
    if estimate.mean is None:
        return estimate
    ends = sorted(
        math.copysign(math.inf, end - 1) if not 0 < end < math.inf else math.log(end) / ratio for end in estimate.interval
    )
    return Estimate(math.log(estimate.mean) / ratio, tuple(ends), estimate.n)


def claims_of(found: Found) -> list[Claim]:
    """Every question of README.md at every start whose runs are there."""
    return [claim for rung in found.rungs for claim in claims_at(found, rung)]


def claims_at(found: Found, rung: str) -> list[Claim]:
    """The questions at a start."""
    claims, arms = [], found.arms(rung)

    def ask(
        text: str, plain: str, arm: str, of_what: str, margins: tuple[float, float], answers: Answers, value: Factor, estimate=None
    ) -> None:
        """Ask of an amount that `plain` takes over that of `arm`; nothing where one of the two was not run."""
        if not {plain, arm} <= set(arms):
            return
        counts = Counter((run.arm, run.model) for name in (plain, arm) for run in found.of(rung, name))
        enough, estimate = min(counts.values()) >= FEWEST_RUNS, estimate or value.estimate
        estimate = estimate if enough else Estimate(estimate.mean, None, estimate.n)
        unmeasured = f"no price ({value.text()})" if enough else "fewer than two runs of an arm per pretraining seed"
        statistic = f"{rung}: {of_what} of {SPOKEN[plain]} over those of {SPOKEN[arm]}, {HALF.name}"
        claims.append(judged(text, statistic, estimate, margins, answers, 1, unmeasured))

    reading = [arm for arm in SPOKEN if arm.startswith("read_") and arm in arms]
    for arm, plain in itertools.product(reading, ("verdict", MATCHED)):
        pays, saved = Answers("yes", "no: between", "no, it costs more"), found.factor(rung, arm, HALF, plain)
        ask(
            f"Does it save FLOPs: {SPOKEN[arm]}?",
            plain,
            arm,
            f"FLOPs (thresholds {HELPS:g}, 1/{HELPS:g})",
            (1 / HELPS, HELPS),
            pays,
            saved,
        )
    for teacher, (less, more) in itertools.product(("", NOW), itertools.pairwise(KINDS)):
        pair, ratio = (
            [IN_CONTEXT[kind] + teacher for kind in (less, more)],
            number_text(found.bits(rung, more) / found.bits(rung, less)),
        )
        if set(pair) <= set(arms):
            text = f"Learned in one way, do FLOPs fall as bits rise, from {SAID[less]} to {SAID[more]} ({ratio} times the bits{BY[teacher]})?"
            what, follows = (
                f"ln of FLOPs, per ln of bits (threshold {number_text(FOLLOWS)}),",
                Answers("yes", "", "no, less than the bits"),
            )
            exponent = bits_exponent(found, rung, less, more, teacher)
            ask(text, *pair, what, (FOLLOWS, FOLLOWS), follows, found.factor(rung, pair[1], HALF, pair[0]), exponent)
    for teacher, kind in itertools.product(("", NOW), KINDS):
        read, way = IN_CONTEXT[kind] + teacher, BY_LABEL[kind]
        if {read, way} <= set(arms):
            same = Answers("yes, reading is cheaper", f"no, within {CLOSE:g}", "yes, reading is dearer")
            text = f"Does it matter how it is learned: {SAID[kind]}{BY[teacher]}?"
            ask(text, way, read, f"FLOPs (within {CLOSE:g})", (1 / CLOSE, CLOSE), same, found.factor(rung, read, HALF, way))
    for arm in reading * (MATCHED in arms):
        equal, went = (
            Answers("no, a shorter one", f"yes, within {SAME_PATH:g}", "no, a longer one"),
            path_factor(found, rung, arm, MATCHED),
        )
        what = f"rate x live updates (within {SAME_PATH:g})"
        ask(f"Is the optimizer's path that of GRPO: {SPOKEN[arm]}?", MATCHED, arm, what, (1 / SAME_PATH, SAME_PATH), equal, went)
    return claims
