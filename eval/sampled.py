"""Runs whose held-out pass rates come from rollouts, because several answers pass: how sure the rates are, and how they are told.

A pass rate has an interval over problems (here) and one over seeds (`arms.py`). Bits are those of the mean pass rate, because
the log of a problem's own few rollouts may not exist.
"""

from collections.abc import Sequence

import numpy as np

from bitsample_llm.estimators import bootstrap_interval, wilson_interval
from eval.arms import Arm, Curve, draws_rollouts
from eval.findings import estimate, number

# headings and definitions that differ from those of runs with known pass rates, by the key of the column
MEANINGS = {
    "absorbed_bits": "as pass-rate bits: log2 of the mean held-out pass rate after over before; evaluations without a pass have none",
    "pass_rate_before": "mean over held-out problems of the share of their rollouts that pass",
    "pass_rate_bits": "log2 of the ratio of the two means; null where one of them is 0",
}
# captions that differ, by the figure's name
CAPTIONS = {
    "essay": "Lines are the essay's two formulas; points show where the recorded rollouts fell, in blocks of 64 averaged over bins of the "
    "pass rate, both estimated from groups of rollouts. Labels have no point: the probability of one label is not the pass rate "
    "where several answers pass, nor is that of a policy's own completion.",
    "learning": "Above: surprisal of the reference answer, which falls when a policy learns this form of it and may rise when it learns "
    "another that passes too. Below: mean pass rate of rollouts on held-out problems, with its 95 % interval over problems (band), "
    "against all FLOPs of training. The draws are alike for all arms.",
}


def rollouts_per_problem(arms: Sequence[Arm]) -> str:
    """How many, in words."""
    numbers = {int(num) for arm in arms for result in arm.results for num in np.unique(result.curve.num_rollouts_P)}
    return " or ".join(map(str, sorted(numbers)))


def interval_over_problems(pass_rate_P: np.ndarray, num_rollouts: int) -> tuple[float, float]:
    """95 % interval of a mean pass rate over problems: bootstrap, and Wilson's of all rollouts where all passed or none did."""
    mean = float(pass_rate_P.mean())
    if mean in (0.0, 1.0):
        return wilson_interval(int(mean) * num_rollouts, num_rollouts)
    return bootstrap_interval(pass_rate_P, np.random.default_rng(0))


def rate_bounds(curve: Curve) -> np.ndarray:
    """Low and high end of the interval over problems at every evaluation, shape (2, evaluations)."""
    num = int(curve.num_rollouts_P.sum())
    return np.array([interval_over_problems(passed_P / curve.num_rollouts_P, num) for passed_P in curve.num_passed_TP]).T


def columns(arms: Sequence[Arm], known: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The report's columns (heading, key, meaning) as they are told of these arms."""
    if not draws_rollouts(arms):
        return list(known)
    how = f" (from {rollouts_per_problem(arms)} rollouts per problem)"
    return [
        (heading + how * key.startswith("pass_rate_") * (key != "pass_rate_bits"), key, MEANINGS.get(key, meaning))
        for heading, key, meaning in known
    ]


def caption(arms: Sequence[Arm], name: str, known: str) -> str:
    """A figure's caption as it is told of these arms."""
    return CAPTIONS.get(name, known) if draws_rollouts(arms) else known


def sampled_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """Pass rates with their intervals over problems, averaged over seeds, and the reference answer's surprisal; heading first."""
    rows = [
        [
            "start",
            "arm",
            "seeds",
            "problems",
            "pass rate before, interval over problems",
            "after, interval over problems",
            "after, interval over seeds",
            "pass-rate bits, interval over seeds",
            "evaluations without a pass",
            "surprisal of the reference answer before (bits)",
            "after (bits)",
        ]
    ]
    for arm in arms:
        curves = [result.curve for result in arm.results]
        missing, total = (int(sum(counts)) for counts in zip(*[curve.evaluations_without_a_pass for curve in curves], strict=True))
        rows.append(
            [
                arm.start,
                arm.name,
                str(len(curves)),
                str(len(curves[0].num_rollouts_P)),
                *[_over_problems(curves, index) for index in (0, -1)],
                estimate(arm.summary("pass_rate_after")),
                estimate(arm.summary("pass_rate_bits")),
                f"{missing} of {total}",
                *[estimate(arm.summary(f"reference_surprisal_bits_{when}")) for when in ("before", "after")],
            ]
        )
    return rows


def _over_problems(curves: Sequence[Curve], index: int) -> str:
    """Mean pass rate at an evaluation, each problem's averaged over seeds first, with its interval over problems."""
    rates_P = np.mean([curve.num_passed_TP[index] / curve.num_rollouts_P for curve in curves], axis=0)
    low, high = interval_over_problems(rates_P, int(curves[0].num_rollouts_P.sum()))
    return f"{number(float(rates_P.mean()))} [{number(low)}, {number(high)}]"


def sampled_sentences(arms: Sequence[Arm]) -> list[str]:
    """How the pass rates came about, and what has none; empty where they are known."""
    if not draws_rollouts(arms):
        return []
    said = [
        f"Held-out pass rates come from {rollouts_per_problem(arms)} rollouts per problem and evaluation, because several answers "
        "pass; absorbed bits are those of the mean pass rate."
    ]
    counted = [result.curve.evaluations_without_a_pass for arm in arms for result in arm.results]
    if missing := sum(count for count, _ in counted):
        said.append(
            f"In {missing} of {sum(total for _, total in counted)} evaluations no rollout passed: their bits are not measured, and "
            "means over seeds leave them out. More --num_eval_rollouts or problems would measure them."
        )
    limits = {arm.name: (arm.results[0].run.manifest.get("evaluation_rollouts") or {}).get("max_tokens") for arm in arms}
    if len(set(limits.values())) > 1:
        told = ", ".join(f"{name} {limit}" for name, limit in limits.items())
        said.append(f"Evaluation rollouts may take different numbers of tokens ({told}): give all runs the same --max_eval_tokens.")
    return said
