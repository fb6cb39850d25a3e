"""The meter: what a TRL trainer's samples tell, and what they cost, written down as it trains.

    meter = InformationMeter(trainer, output_dir="runs/mine")
    trainer.add_callback(meter)

It only observes.
"""

import contextlib
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import trl
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback

from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.meter.heldout import HeldOut, evaluation_rollouts
from bitsample_llm.meter.observers import LabelObserver, finite, wrap
from bitsample_llm.meter.rollouts import DistillationObserver, RolloutObserver
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.records import RecordError, RecordWriteError, check_run_dir, holds_unfinished_run, read_run
from bitsample_llm.records.glossary import PHASES, TRAINING_PHASES, is_cumulative
from bitsample_llm.records.writer import RunWriter
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.tasks import Problem

LOGGED = ("bits/", "flops/", "group/")  # metrics that go to the trainer's back ends too
TESTED_TRL = "1.16"
PETA = 1e15


def regime_of(trainer) -> str:
    """What a trainer learns from: `sft`, `rl` or `distillation`.

    Raises:
        TypeError: for a trainer that learns from something else.
    """
    if isinstance(trainer, trl.GRPOTrainer | trl.RLOOTrainer):
        return "rl"
    if isinstance(trainer, trl.DistillationTrainer):
        return "distillation"
    if isinstance(trainer, trl.SFTTrainer) and not hasattr(trainer, "teacher_model"):
        return "sft"
    known = "SFTTrainer, GRPOTrainer, RLOOTrainer and DistillationTrainer"
    raise TypeError(f"InformationMeter knows {known}, and not what a {type(trainer).__name__} learns from")


@cache  # once a process
def _warn_of_untested_trl(version: str) -> None:
    warnings.warn(f"TRL {version} is not one that InformationMeter was tested with ({TESTED_TRL})", stacklevel=4)


class InformationMeter(TrainerCallback):
    """Records bits and FLOPs of a TRL trainer into a run directory.

    Args:
        trainer: an SFTTrainer, GRPOTrainer, RLOOTrainer or DistillationTrainer, unmodified.
        output_dir: the run directory to write; see `bitsample_llm.records`.
        manifest: what the run directory should say of the run besides what the trainer knows.
        verifier: judges completions and knows the problems, which makes pass rates exact. Without one, a rollout passes if
            its reward reaches `pass_threshold`.
        evaluation_sets: split -> problems, scored at the start and at the end; the first of them also between. Where pass
            rates of any of them are not exact, rollouts of all of them are drawn and judged.
        evaluation_flops: ascending FLOPs of the trainer at which to score it, each at the first step that reaches it.
        pass_threshold: reward that counts as a pass where there is no verifier; needed unless every reward is 0 or 1.
        reward_is_verdict: whether the reward tells if a rollout passed; if not, what it offers is not measured.
        evaluation_task: judges those rollouts; the verifier's task by default. Without one such pass rates are null.
        num_eval_rollouts: how many are drawn of each problem at each evaluation.
        max_eval_tokens: tokens of such a rollout at most; by default the trainer's `max_completion_length`, 256 where it has none.
        exact_pass_rates: whether to compute the exact pass rate of every prompt where it exists, a forward pass a generation.
        strict: whether records that cannot be written, or a reporting back end that fails, end the training. If not, the
            meter says so in one line and lets it go on.
        counter: a counter that has been running on this model before the trainer was made; its FLOPs count.
        finishes_with_training: whether the end of the training finishes the records; if not, `close` does.
        stop: the text that ends an answer besides the end of sequence; the verifier's by default. A trainer that samples has to
            be made of a model on which `AnswerEnd.declare` was called.

    Attributes:
        end: where answers end.
        cumulative: cumulative metrics so far, by the glossary's keys; the same on every process.
        last_line: the last step line written.
        heldout: the evaluation sets, and what was found on the first of them.

    Raises:
        RecordError: if the run directory holds a run, or another process is writing it; if it cannot be written and the meter
            is strict. A second training with this trainer that does not resume the first has no records, or, if the meter is
            strict, this error.
        AttributeError: naming the attribute of TRL that this version of the meter misses.
        ValueError: for a model type without a FLOP formula; for a stop at which the trainer does not end rollouts.
        TypeError: for a trainer that learns from something else.
    """

    def __init__(
        self,
        trainer,
        output_dir: str | Path,
        manifest: dict | None = None,
        verifier: RolloutVerifier | None = None,
        evaluation_sets: dict[str, Sequence[Problem]] | None = None,
        evaluation_flops: Sequence[float] = (),
        pass_threshold: float | None = None,
        reward_is_verdict: bool = True,
        exact_pass_rates: bool = True,
        strict: bool = False,
        counter: FlopCounter | None = None,
        finishes_with_training: bool = True,
        stop: str | None = None,
        evaluation_task=None,
        num_eval_rollouts: int = 8,
        max_eval_tokens: int | None = None,
    ):
        if not trl.__version__.startswith(f"{TESTED_TRL}."):
            _warn_of_untested_trl(trl.__version__)
        self.regime = regime_of(trainer)
        self.trainer = trainer
        self.run_dir = Path(output_dir)
        self.strict = strict
        self.finishes_with_training = finishes_with_training
        self.model = trainer.accelerator.unwrap_model(trainer.model)
        self.end = self._answer_end(stop, verifier)
        self.counter = counter or FlopCounter(self.model, set(self.end.token_ids))
        self._count_other_models()
        self.cumulative: dict[str, float] = defaultdict(float)
        self.last_line: dict = {}
        self._counted = {key: np.zeros(len(PHASES)) for key in ("flops", "flops_useful", "seconds")}
        self._step_values: dict[str, list[float]] = defaultdict(list)
        self._informative_fraction: float | None = None  # of the generation being trained on, over all its steps
        self._has_trained = False  # whether this trainer has begun a training before
        self._under_way = False
        self._flops_before_training = 0.0
        self._clock = time.perf_counter()
        self._reports = True
        self._writer: RunWriter | None = None
        task = evaluation_task or (verifier.task if verifier is not None else None)
        sets = evaluation_sets or {}
        rollouts, warning = evaluation_rollouts(trainer, self.end, sets, task, num_eval_rollouts, max_eval_tokens)
        if warning and trainer.accelerator.is_main_process:
            self._tell(warning)
        self.heldout = HeldOut(trainer, self.model, self.end, sets, evaluation_flops, rollouts)
        self.observer = self._observer(verifier, pass_threshold, reward_is_verdict, exact_pass_rates)
        if trainer.accelerator.is_main_process:  # a finished run is refused before any training
            resumes = bool(trainer.args.resume_from_checkpoint) or holds_unfinished_run(self.run_dir)
            check_run_dir(self.run_dir, resume=resumes)
            if not resumes:
                with self._recording():
                    self._writer = RunWriter.create(self.run_dir, finite(self._facts() | (manifest or {})))
        wrap(trainer, "log", self._around_log)
        wrap(trainer, "_save_checkpoint", self._around_save)
        wrap(trainer, "train", self._around_train)  # callbacks are not told of errors and interrupts

    def _answer_end(self, stop: str | None, verifier: RolloutVerifier | None) -> AnswerEnd:
        if stop is None and verifier is not None:
            stop = verifier.end.stop
        tokenizer = getattr(self.trainer.processing_class, "tokenizer", self.trainer.processing_class)
        end = AnswerEnd.of(self.model, tokenizer, stop)
        if stop is not None and not set(end.token_ids) <= set(getattr(self.trainer, "eos_token_ids", end.token_ids)):
            how = "call AnswerEnd.of(model, tokenizer, stop).declare(model) before the trainer is made"
            raise ValueError(f"the trainer does not end rollouts at the stop {stop!r}: {how}")
        return end

    def _count_other_models(self) -> None:
        for name in ("ref_model", "teacher_model"):
            if (other := getattr(self.trainer, name, None)) is not None:
                self.counter.count_other(self.trainer.accelerator.unwrap_model(other), "score_reference")
        for reward in getattr(self.trainer, "reward_funcs", ()):
            if isinstance(reward, torch.nn.Module):
                self.counter.count_other(self.trainer.accelerator.unwrap_model(reward), "reward_model")

    def _observer(self, verifier, *rl_choices):
        if self.regime == "rl":
            return RolloutObserver(self.trainer, self.counter, self, verifier, *rl_choices)
        if self.regime == "distillation":
            return DistillationObserver(self.trainer, self.counter, self, verifier)
        return LabelObserver(self.trainer, self.counter.causal_lm, self)

    def _around_log(self, original, logs: dict, *args, **kwargs) -> None:
        """Whatever back end the trainer reports to sees the last step's metrics too, after the trainer's own."""
        is_of_training = "loss" in logs  # and neither an evaluation nor the closing summary
        original(logs, *args, **kwargs)
        if not (is_of_training and self._reports):
            return
        metrics = {key: value for key, value in self.last_line.items() if key.startswith(LOGGED) and value is not None}
        try:
            Trainer.log(self.trainer, metrics)
        except Exception as error:  # a back end raises what it likes
            if self.strict:
                raise
            self._reports = False
            self._tell(f"a reporting back end fails ({type(error).__name__}: {error}); records go on in {self.run_dir}")

    @staticmethod
    def _tell(message: str) -> None:
        tqdm.write(f"InformationMeter: {' '.join(message.split())}", file=sys.stderr)

    @contextlib.contextmanager
    def _recording(self, but_for: type[RecordError] = RecordWriteError):
        """A disk that refuses stops the records and not the training, unless the meter is strict."""
        try:
            yield
        except but_for as error:
            if self.strict:
                raise
            self._writer = None
            self._tell(f"stopped, the training goes on without records: {error}")

    def _around_train(self, original, *args, **kwargs):
        """A training that ends with an error or an interrupt leaves what was measured, and why it ended."""
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            self.close_failed(error)
            raise

    def _around_save(self, original, *args, **kwargs):
        """Write the rows before the checkpoint that a resume counts on from, so that a kill between leaves no gap."""
        pending = self.observer.pending_rollouts()
        if self._writer is not None:
            with self._recording():
                self._writer.flush()
                if pending:
                    self._writer.hold(self.trainer.state.global_step, pending)
        return original(*args, **kwargs)

    def _facts(self) -> dict:
        rollouts = self.heldout.rollouts
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
        return sum(self.cumulative[f"flops/{phase}"] for phase in TRAINING_PHASES)

    @property
    def log2_pass_rates(self) -> list[float | None]:
        """What the evaluations of the first set found so far; see `HeldOut`."""
        return self.heldout.log2_pass_rates

    # ---- what the observers say --------------------------------------------------------------------------------------

    def place(self) -> dict:
        """The step under way, and the generation it trains on."""
        return {"step": self.trainer.state.global_step + 1, "generation_step": self.observer.generation_step}

    def add_rows(self, table: str, rows: list[dict]) -> None:
        """Collect rows of a table; those that do not say their place are of the step under way."""
        if self._writer is not None:
            place = self.place()
            self._writer.add_rows(table, [finite(place | row) for row in rows])  # written to disk later

    def observe(self, key: str, values: list[float]) -> None:
        """Add values whose mean over the step is the metric `key`."""
        self._step_values[key] += values

    def count(self, key: str, amount: float) -> None:
        """Add an amount to the cumulative metric `key`."""
        self.cumulative[key] += amount

    # ---- the trainer's events ----------------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, **kwargs):
        """Score the start; a resumed run counts on from its checkpoint's step."""
        uncounted = self._uncounted_flops(args.device)
        if not self._has_trained:
            self._flops_before_training = uncounted
        # under way: the trainer begins once more by itself, with a smaller batch after it ran out of memory
        if args.resume_from_checkpoint or state.global_step > 0 or self._under_way:
            self._resume(state.global_step, uncounted)
        elif self._writer is None and state.is_world_process_zero:
            if self._has_trained:
                with self._recording(RecordError):
                    check_run_dir(self.run_dir, resume=False)  # which refuses it
            elif holds_unfinished_run(self.run_dir):
                check_run_dir(self.run_dir, resume=False)
        self._has_trained = self._under_way = True
        if state.global_step == 0:  # what the counter saw before there was a trainer
            self._count_flops(args.device)
            self.cumulative["seconds/total"] += sum(self.cumulative[f"seconds/{phase}"] for phase in TRAINING_PHASES)
        self.heldout.schedule(self.total_flops, self._flops_before_training)
        if self.heldout.sets and state.global_step == 0:
            self._evaluate(0, list(self.heldout.sets))
        self._clock = time.perf_counter()

    def _uncounted_flops(self, device) -> float:
        """Training FLOPs of all processes since they were last summed up; the same number on every process."""
        new = dict(zip(PHASES, np.array(self.counter.totals()["flops"]) - self._counted["flops"], strict=True))
        total = torch.tensor(sum(new[phase] for phase in TRAINING_PHASES), dtype=torch.float64, device=device)
        return float(self.trainer.accelerator.reduce(total, "sum"))

    def _resume(self, step: int, uncounted_flops: float) -> None:
        """Count on from the record of a step: of an earlier process, or of this trainer before it was interrupted."""
        last: dict = {}
        rows: list[dict] = []
        if self.trainer.accelerator.is_main_process:
            if self._writer is not None and not self._under_way:  # a new record of a training that has begun without it
                with self._recording():
                    self._writer.begin_after(step)
            elif (self.run_dir / "manifest.json").exists():
                with self._recording(RecordError if self._has_trained else RecordWriteError):
                    if self._writer is not None:
                        self._writer.flush()
                    self._writer, last = RunWriter.resume(self.run_dir, step)
                    columns = ["step", "split", "log2_pass_rate", "num_passed", "num_rollouts"]
                    rows = read_run(self.run_dir).table("evals").select(columns).to_pylist()
        last, rows = gather_object([(last, rows)])[0]
        self.observer.resume(last.pop("generation_step", None) or 0)
        if step > 0 or self._has_trained:  # what the counter saw and no step line tells of was spent in vain
            self._counted = {key: np.array(values) for key, values in self.counter.totals().items()}
            uncounted_flops += self.total_flops - self.last_line.get("flops/total", 0.0)
            self._flops_before_training *= step > 0
        else:
            uncounted_flops = 0.0
        self.cumulative.clear()
        # null stays unknown: NaN here, whatever is added to it
        self.cumulative |= {key: np.nan if value is None else value for key, value in last.items() if is_cumulative(key)}
        self.cumulative["flops/lost"] += uncounted_flops
        self.last_line = last
        self._step_values.clear()
        self._informative_fraction = None
        self.heldout.resume(step, rows)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """The backward pass of the step is over."""
        self.counter.backward_ended()

    def on_substep_end(self, args, state, control, **kwargs):
        """The backward pass of a micro-batch is over."""
        self.counter.backward_ended()

    def on_step_end(self, args, state, control, **kwargs):
        """Sum up the step over processes, evaluate where due, and write the step line."""
        self.observer.end_step()
        flops_before, evaluation_seconds = self.total_flops, self.cumulative["seconds/evaluation"]
        self._count_flops(args.device)
        evaluation_seconds = self.cumulative["seconds/evaluation"] - evaluation_seconds  # exact pass rates of the prompts
        self.cumulative["seconds/total"] += time.perf_counter() - self._clock - evaluation_seconds
        if informative := self._step_values.get("group/informative_fraction"):
            self._informative_fraction = float(np.mean(informative))
        if self._informative_fraction is not None:
            dead_flops = self.cumulative["flops/dead_group_fraction"] * flops_before
            dead_flops += (1 - self._informative_fraction) * (self.total_flops - flops_before)
            self.cumulative["flops/dead_group_fraction"] = dead_flops / self.total_flops
        if self.heldout.is_due(self.total_flops):
            self._evaluate(state.global_step, [self.heldout.first])
        self._write_step(state.global_step)
        self._show_progress()
        self._clock = time.perf_counter()

    def on_evaluate(self, args, state, control, **kwargs):
        """What the trainer's own evaluation cost is no part of the next step."""
        self._count_flops(args.device)
        self._clock = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        """Score the end, and finish the records."""
        self.observer.end_generation()
        if splits := self.heldout.not_scored_at(state.global_step):
            self._evaluate(state.global_step, splits)
        self._under_way = False
        if self.finishes_with_training:
            self.close()
        elif self._writer is not None:
            with self._recording():
                self._writer.flush()

    def close(self) -> None:
        """Write into the manifest that the run is finished: nothing comes after this."""
        self._close("finished")

    def close_failed(self, error: BaseException) -> None:
        """Write into the manifest that the run failed and why; what was measured is kept, and the run can be resumed."""
        self._under_way = False
        self.counter.generating = self.counter.paused = False  # it may have ended in the middle of a generation
        try:
            self.add_rows("rollouts", self.observer.pending_rollouts(alone=True))
            self._close("failed", " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":"))
        except RecordError as refused:
            self._tell(f"the records of the failed training are not closed: {refused}")

    def _close(self, state: str, reason: str | None = None) -> None:
        if (writer := self._writer) is not None:
            self._writer = None
            with self._recording():
                writer.close(state, reason)

    # ---- summing up --------------------------------------------------------------------------------------------------

    def _count_flops(self, device) -> None:
        """Add what the counters of all processes saw since the last call; seconds are of the first process."""
        for key, values in self.counter.totals().items():
            new = np.array(values) - self._counted[key]
            self._counted[key] = np.array(values)
            if key != "seconds":
                new = self.trainer.accelerator.reduce(torch.tensor(new, device=device), "sum").cpu().numpy()
            for phase, value in zip(PHASES, new, strict=True):
                self.cumulative[f"{key}/{phase}"] += float(value)
        self.cumulative["flops/total"] = self.total_flops

    def _write_step(self, step: int) -> None:
        losses = self._step_values.pop("train/loss", [])  # the trainer scales each micro-batch's part, so they add up
        measured = {key: float(np.mean(values)) for key, values in self._step_values.items() if values}
        measured["train/loss"] = float(np.sum(losses)) if losses else None
        measured["train/learning_rate"] = float(self.trainer.lr_scheduler.get_last_lr()[0])
        if "group/pass_rate_estimate" in measured:
            measured["group/num_rollouts"] = len(self._step_values["group/pass_rate_estimate"])
        if "bits/offered_total" in self.cumulative and self.total_flops:
            measured["bits/offered_per_petaflop"] = self.cumulative["bits/offered_total"] / self.total_flops * PETA
        self.cumulative.setdefault("flops/lost", 0.0)
        place = {"step": step, "generation_step": self.observer.generation_step}
        self.last_line = finite({**place, **measured, **self.cumulative})
        if self._writer is not None:
            with self._recording():
                self._writer.add_step(self.last_line)
        self._step_values.clear()

    @property
    def progress(self) -> dict[str, str]:
        """The last step in a few words for a progress line: pass rate, bits a sample and bits a petaFLOP offered."""
        line = self.last_line
        pass_rate = line.get("group/pass_rate", line.get("group/pass_rate_estimate"))
        shown = {"loss": line.get("train/loss")} if pass_rate is None else {"pass": pass_rate}
        shown |= {"bits/sample": line.get("bits/offered_per_sample"), "bits/PFLOP": line.get("bits/offered_per_petaflop")}
        return {name: f"{value:.3g}" for name, value in shown.items() if value is not None}

    def _show_progress(self) -> None:
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
                callback.training_bar.set_postfix(self.progress, refresh=False)

    def _evaluate(self, step: int, splits: Sequence[str]) -> None:
        """Score evaluation sets, and record them."""
        self.heldout.schedule(self.total_flops, self._flops_before_training)
        shared = {"total_flops": self.total_flops, "total_seconds": self.cumulative["seconds/total"]}
        rows = self.heldout.scored(step, splits, shared, self._evaluation_flops)
        if self._writer is not None:
            self._writer.add_rows("evals", rows)

    def _evaluation_flops(self) -> float:
        self._count_flops(self.trainer.args.device)  # at the end of training no step line follows that could say it
        return self.cumulative["flops/evaluation"]
