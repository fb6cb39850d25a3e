"""The meter: what a TRL trainer's samples tell, and what they cost, written down as it trains.

    meter = InformationMeter(trainer, output_dir="runs/mine")
    trainer.add_callback(meter)

It only observes. Here are the trainer's events, in the order in which they come.
"""

import contextlib
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import trl
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.integrations import integration_utils

from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.meter.hooks import wrap
from bitsample_llm.meter.recording import Recording, tell
from bitsample_llm.meter.regimes import observer_of, regime_of
from bitsample_llm.meter.totals import Totals
from bitsample_llm.records import RecordError
from bitsample_llm.scoring.answer_end import AnswerEnd

if TYPE_CHECKING:
    from collections.abc import Callable

    from bitsample_llm.meter.heldout import HeldOut, State
    from bitsample_llm.meter.verdicts import RolloutVerifier

LOGGED = ("bits/", "flops/", "group/")  # metrics that go to the trainer's back ends too
TESTED_TRL = "1.16"
_warn_once = cache(warnings.warn)  # per process and message


@contextlib.contextmanager
def groups_of_their_own() -> Iterator[None]:
    """Let reporting back ends show the meter's metrics under `bits`, `flops` and `group`; else transformers puts `train/` before every
    name, and back ends, which group by what comes first, show them among the trainer's own.
    """
    original = integration_utils.rewrite_logs

    def rewritten(logs: dict) -> dict:
        own = {key: value for key, value in logs.items() if key.startswith(LOGGED)}
        return own | original({key: value for key, value in logs.items() if key not in own})

    integration_utils.rewrite_logs = rewritten
    try:
        yield
    finally:
        integration_utils.rewrite_logs = original


class InformationMeter(TrainerCallback):
    """Records bits and FLOPs of a TRL trainer into a run directory.

    Args:
        trainer: an SFT-, GRPO-, RLOO-, DPO-, KTO-, Reward- or DistillationTrainer, or an experimental A2PO-, CPO-, GKD-, GOLD-, IWOPD-, OnlineDPO-, ORPO-,
            SDFT-, SDPO- or TPOTrainer, unmodified.
        output_dir: the run directory to write; see `bitsample_llm.records`.
        manifest: what the run directory should say of the run besides what the trainer knows.
        verifier: judges completions and knows the problems, which makes pass rates exact: a `RolloutVerifier`; `exact`, `numeric` or
            `symbolic`, for rows with an answer; or a function of a completion's text and its row. Without one, a rollout passes
            if its reward reaches `pass_threshold`.
        answer_column: column of the trainer's data set that a verifier by name reads.
        evaluation: held-out problems, and when and how to score them.
        pass_threshold: reward that counts as a pass where there is no verifier; needed unless every reward is 0 or 1.
        reward_is_verdict: whether the reward tells if a rollout passed; if not, what it offers is not measured.
        exact_pass_rates: whether to compute the exact pass rate of every prompt where it exists: one forward pass per generation.
        strict: whether records that cannot be written, or a reporting back end that fails, end the training. If not, the
            meter says so in one line and the training goes on.
        counter: a counter that has been running on this model before the trainer was made; its FLOPs count.
        finishes_with_training: whether the end of the training finishes the records; if not, `close` does.
        stop: the text that ends an answer besides the end of sequence; the verifier's by default. A trainer that samples must be
            made from a model on which `AnswerEnd.declare` was called.
        texts: whether the records keep what was written, which is most of their bytes.

    Attributes:
        end: where answers end.
        cumulative: cumulative metrics so far, by the glossary's keys; the same on every process.

    Raises:
        RecordError: if the run directory holds a run, or another process is writing it; if it cannot be written and the meter
            is strict. A second training with this trainer that does not resume the first has no records, or, if the meter is
            strict, raises this error.
        AttributeError: naming what this version of TRL lacks and the meter needs.
        ValueError: for a model type without a FLOP formula; for a stop at which the trainer does not end rollouts; for rows that a
            verifier by name cannot judge.
        TypeError: for a trainer that learns from something else.
    """

    def __init__(
        self,
        trainer,
        output_dir: str | Path,
        manifest: dict | None = None,
        verifier: "RolloutVerifier | str | Callable[[str, dict], bool] | None" = None,
        evaluation: "HeldOut | None" = None,
        pass_threshold: float | None = None,
        reward_is_verdict: bool = True,
        exact_pass_rates: bool = True,
        strict: bool = False,
        counter: FlopCounter | None = None,
        finishes_with_training: bool = True,
        stop: str | None = None,
        answer_column: str = "answer",
        texts: bool = True,
    ):
        if not trl.__version__.startswith(f"{TESTED_TRL}."):
            _warn_once(f"TRL {trl.__version__} is not one that InformationMeter was tested with ({TESTED_TRL})", stacklevel=2)
        self.regime = regime_of(trainer)
        self.trainer = trainer
        self.finishes_with_training = finishes_with_training
        self.evaluation = evaluation
        self.model = trainer.accelerator.unwrap_model(trainer.model)
        self.end = self._answer_end(stop, verifier)
        if isinstance(verifier, str) or callable(verifier):
            from bitsample_llm.meter.row_verifier import RowVerifier  # noqa: PLC0415 - data sets and judges only where they are wanted

            verifier = RowVerifier(trainer.train_dataset, verifier, answer_column, trainer.processing_class, self.end)
        self.counter = counter or FlopCounter(self.model, set(self.end.token_ids))
        self._count_other_models()
        self.totals = Totals(trainer, self.counter)
        self.cumulative = self.totals.cumulative
        self._flops_before_training = 0.0
        self._reports = True
        if evaluation is not None:
            evaluation.attach(trainer, self.model, self.end, verifier)
        self.observer = observer_of(trainer, self, verifier, pass_threshold, reward_is_verdict, exact_pass_rates)
        self.recording = Recording(Path(output_dir), strict, trainer.accelerator.is_main_process, texts)
        self.recording.create(self._facts() | (manifest or {}), resumes=bool(trainer.args.resume_from_checkpoint))
        wrap(trainer, "log", self._around_log)
        wrap(trainer, "_save_checkpoint", self._around_save)
        wrap(trainer, "train", self._around_train)  # callbacks are not told of errors and interrupts
        wrap(trainer, "evaluate", self._around_evaluate)

    def _answer_end(self, stop: str | None, verifier) -> AnswerEnd:
        if stop is None and hasattr(verifier, "end"):
            stop = verifier.end.stop
        tokenizer = getattr(self.trainer.processing_class, "tokenizer", self.trainer.processing_class)
        end = AnswerEnd.of(self.model, tokenizer, stop)
        if stop is not None and not set(end.token_ids) <= set(getattr(self.trainer, "eos_token_ids", end.token_ids)):
            how = "call AnswerEnd.of(model, tokenizer, stop).declare(model) before the trainer is made"
            raise ValueError(f"the trainer does not end rollouts at the stop {stop!r}: {how}")
        return end

    def _count_other_models(self) -> None:
        others = [(getattr(self.trainer, name, None), "score_reference") for name in ("ref_model", "teacher_model")]
        others += [(reward, "reward_model") for reward in getattr(self.trainer, "reward_funcs", ())]
        for other, phase in others:
            model = self.trainer.accelerator.unwrap_model(other) if isinstance(other, torch.nn.Module) else None
            if model is not None and model is not self.model:  # a teacher may be the policy, whose passes are counted already
                self.counter.count_other(model, phase)

    def _facts(self) -> dict:
        rollouts = self.evaluation and self.evaluation.rollouts
        return {
            "regime": self.regime,
            "trainer": type(self.trainer).__name__,
            "world_size": self.trainer.accelerator.num_processes,
            "device": self.trainer.accelerator.device.type,
            "seed": self.trainer.args.seed,
            "sampling": getattr(self.observer, "sampling", None),
            "evaluation_rollouts": rollouts and {"per_problem": rollouts.per_problem, "max_tokens": rollouts.max_tokens},
        }

    @property
    def total_flops(self) -> float:
        """Executed training FLOPs of all processes so far; the same number on every process."""
        return self.totals.total_flops

    @property
    def progress(self) -> dict[str, str]:
        """The last step in a few words for a progress line; see `Totals`."""
        return self.totals.progress

    @property
    def heldout_states(self) -> "list[State]":
        """What the evaluations of the first held-out set found so far."""
        return [] if self.evaluation is None else self.evaluation.states

    def add_rows(self, table: str, rows: list[dict]) -> None:
        """Collect rows of a table; those that do not say their place are of the step under way."""
        place = self.place()
        self.recording.add_rows(table, [row if "step" in row else place | row for row in rows])

    def place(self) -> dict:
        """The step under way, and the generation it trains on."""
        return {"step": self.trainer.state.global_step + 1, "generation_step": self.observer.generation_step}

    # ---- the trainer's events ----------------------------------------------------------------------------------------

    def _around_train(self, original, *args, **kwargs):
        """A training that ends with an error or an interrupt leaves what was measured, and why it ended."""
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            self.close_failed(error)
            raise

    def on_train_begin(self, args, state, control, **kwargs):
        """Score the start; a resumed run counts on from its checkpoint's step."""
        uncounted_flops = self.totals.uncounted_flops()
        if not self.recording.has_trained:
            self._flops_before_training = uncounted_flops
        # under way: the trainer begins once more by itself, with a smaller batch after it ran out of memory
        if args.resume_from_checkpoint or state.global_step > 0 or self.recording.under_way:
            self._resume(state.global_step, uncounted_flops)
        else:
            self.recording.check_new()
        self.recording.has_trained = self.recording.under_way = True
        if state.global_step == 0:
            self.totals.begin()
        if self.evaluation is not None:
            self.evaluation.schedule(self.total_flops, self._flops_before_training)
            if state.global_step == 0:
                self._evaluate(0, list(self.evaluation.sets))
        self.totals.restart_clock()

    def _resume(self, step: int, uncounted_flops: float) -> None:
        """Count on from the record of a step."""
        last, evaluations = self.recording.resume(step)
        self.observer.resume(last.pop("generation_step", None) or 0)
        spent_here = step > 0 or self.recording.has_trained
        self.totals.resume(last, uncounted_flops, spent_here)
        if spent_here and step == 0:
            self._flops_before_training = 0.0
        if self.evaluation is not None:
            self.evaluation.resume(step, evaluations)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """The backward pass of the step, or of a micro-batch, is over."""
        self.counter.backward_ended()

    on_substep_end = on_pre_optimizer_step

    def on_step_end(self, args, state, control, **kwargs):
        """Sum up the step over processes, evaluate where due, and write the step line."""
        self.observer.end_step()
        self.totals.end_step()
        if self.evaluation is not None and self.evaluation.is_due(self.total_flops):
            self._evaluate(state.global_step, [self.evaluation.first])
        place = {"step": state.global_step, "generation_step": self.observer.generation_step}
        self.recording.add_step(self.totals.step_line(place))
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
                callback.training_bar.set_postfix(self.progress, refresh=False)
        self.totals.restart_clock()

    def _evaluate(self, step: int, splits: list[str]) -> None:
        """Score held-out sets, and record them."""
        self.evaluation.schedule(self.total_flops, self._flops_before_training)
        so_far = {"total_flops": self.total_flops, "total_seconds": self.cumulative["seconds/total"]}
        self.recording.add_rows("evals", self.evaluation.scored(step, splits, so_far, self._evaluation_flops))

    def _evaluation_flops(self) -> float:
        self.totals.count_flops()  # at the end of training no step line follows that could say it
        return self.cumulative["flops/evaluation"]

    def _around_evaluate(self, original, *args, **kwargs):
        self.counter.evaluating = True
        try:
            return original(*args, **kwargs)
        finally:
            self.counter.evaluating = False

    def on_evaluate(self, args, state, control, **kwargs):
        """What the trainer's own evaluation cost is no part of the next step."""
        self.totals.count_flops()
        self.totals.restart_clock()

    def _around_log(self, original, logs: dict, *args, **kwargs) -> None:
        """Whatever back end the trainer reports to sees the last step's metrics too, after the trainer's own."""
        is_of_training = "loss" in logs  # and neither an evaluation nor the closing summary
        original(logs, *args, **kwargs)
        if not (is_of_training and self._reports):
            return
        metrics = {key: value for key, value in self.totals.last_line.items() if key.startswith(LOGGED) and value is not None}
        try:
            with groups_of_their_own():
                Trainer.log(self.trainer, metrics)
        except Exception as error:  # a back end raises what it likes
            if self.recording.strict:
                raise
            self._reports = False
            fault = f"{type(error).__name__}: {error}"
            tell(f"a reporting back end fails ({fault}); records go on in {self.recording.run_dir}")

    def _around_save(self, original, *args, **kwargs):
        self.recording.hold(self.trainer.state.global_step, self.observer.pending_rollouts())
        return original(*args, **kwargs)

    def on_train_end(self, args, state, control, **kwargs):
        """Score the end, and finish the records."""
        self.observer.end_generation()
        if self.evaluation is not None and (splits := self.evaluation.not_scored_at(state.global_step)):
            self._evaluate(state.global_step, splits)
        self.recording.under_way = False
        if self.finishes_with_training:
            self.close()
        else:
            self.recording.flush()

    def close(self) -> None:
        """Write into the manifest that the run is finished: nothing comes after this."""
        self.recording.close("finished")

    def close_failed(self, error: BaseException) -> None:
        """Write into the manifest that the run failed and why; what was measured is kept, and the run can be resumed."""
        self.recording.under_way = False
        self.counter.generating = self.counter.paused = False  # it may have ended in the middle of a generation
        try:
            self.add_rows("rollouts", self.observer.pending_rollouts(alone=True))
            self.recording.close("failed", " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":"))
        except RecordError as refused:
            tell(f"the records of the failed training are not closed: {refused}")
