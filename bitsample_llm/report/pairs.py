"""Two arms compared seed by seed: differences and ratios."""

from collections.abc import Sequence

from bitsample_llm.report.columns import FLOPS_TO_TARGET, Column
from bitsample_llm.report.estimates import Estimate, over_seeds, ratio_over_seeds
from bitsample_llm.report.runs import Arm


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


def seeds_at_target(arms: Sequence[Arm], joined: str) -> str:
    """How many seeds of each arm gained the target, in words."""
    return joined.join(f"{len(arm.measured(FLOPS_TO_TARGET))} of {len(arm.runs)} seeds of {arm.spoken}" for arm in arms)
