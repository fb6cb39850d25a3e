"""Two arms compared seed by seed: differences, ratios, and gains on problems of about the same pass rate."""

import math
from collections.abc import Sequence

import numpy as np

from bitsample_llm.report.columns import FLOPS_TO_TARGET, Column
from bitsample_llm.report.estimates import Estimate, over_seeds, ratio_over_seeds
from bitsample_llm.report.runs import Arm, MeasuredRun


def paired_values(first: Arm, second: Arm, column: Column) -> list[tuple[float, float]]:
    """Values of two arms seed by seed, where both were measured."""
    of_second = {run.seed: run.value(column) for run in second.runs}
    pairs = [(run.value(column), of_second.get(run.seed)) for run in first.runs]
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def paired_difference(first: Arm, second: Arm, column: Column) -> Estimate:
    """Mean of first - second over seeds, with its 95 % t interval."""
    return over_seeds([a - b for a, b in paired_values(first, second, column)])


def paired_ratio(first: Arm, second: Arm, column: Column) -> Estimate:
    """Geometric mean of first / second over the seeds where both are positive, with its 95 % t interval."""
    return ratio_over_seeds([a / b for a, b in paired_values(first, second, column) if a > 0 and b > 0])


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


def same_seeds(first: Arm, second: Arm) -> list[tuple[MeasuredRun, MeasuredRun]]:
    """Pairs of runs of two arms that have the same seed."""
    by_seed = {run.seed: run for run in second.runs}
    return [(run, by_seed[run.seed]) for run in first.runs if run.seed in by_seed]


def seeds_at_target(arms: Sequence[Arm], joined: str) -> str:
    """How many seeds of each arm gained the target, in words."""
    return joined.join(f"{len(arm.measured(FLOPS_TO_TARGET))} of {len(arm.runs)} seeds of {arm.spoken}" for arm in arms)
