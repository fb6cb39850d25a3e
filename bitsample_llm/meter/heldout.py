"""When is a training scored on held-out problems, and what was found so far? `evaluator.py` says how."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bitsample_llm.meter.divergence import ParameterChange, kl_to_start_bits
from bitsample_llm.meter.evaluator import EvaluationRollouts, has_exact_pass_rates, scored_rows
from bitsample_llm.meter.recording import tell
from bitsample_llm.meter.start_evaluations import StartEvaluations
from bitsample_llm.records.writer import finite
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import answer_spellings
from bitsample_llm.tasks import Problem

MAX_EVAL_TOKENS = 256  # of an evaluation rollout, where neither the user nor the trainer sets a limit


@dataclass(frozen=True)
class State:
    """What an evaluation found of the first set; None where nothing was measured, or where no rollout passed."""

    flops: float  # of the training so far
    log2_pass_rate: float | None  # mean over problems of log2 p; where rollouts are drawn, log2 of the mean pass rate
    pass_rate: float | None  # mean over problems


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
        num_kl_problems: of so many problems of the first set each evaluation also draws a rollout, and measures how far the policy
            has moved from the start (`divergence.py`).
        start_evaluations: folder where runs from the same weights leave what they found of their start for each other, one process each; it is
            the same, and its FLOPs are 0 where it was only read.
        texts: split -> problems of which only the probability of the reference answer is recorded, at the start and at the end: what
            training does to everything else. No rollout of them is drawn.

    Attributes:
        rollouts: how the evaluation samples; None where every pass rate is exact, or nothing can judge a rollout.
        states: what the evaluations of the first set found so far.
    """

    def __init__(
        self,
        sets: dict[str, Sequence[Problem]],
        flops: Sequence[float] = (),
        task=None,
        num_rollouts: int = 8,
        max_tokens: int | None = None,
        num_kl_problems: int = 0,
        texts: dict[str, Sequence[Problem]] | None = None,
        start_evaluations: str | Path | None = None,
    ):
        self._judged = [problem for part in sets.values() for problem in part]
        self._texts = texts or {}
        self.sets, self.flops, self._num_kl_problems = {**sets, **self._texts}, flops, num_kl_problems
        self._task, self._num_rollouts, self._max_tokens = task, num_rollouts, max_tokens
        self._start_folder = start_evaluations
        self.states: list[State] = []
        self._next_flops = float("inf")
        self._last_step, self._last_splits = -1, set()

    def attach(self, trainer, model, end: AnswerEnd, verifier) -> None:
        """Take the trainer that is evaluated; called by the meter."""
        self._trainer, self._end = trainer, end
        self.rollouts = self._evaluation_rollouts(verifier)
        self._change = ParameterChange(model) if self.sets else None

    def _evaluation_rollouts(self, verifier) -> EvaluationRollouts | None:
        if not self._judged or has_exact_pass_rates(self._trainer.processing_class, self._judged, self._end):
            return None
        task = self._task or (verifier and verifier.task)
        if task is None:
            if self._trainer.accelerator.is_main_process:
                tell("several answers pass and nothing judges them, so held-out pass rates are null: pass HeldOut(..., task=...)")
            return None
        return EvaluationRollouts(task, self._num_rollouts, self.max_tokens)

    @property
    def max_tokens(self) -> int:
        """Most tokens of a rollout that an evaluation draws."""
        return self._max_tokens or getattr(self._trainer.args, "max_completion_length", None) or MAX_EVAL_TOKENS

    @property
    def first(self) -> str | None:
        """The set that is scored between start and end."""
        return next(iter(self.sets), None)

    def schedule(self, total_flops: float, before_training: float) -> None:
        """Find the next FLOPs at which to score, counted from those before the training."""
        points = (before_training + point for point in self.flops)
        self._next_flops = next((point for point in points if point > total_flops), float("inf"))

    def is_due(self, total_flops: float) -> bool:
        return bool(self.sets) and total_flops >= self._next_flops

    def not_scored_at(self, step: int) -> list[str]:
        already = self._last_splits if step == self._last_step else set()
        return [split for split in self.sets if split not in already]

    def resume(self, step: int, rows: Sequence[dict]) -> None:
        """Go on after a step with the recorded evaluations."""
        self._last_step, self._last_splits = step, {row["split"] for row in rows if row["step"] == step}
        by_step: dict[int, list[dict]] = defaultdict(list)
        for row in rows:
            if row["split"] == self.first:
                by_step[row["step"]].append(row)
        self.states[:] = [state_of(by_step[step][0]["total_flops"], by_step[step]) for step in sorted(by_step)]

    def scored(self, step: int, splits: Sequence[str], so_far: dict, count_flops: Callable[[], float]) -> list[dict]:
        """Rows of the table `evals` for these sets, with what each says of the training (`so_far`); `count_flops` gives the FLOPs
        of all evaluations so far.
        """
        self._last_step, self._last_splits = step, {*splits}
        if not splits:
            return []
        shared = {"step": step, "update_norm": self._change.norm(), **so_far}
        rows, of_start = [], self._start_evaluations() if step == 0 else None
        for split in splits:
            flops_before = count_flops()
            scored = of_start.rows(self._asked(split), partial(self._rows, split)) if of_start else self._rows(split)
            cost = {"split": split, "evaluation_flops": count_flops() - flops_before}
            scored = [finite(shared | cost) | row for row in scored]
            if split == self.first:
                self.states.append(state_of(so_far["total_flops"], scored))
            rows += scored
        return rows

    def _rows(self, split: str) -> list[dict]:
        """What an evaluation finds of a set."""
        rollouts = None if split in self._texts else self.rollouts
        scored = scored_rows(self._trainer, self.sets[split], self._end, rollouts)
        if split in self._texts:
            for row in scored:  # where a text goes on is no answer's end, and its probability no pass rate
                row["log2_pass_rate"] = None
        if split == self.first and (asked := self.sets[split][: self._num_kl_problems]):
            moved = kl_to_start_bits(self._trainer, asked, self._change, self.max_tokens, self._end)
            for row, bits in zip(scored, moved, strict=False):
                row["kl_to_start_bits"] = bits
        return finite(scored)

    def _start_evaluations(self) -> StartEvaluations | None:
        accelerator = self._trainer.accelerator
        if self._start_folder is None or accelerator.num_processes > 1:
            return None
        return StartEvaluations(Path(self._start_folder), accelerator.unwrap_model(self._trainer.model))

    def _asked(self, split: str) -> str:
        """All that the rows of a set depend on besides the model."""
        problems, rollouts = self.sets[split], self.rollouts
        how = split in self._texts, rollouts and (type(rollouts.task).__name__, rollouts.per_problem, rollouts.max_tokens)
        moved = (self._num_kl_problems, self.max_tokens) if split == self.first else None
        return repr(
            (
                problems,
                answer_spellings(self._trainer.processing_class, problems, self._end),
                self._end.token_ids,
                self._end.stop,
                how,
                moved,
            )
        )


def state_of(flops: float, rows: Sequence[dict]) -> State:
    """The state that an evaluation's rows tell: of exact pass rates means over the problems that have one; of rollouts the share that
    passed and its log2, because the log of a problem's own count may not exist.
    """
    if rows and rows[0].get("num_rollouts") is not None:
        rate = sum(row["num_passed"] for row in rows) / sum(row["num_rollouts"] for row in rows)
        return State(flops, float(np.log2(rate)) if rate else None, rate)
    log2_p = np.array([row["log2_pass_rate"] for row in rows if row["log2_pass_rate"] is not None])
    return State(flops, float(log2_p.mean()), float(np.exp2(log2_p).mean())) if log2_p.size else State(flops, None, None)
