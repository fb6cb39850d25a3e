"""The statistics of README.md: what is told, in one way of learning, against what it costs; and one thing told, in two ways."""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import Estimate, number_text
from bitsample_llm.report.paths import PathRuns, path_factor
from bitsample_llm.report.prices import HALF

KINDS = ("verdict", "place", "place_and_digit", "answer")
SAID = dict(
    zip(KINDS, ("the verdict", "the first error's place", "its place and the right digit", "the right answer"), strict=True)
)
BY_LABEL = {"verdict": "verdict_pairs", "place": "place", "place_and_digit": "place_and_digit", "answer": "answer"}
IN_CONTEXT = {kind: f"read_{kind}" for kind in KINDS}
SPOKEN = {
    "verdict": "the verdict, GRPO",
    "verdict_pairs": "the verdict, GRPO in groups of two",
    "place": "the first error's place, GRPO",
    "place_and_digit": "its place and the right digit, label",
    "answer": "the right answer, label",
    **{arm: f"{SAID[kind]}, read" for kind, arm in IN_CONTEXT.items()},
    "read_as_trl": "its place and the right digit, read, TRL's own loss and teacher",
}
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


def bits_exponent(found: Found, rung: str, less: str, more: str) -> Estimate:
    """ln of FLOPs of who reads less over FLOPs of who reads more, over ln of the bits read: 1 where FLOPs fall as bits rise."""
    estimate = found.factor(rung, IN_CONTEXT[more], HALF, IN_CONTEXT[less]).estimate
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
        text: str, statistic: str, estimate: Estimate, margins: tuple[float, float], answers: Answers, saved, *needed: str
    ) -> None:
        runs = [
            [run for run in found.of(rung, arm) if run.model == model]
            for arm in needed
            for model in {run.model for run in found.of(rung, arm)}
        ]
        enough = min(map(len, runs)) >= FEWEST_RUNS
        estimate = estimate if enough else Estimate(estimate.mean, None, estimate.n)
        unmeasured = f"no price ({saved.text()})" if enough else "fewer than two runs of an arm per pretraining seed"
        claims.append(judged(text, f"{rung}: {statistic}", estimate, margins, answers, 1, unmeasured))

    pays = Answers("yes", "no: between", "no, it costs more")
    reading = [arm for arm in (*IN_CONTEXT.values(), "read_as_trl") if arm in arms]
    for arm, plain in itertools.product(reading, ("verdict", MATCHED)):
        saved = found.factor(rung, arm, HALF, plain)
        statistic = f"FLOPs of {SPOKEN[plain]} over those of {SPOKEN[arm]}, {HALF.name}; thresholds {HELPS:g} and 1/{HELPS:g}"
        ask(f"Does it save FLOPs: {SPOKEN[arm]}?", statistic, saved.estimate, (1 / HELPS, HELPS), pays, saved, arm, plain)
    follows = Answers("yes", "", "no, less than the bits")
    for less, more in itertools.pairwise(KINDS):
        if {IN_CONTEXT[less], IN_CONTEXT[more]} <= set(arms):
            saved, ratio = (
                found.factor(rung, IN_CONTEXT[more], HALF, IN_CONTEXT[less]),
                found.bits(rung, more) / found.bits(rung, less),
            )
            text = f"Learned in one way, do FLOPs fall as bits rise, from {SAID[less]} to {SAID[more]} ({number_text(ratio)} times the bits)?"
            statistic = f"ln of the ratio of FLOPs, {HALF.name}, over ln of the ratio of bits; threshold {number_text(FOLLOWS)}"
            ask(
                text,
                statistic,
                bits_exponent(found, rung, less, more),
                (FOLLOWS, FOLLOWS),
                follows,
                saved,
                IN_CONTEXT[less],
                IN_CONTEXT[more],
            )
    same = Answers("reading is cheaper", f"no, within {CLOSE:g}", "reading is dearer")
    for kind in KINDS:
        way, read = BY_LABEL[kind], IN_CONTEXT[kind]
        if {way, read} <= set(arms):
            saved = found.factor(rung, read, HALF, way)
            statistic = f"FLOPs of {SPOKEN[way]} over those of {SPOKEN[read]}, {HALF.name}; within {CLOSE:g}"
            ask(
                f"Does it matter how it is learned: {SAID[kind]}?",
                statistic,
                saved.estimate,
                (1 / CLOSE, CLOSE),
                same,
                saved,
                way,
                read,
            )
    equal = Answers("no, a shorter one", f"yes, within {SAME_PATH:g}", "no, a longer one")
    for arm in reading:
        if MATCHED in arms:
            went = path_factor(found, rung, arm, MATCHED)
            statistic = f"rate x live updates of {SPOKEN[MATCHED]} over those of {SPOKEN[arm]}, {HALF.name}; within {SAME_PATH:g}"
            ask(
                f"Is the optimizer's path that of GRPO: {SPOKEN[arm]}?",
                statistic,
                went.estimate,
                (1 / SAME_PATH, SAME_PATH),
                equal,
                went,
                arm,
                MATCHED,
            )
    return claims
