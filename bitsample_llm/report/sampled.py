"""Runs whose held-out pass rates come from rollouts, because several answers pass: how sure the rates are, and how they are told.

A pass rate has an interval over problems (here) and one over seeds (`runs.py`). Bits are those of the mean pass rate, because
the log of a problem's own few rollouts may not exist.
"""

from collections.abc import Sequence

import numpy as np

from bitsample_llm.estimators import bootstrap_interval, wilson_interval
from bitsample_llm.report.columns import PASS_RATE_AFTER, PASS_RATE_BEFORE, PASS_RATE_BEFORE_ON, Column
from bitsample_llm.report.curve import Curve
from bitsample_llm.report.estimates import Estimate
from bitsample_llm.report.runs import Arm, draws_rollouts

ABSORBED = (
    "Several answers pass here, so held-out pass rates come from rollouts, and absorbed bits are log2 of the mean pass rate after "
    "training over before. The draws are alike for all arms."
)
LEARNING = (
    "Above: surprisal of the reference answer, which falls when a policy learns this form of it and may rise when it learns another that "
    "passes too. Below: mean pass rate of rollouts on held-out problems, with its 95 % interval over problems (band), against all FLOPs "
    "of training."
)
ESSAY = (
    "Lines are the essay's two formulas; points show where the recorded rollouts fell, in blocks of 64 averaged over bins of the pass "
    "rate, both estimated from groups of rollouts. Labels have no point: the probability of one label is not the pass rate where several "
    "answers pass."
)


def rollouts_per_problem(arms: Sequence[Arm]) -> str:
    """How many, in words."""
    numbers = {int(num) for arm in arms for run in arm.runs for num in np.unique(run.curve.num_rollouts_P)}
    return " or ".join(map(str, sorted(numbers)))


def titled(arms: Sequence[Arm], column: Column) -> str:
    """The heading of a column, which says of a pass rate that it comes from rollouts where it does."""
    if column in (PASS_RATE_BEFORE, PASS_RATE_AFTER, *PASS_RATE_BEFORE_ON.values()) and draws_rollouts(arms):
        return f"{column.titled} (from {rollouts_per_problem(arms)} rollouts per problem)"
    return column.titled


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


def evaluations_without_a_pass(arm: Arm) -> tuple[int, int]:
    """How many evaluations of an arm's runs found no pass, and how many there are."""
    rates = [run.curve.pass_rate for run in arm.runs]
    return int(sum((rate == 0).sum() for rate in rates)), sum(map(len, rates))


def mean_over_problems(arm: Arm, index: int) -> Estimate:
    """Mean pass rate at an evaluation, each problem's averaged over seeds first, with its interval over problems."""
    curves = [run.curve for run in arm.runs]
    rates_P = np.mean([curve.num_passed_TP[index] / curve.num_rollouts_P for curve in curves], axis=0)
    interval = interval_over_problems(rates_P, int(curves[0].num_rollouts_P.sum()))
    return Estimate(float(rates_P.mean()), interval, len(rates_P))


def sampled_sentences(arms: Sequence[Arm]) -> list[str]:
    """How the pass rates came about, and what has none; empty where they are known."""
    if not draws_rollouts(arms):
        return []
    said = [
        f"Held-out pass rates come from {rollouts_per_problem(arms)} rollouts per problem and evaluation, because several answers "
        "pass; absorbed bits are those of the mean pass rate."
    ]
    counted = [evaluations_without_a_pass(arm) for arm in arms]
    if missing := sum(count for count, _ in counted):
        said.append(
            f"In {missing} of {sum(total for _, total in counted)} evaluations no rollout passed: their bits are not measured, and "
            "means over seeds leave them out. More --num_eval_rollouts or problems would measure them."
        )
    limits = {arm.name: (arm.manifest.get("evaluation_rollouts") or {}).get("max_tokens") for arm in arms}
    if len(set(limits.values())) > 1:
        told = ", ".join(f"{name} {limit}" for name, limit in limits.items())
        said.append(f"Evaluation rollouts may take different numbers of tokens ({told}): give all runs the same --max_eval_tokens.")
    return said
