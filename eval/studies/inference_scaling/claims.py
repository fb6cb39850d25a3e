"""The statistics of README.md: remedy factors with their closed forms, and what each age of pretraining pays for a target."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import Estimate, number_text
from bitsample_llm.report.prices import HALF, PricedRun, Target
from bitsample_llm.report.remedy_runs import RemedyRuns

SPOKEN = {
    "grpo": "plain GRPO",
    "plain_8": "plain, groups of 8",
    "best_of_4": "best of 4",
    "majority_of_4": "majority of 4",
    "rejection": "SFT on passes",
    "better_C": "RL under C's prompt",
    "grpo_from_C": "GRPO, rollouts under C",
    "distil_C": "SFT on passes under C",
    "distil_A": "SFT on passes under A",
    "sft": "SFT on labels",
}
PLAIN_OF = dict.fromkeys(SPOKEN, "grpo")
STARTS = dict.fromkeys(("latent E", "latent G"), ("base", "rungs2"))  # rung -> pretraining seeds
SPOKEN_AT_AGES = {"sft": "SFT", "grpo": "GRPO", "rloo": "RLOO", "reinforce": "REINFORCE"}
CLOSE = 1.5
# MFLOP per rollout of three digits, of drawing it and of training on it (record of curricula)
DRAW, TRAIN = 27.6, 81.0
SIZE, GROUP = 4, 8  # of a vote, and of its group
GRPO_OVER_SFT = 11.1  # at author G, half of the bits (record of prices)
AGE_TARGETS = (Target("p = .6", pass_rate=0.6), Target("p = .9", pass_rate=0.9))


@dataclass(frozen=True)
class Found:
    """The runs of remedies, those from ages of pretraining, and what was measured beside them: states of pretraining, votes over the models' own answers,
    learning curves of worked steps.
    """

    remedies: RemedyRuns
    of_ages: Sequence[PricedRun] = ()
    checkpoints: Sequence[dict] = ()
    votes: Sequence[dict] = ()
    worked: Sequence[dict] = ()


# ---- votes and prompts -----------------------------------------------------------------------------------------------


def best_of(p: np.ndarray, n: int = SIZE) -> np.ndarray:
    """Probability that one of n rollouts passes."""
    return 1 - (1 - p) ** n


def majority_of(p: np.ndarray, n: int = SIZE) -> np.ndarray:
    """Probability that the commonest answer of n passes, where wrong answers all differ and the first written counts among equally frequent ones."""
    return 1 - (1 - p) ** n - (n - 1) * p * (1 - p) ** (n - 1)


VOTES: dict[str, Callable] = {"best_of_4": best_of, "majority_of_4": majority_of}


def predicted_vote_factor(vote: str, p: float, costs_dilution: bool = True) -> float:
    """FLOPs of plain groups of eight over those of two votes of four, at one pass rate, to the same target: the ratio of the prices of an informative update,
    times that of how long a part of it points to the pass.
    """
    of_vote = VOTES[vote](p)
    plain, votes = (GROUP * (DRAW / q + TRAIN) for q in (1 - p**GROUP - (1 - p) ** GROUP, 2 * of_vote * (1 - of_vote)))
    return plain / votes / (math.sqrt(GROUP - 1) if costs_dilution else 1.0)


def predicted_distillation_factor(p: float, group: int) -> float:
    """FLOPs of plain GRPO over those of SFT on passes drawn at the pass rate p, in groups of one problem: an update is one label, and made where one passes."""
    informative = 1 - (1 - p) ** group
    return GRPO_OVER_SFT * TRAIN / (group * (DRAW / informative + TRAIN))


def close_to(found: RemedyRuns, rung: str, arm: str, plain: str, predicted: float, text: str) -> Claim:
    """Whether a closed form says what an arm saves."""
    measured = found.factor(rung, arm, HALF, plain)
    estimate = measured.estimate
    if estimate.mean is not None:
        ends = tuple(end / predicted for end in estimate.interval)
        estimate = Estimate(estimate.mean / predicted, ends, estimate.n)
    answers = Answers("no, it is more", f"yes, within {CLOSE:g}", "no, it is less")
    statistic = f"{rung}, {SPOKEN[arm]} against {SPOKEN[plain]}, {HALF.name}: measured factor over {number_text(predicted)}"
    return judged(text, statistic, estimate, (1 / CLOSE, CLOSE), answers, 1, f"no price ({measured.text()})")


def remedy_claims(found: RemedyRuns) -> list[Claim]:
    """Questions 4 to 9 at every start whose runs are there."""
    claims = []
    for rung in found.rungs:
        arms = found.arms(rung)
        p = found.pass_rate(rung)
        for arm, of_prompt in (("distil_A", 0.98), ("distil_C", 0.48)):
            if arm in arms:
                predicted = predicted_distillation_factor(of_prompt, found.of(rung, arm)[0].settings["num_generations"])
                claims.append(close_to(found, rung, arm, "grpo", predicted, "Does prompt distillation cost SFT plus its rollouts?"))
        if "grpo_from_C" in arms and "distil_C" in arms:
            text = "Does GRPO from the better prompt's rollouts cost what SFT on their passes costs?"
            claims.append(close_to(found, rung, "grpo_from_C", "distil_C", 1.0, text))
        for arm, text in (
            ("better_C", "RL under the better prompt saves FLOPs under the target's."),
            ("best_of_4", "Best of n as the policy that is trained saves FLOPs."),
            ("majority_of_4", "Majority of n as the policy that is trained saves FLOPs."),
        ):
            if arm in arms:
                saved = found.factor(rung, arm, HALF)
                statistic = f"{rung}: FLOPs of plain GRPO over those of {SPOKEN[arm]}, {HALF.name}; threshold 1"
                answers = Answers("supported", "undecided", "contradicted")
                claims.append(judged(text, statistic, saved.estimate, (1, 1), answers, 1, f"no price ({saved.text()})", 11))
        for arm in VOTES:
            if {arm, "plain_8"} <= set(arms):
                for dilutes, text in (
                    (True, "Do votes cost the dilution of credit?"),
                    (False, "Do votes cost their informative updates alone?"),
                ):
                    claims.append(close_to(found, rung, arm, "plain_8", predicted_vote_factor(arm, p, dilutes), text))
    return claims


# ---- ages ------------------------------------------------------------------------------------------------------------


def age_of(run: PricedRun) -> str:
    """The pass rate at which pretraining was stopped, as its checkpoint calls it."""
    return run.rung.rpartition(" ")[2]


def pretraining_flops(found: Found, model: str, age: str) -> float | None:
    """FLOPs until a checkpoint; None where it is not there."""
    known = [row["flops"] for row in found.checkpoints if (row["model"], row["age"]) == (model, age)]
    return known[0] if known else None


def not_lost_again(flops: Sequence[float], rates: Sequence[float], target: Target) -> float | None:
    """FLOPs at the first evaluation from which the target holds until the last one; None where it does not hold at the last."""
    below = [index for index, rate in enumerate(rates) if rate < target.pass_rate]
    first = below[-1] + 1 if below else 0
    return flops[first] if first < len(flops) else None


def going_on(found: Found, model: str, target: Target) -> float | None:
    """FLOPs of pretraining until the target; None where it was not reached."""
    path = sorted((row["flops"], row["pass_rate"]) for row in found.checkpoints if row["model"] == model and row["age"] is None)
    return not_lost_again(*zip(*path, strict=True), target) if path else None


def age_rows(found: Found, target: Target) -> list[dict]:
    """What each run from an age paid for the target, or all that it spent without it, and what going on would have cost from there."""
    rows = []
    for run in found.of_ages:
        start = pretraining_flops(found, run.model, age_of(run))
        if start is None or run.has_before(target):
            continue
        end, price = going_on(found, run.model, target), not_lost_again(run.flops, run.pass_rate, target)
        about = {"model": run.model, "age": age_of(run), "arm": run.arm, "start": start}
        paid = {"price": run.flops[-1] if price is None else price, "reached": price is not None, "kept": run.price(target)[1]}
        rows.append(about | paid | {"on": None if end is None else max(end - start, 0.0)})
    return rows


def pays(rows: Sequence[dict]) -> str:
    """Whether the runs of an arm from an age are cheaper than going on with pretraining."""
    known = [row for row in rows if row["on"] is not None and (row["reached"] or row["price"] > row["on"])]
    if known and len(known) == len(rows):
        if all(row["reached"] and row["price"] < row["on"] for row in known):
            return "pays"
        if all(row["price"] > row["on"] for row in known):
            return "does not pay"
    return "undecided"


def bits_per_flop(found: Found, budget: float = 3e11) -> dict[tuple[str, str], tuple[float, float]]:
    """Held-out bits that GRPO absorbs in `budget` FLOPs, by pretraining seed and age: over pretraining's FLOPs and these, and over these alone."""
    values = {}
    for run in (run for run in found.of_ages if run.arm == "grpo"):
        start = pretraining_flops(found, run.model, age_of(run))
        if start is not None:
            gained = float(np.interp(budget, run.flops, run.log2_p)) - run.log2_p[0]
            values[run.model, age_of(run)] = (gained / (start + budget), gained / budget)
    return values


def read_lines(path) -> list[dict]:
    """The objects of a JSONL file; none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
