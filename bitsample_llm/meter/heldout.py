"""When is a training scored on held-out problems, and what was found so far?"""

from collections import defaultdict
from collections.abc import Callable, Sequence

from bitsample_llm.meter.evaluator import (
    MAX_EVAL_TOKENS,
    EvaluationRollouts,
    ParameterChange,
    has_exact_pass_rates,
    mean_log2_pass_rate,
    scored_rows,
)
from bitsample_llm.meter.observers import finite
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.tasks import Problem


class HeldOut:
    """Evaluation sets of a training, the FLOPs at which the first of them is scored, and the results of that one.

    Args:
        sets: split -> problems, all of them scored at the start and at the end; the first of them also between.
        flops: ascending FLOPs of the trainer at which to score it, each at the first step that reaches it.
        rollouts: how the evaluation samples; None where every pass rate is exact, or nothing can judge a rollout.

    Attributes:
        log2_pass_rates: mean over the first evaluation set of log2 p, at each of its evaluations so far; of rollouts log2 of the
            mean pass rate, None where none passed.
    """

    def __init__(
        self,
        trainer,
        model,
        end: AnswerEnd,
        sets: dict[str, Sequence[Problem]],
        flops: Sequence[float],
        rollouts: EvaluationRollouts | None,
    ):
        self.trainer, self.end, self.sets, self.flops, self.rollouts = trainer, end, sets, flops, rollouts
        self.log2_pass_rates: list[float | None] = []
        self._change = ParameterChange(model) if sets else None
        self._next_flops = float("inf")
        self._last_step, self._last_splits = -1, set()

    @property
    def first(self) -> str | None:
        """The set that is scored between start and end."""
        return next(iter(self.sets), None)

    def schedule(self, total_flops: float, before_training: float) -> None:
        """Find the next FLOPs at which to score, counted from those before the training."""
        points = (before_training + point for point in self.flops)
        self._next_flops = next((point for point in points if point > total_flops), float("inf"))

    def is_due(self, total_flops: float) -> bool:
        """Whether the first set is to be scored now."""
        return bool(self.sets) and total_flops >= self._next_flops

    def not_scored_at(self, step: int) -> list[str]:
        """The sets that were not scored at a step."""
        already = self._last_splits if step == self._last_step else set()
        return [split for split in self.sets if split not in already]

    def resume(self, step: int, rows: Sequence[dict]) -> None:
        """Go on after a step with the recorded evaluations."""
        self._last_step, self._last_splits = step, {row["split"] for row in rows if row["step"] == step}
        by_step: dict[int, list[dict]] = defaultdict(list)
        for row in rows:
            if row["split"] == self.first:
                by_step[row["step"]].append(row)
        self.log2_pass_rates[:] = [mean_log2_pass_rate(by_step[step]) for step in sorted(by_step)]

    def scored(self, step: int, splits: Sequence[str], shared: dict, count_flops: Callable[[], float]) -> list[dict]:
        """Rows of the table `evals` for these sets.

        Args:
            shared: what every row says of the training so far.
            count_flops: gives the FLOPs of all evaluations so far.
        """
        self._last_step, self._last_splits = step, {*splits}
        shared = {"step": step, "update_norm": self._change.norm(), **shared}
        rows = []
        for split in splits:
            before = count_flops()
            found = scored_rows(self.trainer, self.sets[split], self.end, self.rollouts)
            cost = {"split": split, "evaluation_flops": count_flops() - before}
            found = finite([shared | cost | row for row in found])
            if split == self.first:
                self.log2_pass_rates.append(mean_log2_pass_rate(found))
            rows += found
        return rows


def evaluation_rollouts(
    trainer, end: AnswerEnd, sets: dict[str, Sequence[Problem]], task, per_problem: int, max_tokens: int | None
) -> tuple[EvaluationRollouts | None, str | None]:
    """How evaluations sample, None where they need not or cannot; and what is to be said where they cannot."""
    problems = [problem for part in sets.values() for problem in part]
    if not problems or has_exact_pass_rates(trainer.processing_class, problems, end):
        return None, None
    if task is None:
        return None, "several answers pass and nothing judges them, so held-out pass rates are null: pass evaluation_task"
    max_tokens = max_tokens or getattr(trainer.args, "max_completion_length", None) or MAX_EVAL_TOKENS
    return EvaluationRollouts(task, per_problem, max_tokens), None
