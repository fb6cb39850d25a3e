"""When is a training scored on held-out problems, and what was found so far? `evaluator.py` says how."""

import importlib
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch

from bitsample_llm.meter.evaluator import EvaluationRollouts, has_exact_pass_rates, scored_rows
from bitsample_llm.meter.recording import finite, tell
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.tasks import Problem

MAX_EVAL_TOKENS = 256  # of an evaluation rollout, where neither the user nor the trainer sets a limit


class HeldOut:
    """Evaluation sets of one training, and what its evaluations of the first of them found.

        InformationMeter(trainer, "runs/mine", evaluation=HeldOut({"heldout": problems}, flops=[1e9, 1e10]))

    Args:
        sets: split -> problems, all of them scored at the start and at the end; the first of them also between.
        flops: ascending FLOPs of the trainer at which to score it, each at the first step that reaches it.
        task: judges the rollouts that are drawn of all sets where a pass rate of any of them is not exact; by default the task
            of the meter's verifier. Without one such pass rates are null.
        num_rollouts: how many are drawn per problem at each evaluation.
        max_tokens: limit of such a rollout; by default the trainer's `max_completion_length`, 256 where it has none.

    Attributes:
        rollouts: how the evaluation samples; None where every pass rate is exact, or nothing can judge a rollout.
        log2_pass_rates: mean over the first set of log2 p, at each of its evaluations so far; where rollouts are drawn, log2 of
            the mean pass rate, None where none passed.
    """

    def __init__(
        self,
        sets: dict[str, Sequence[Problem]],
        flops: Sequence[float] = (),
        task=None,
        num_rollouts: int = 8,
        max_tokens: int | None = None,
    ):
        self.sets, self.flops = sets, flops
        self._task, self._num_rollouts, self._max_tokens = task, num_rollouts, max_tokens
        self.log2_pass_rates: list[float | None] = []
        self._next_flops = float("inf")
        self._last_step, self._last_splits = -1, set()

    def attach(self, trainer, model, end: AnswerEnd, verifier) -> None:
        """Take the trainer that is evaluated; called by the meter."""
        self._trainer, self._end = trainer, end
        self.rollouts = self._evaluation_rollouts(verifier)
        self._change = ParameterChange(model) if self.sets else None

    def _evaluation_rollouts(self, verifier) -> EvaluationRollouts | None:
        problems = [problem for part in self.sets.values() for problem in part]
        if not problems or has_exact_pass_rates(self._trainer.processing_class, problems, self._end):
            return None
        task = self._task or (verifier and verifier.task)
        if task is None:
            if self._trainer.accelerator.is_main_process:
                tell("several answers pass and nothing judges them, so held-out pass rates are null: pass HeldOut(..., task=...)")
            return None
        max_tokens = self._max_tokens or getattr(self._trainer.args, "max_completion_length", None) or MAX_EVAL_TOKENS
        return EvaluationRollouts(task, self._num_rollouts, max_tokens)

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

    def scored(self, step: int, splits: Sequence[str], so_far: dict, count_flops: Callable[[], float]) -> list[dict]:
        """Rows of the table `evals` for these sets.

        Args:
            so_far: what every row says of the training.
            count_flops: gives the FLOPs of all evaluations so far.
        """
        self._last_step, self._last_splits = step, {*splits}
        if not splits:
            return []
        shared = {"step": step, "update_norm": self._change.norm(), **so_far}
        rows = []
        for split in splits:
            flops_before = count_flops()
            scored = scored_rows(self._trainer, self.sets[split], self._end, self.rollouts)
            cost = {"split": split, "evaluation_flops": count_flops() - flops_before}
            scored = finite([shared | cost | row for row in scored])
            if split == self.first:
                self.log2_pass_rates.append(mean_log2_pass_rate(scored))
            rows += scored
        return rows


def mean_log2_pass_rate(rows: Sequence[dict]) -> float | None:
    """What a target gain is measured in: the mean of log2 p where p is exact; of rollouts log2 of their mean pass rate, because
    the log of a problem's own count may not exist. None where nothing was measured or no rollout passed.
    """
    if rows and rows[0].get("num_rollouts") is not None:
        num_passed = sum(row["num_passed"] for row in rows)
        return float(np.log2(num_passed / sum(row["num_rollouts"] for row in rows))) if num_passed else None
    known = [row["log2_pass_rate"] for row in rows if row["log2_pass_rate"] is not None]
    return float(np.mean(known)) if known else None


class ParameterChange:
    """How far the trained parameters have moved since this was made; a copy of them is kept in main memory."""

    def __init__(self, model):
        self._model = model
        self._start = {name: _whole(value).detach().cpu().clone() for name, value in self._trained()}

    def _trained(self) -> list[tuple[str, torch.Tensor]]:
        return [(name, value) for name, value in self._model.named_parameters() if value.requires_grad]

    def norm(self) -> float:
        """Euclidean norm of the change. All processes of a sharded model must ask together."""
        squares = (((_whole(value).detach().cpu() - self._start[name]) ** 2).sum().double() for name, value in self._trained())
        return float(sum(squares)) ** 0.5


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    """The parameter itself, gathered where it is sharded."""
    if hasattr(parameter, "ds_id"):  # DeepSpeed ZeRO-3
        with importlib.import_module("deepspeed").zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
