"""A run's held-out problems at each evaluation: the curve that is drawn, and what of it is read off."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bitsample_llm.records import RecordError, Run


@dataclass(frozen=True)
class Curve:
    """State of a set of problems at the evaluations of a run, before training first. T evaluations, P problems."""

    flops: np.ndarray
    problem_ids: list[str]
    log2_p_TP: np.ndarray  # of the one answer that passes; of the reference answer where several do
    num_passed_TP: np.ndarray | None = None  # of the rollouts of each problem; None where pass rates are exact
    num_rollouts_P: np.ndarray | None = None

    @property
    def is_sampled(self) -> bool:
        """Whether pass rates come from rollouts."""
        return self.num_passed_TP is not None

    @cached_property
    def surprisal_bits(self) -> np.ndarray:
        """Mean over problems, of the answer, or of the reference answer where several pass."""
        return -self.log2_p_TP.mean(axis=1)

    @cached_property
    def pass_rate(self) -> np.ndarray:
        """Mean over problems."""
        rates_TP = self.num_passed_TP / self.num_rollouts_P if self.is_sampled else np.exp2(self.log2_p_TP)
        return rates_TP.mean(axis=1)

    @property
    def absorbed_bits(self) -> np.ndarray:
        """Gain since the start: mean over problems of the gain in log2 p; of rollouts, log2 of the ratio of mean pass rates, NaN
        where one of them is 0.
        """
        if not self.is_sampled:
            return self.surprisal_bits[0] - self.surprisal_bits
        log2_rate = np.log2(np.where(self.pass_rate > 0, self.pass_rate, np.nan))
        return log2_rate - log2_rate[0]

    @property
    def available_bits(self) -> float:
        """What there is to gain before training; NaN where no rollout passed."""
        if not self.is_sampled:
            return float(self.surprisal_bits[0])
        return -math.log2(self.pass_rate[0]) if self.pass_rate[0] > 0 else math.nan

    def log2_pass_rates(self, index: int) -> dict[str, float]:
        """Exact log2 pass rate of each problem at an evaluation; empty where pass rates come from rollouts."""
        return {} if self.is_sampled else dict(zip(self.problem_ids, self.log2_p_TP[index].tolist(), strict=True))


def evaluated_curve(run: Run, split: str) -> Curve:
    """The curve of one evaluation set.

    Raises:
        RecordError: if the run has fewer than two evaluations of the split, diverged, or scored the reference answer where others
            pass too.
    """
    rows = [row for row in run.table("evals").to_pylist() if row["split"] == split]
    is_sampled = any(row["num_rollouts"] is not None for row in rows)
    if not is_sampled and str((run.manifest.get("data") or {}).get("pass_rates")).startswith("not exact"):
        raise RecordError(
            f"{run.run_dir} has no held-out pass rates, only the probability of one of several answers that pass: run it again, "
            "with this version its evaluations draw rollouts"
        )
    measured = {(row["step"], row["problem_id"]): row for row in rows if is_sampled or row["log2_pass_rate"] is not None}
    steps = sorted({step for step, _ in measured})
    problem_ids = sorted(problem_id for step, problem_id in measured if step == steps[0])
    known = set(problem_ids)
    unknown = [row["step"] for row in rows if row["problem_id"] in known and (row["step"], row["problem_id"]) not in measured]
    if unknown:
        raise RecordError(
            f"{run.run_dir} diverged: at step {min(unknown)} its {split} problems have no pass rate, so it has no gain"
        )
    if len(steps) < 2:
        raise RecordError(f"{run.run_dir} has {len(steps)} evaluations of split {split!r}, and a gain needs two")

    def values_TP(name: str) -> np.ndarray:
        return np.array([[measured[step, problem_id][name] for problem_id in problem_ids] for step in steps])

    flops = values_TP("total_flops")[:, 0]
    if not is_sampled:
        return Curve(flops, problem_ids, values_TP("log2_pass_rate"))
    counts = values_TP("num_passed"), values_TP("num_rollouts")[0]
    return Curve(flops, problem_ids, values_TP("reference_log2_probability"), *counts)
