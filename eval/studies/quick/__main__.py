"""Does the pass rate alone predict what RL absorbs? `python -m eval.studies.quick RUN...` makes the page of the runs.

Question, statistic and thresholds are in README.md, starts and arms in study.yaml.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.columns import ABSORBED_BITS, PASS_RATE_BEFORE
from bitsample_llm.report.command import report
from bitsample_llm.report.comparison import comparison_study, price_text
from bitsample_llm.report.estimates import number_text, over_seeds
from bitsample_llm.report.pairs import paired_difference
from bitsample_llm.report.runs import Arm, MeasuredRun, rivals
from bitsample_llm.report.study import Study

# Two starts of about the same pass rate absorb "the same" if they differ by less than this many bits: well above what the
# remaining difference of their pass rates could explain. Fixed before the study was run.
MARGIN_BITS = 0.5
# Problems count as matched if their pass rates before training lie within this factor of each other.
MATCHING_FACTOR = 1.25
MORE = "no, more from the latent start: pass rate alone does not predict what it absorbs"


def of_reason(arms: Sequence[Arm], reason: str) -> list[Arm]:
    """The arms whose start has that reason for its pass rate."""
    return [arm for arm in arms if arm.tags.get("reason") == reason]


def matched_gains_bits(first: MeasuredRun, second: MeasuredRun, factor: float) -> tuple[float, float, int] | None:
    """Mean absorbed bits of two runs on the problems whose pass rates before training lay within `factor` of each other, and
    the number of these problems; None without such a problem.
    """
    shared = [problem for problem in first.log2_before if problem in second.log2_before]
    close = [p for p in shared if abs(first.log2_before[p] - second.log2_before[p]) <= math.log2(factor)]
    if not close:
        return None
    means = [float(np.mean([run.log2_after[p] - run.log2_before[p] for p in close])) for run in (first, second)]
    return means[0], means[1], len(close)


def contrasts(latent: Arm, unacquired: Arm) -> list[Claim]:
    """The same arm from both starts, on all held-out problems and on those that match problem by problem."""
    less = "no, more from the unacquired start: pass rate alone does not predict what it absorbs"
    answers = Answers(MORE, f"yes, within {MARGIN_BITS} bits", less)
    statistic = f"absorbed bits, {latent.start} minus {unacquired.start}, same seeds, threshold {MARGIN_BITS} bits"
    cases = [("At about the same mean pass rate", paired_difference(latent, unacquired, ABSORBED_BITS), statistic)]
    by_seed = {run.seed: run for run in unacquired.runs}
    pairs = [(run, by_seed[run.seed]) for run in latent.runs if run.seed in by_seed]
    gains = [matched_gains_bits(*pair, MATCHING_FACTOR) for pair in pairs]
    if matched := [gain for gain in gains if gain is not None]:
        counted = f"{statistic}, {matched[0][2]} held-out problems within a factor of {MATCHING_FACTOR}"
        cases.append(("On the same problems at about the same pass rate each", over_seeds([a - b for a, b, _ in matched]), counted))
    starts = f"the {latent.start} and the {unacquired.start} start"
    return [
        judged(
            f"{when}, does {latent.spoken} absorb the same from {starts}?",
            what,
            estimate,
            (-MARGIN_BITS, MARGIN_BITS),
            answers,
            len(latent.runs),
            "not every seed has both",
        )
        for when, estimate, what in cases
    ]


def quick_study(arms: Sequence[Arm], command: str) -> Study:
    """The comparison of all arms, and the contrast of the two reasons for a low pass rate."""
    study = comparison_study(arms, command)
    latent, unacquired = of_reason(arms, "latent"), of_reason(arms, "unacquired")
    (sft, rl), (other_sft, other_rl) = rivals(latent), rivals(unacquired)
    if None in (sft, rl, other_sft, other_rl):
        return study
    of_rl, of_sft = contrasts(rl, other_rl), contrasts(sft, other_sft)
    bits = [number_text(arm.estimate(ABSORBED_BITS).mean) for arm in (other_rl, other_sft)]
    answer = (
        f"Where the skill is latent, {price_text(latent)}. Where it is not acquired, {other_rl.spoken} gained {bits[0]} bits and "
        f"{other_sft.spoken} {bits[1]} with the same FLOPs."
    )
    rates = " and ".join(number_text(arm.runs[0].value(PASS_RATE_BEFORE)) for arm in (rl, other_rl))
    sentences = [
        f"Mean held-out pass rates before training: {rates}. From the unacquired start {price_text(unacquired)}.",
        f"{rl.spoken} absorbed {of_rl[0].estimate.text()} bits more from the latent start than from the unacquired one "
        f"({of_rl[0].estimate.n} seeds): {of_rl[0].verdict.removeprefix('no, more from the latent start: ')}.",
        f"On problems matched by pass rate the difference is {of_rl[-1].estimate.text()} bits for {rl.spoken} and "
        f"{of_sft[-1].estimate.text()} for {sft.spoken}"
        + (": the reason of a pass rate matters to both." if {of_rl[-1].verdict, of_sft[-1].verdict} == {MORE} else "."),
        "One task, one model size, one pretraining seed per start: a first sight, not a law.",
    ]
    return replace(
        study,
        title="Does the pass rate alone predict what RL absorbs?",
        question="Two starts pass the same problems about equally often, for different reasons. Do SFT and RL learn the same from both?",
        answer=answer,
        sentences=sentences,
        claims=[*of_rl, *of_sft, *study.claims],
    )


if __name__ == "__main__":
    report(quick_study, prog="python -m eval.studies.quick", description=__doc__.splitlines()[0])
