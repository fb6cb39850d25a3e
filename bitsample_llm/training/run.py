"""From a trainer to a finished run directory: checkpoints, evaluations, stops, the saved model.

The recipes add a TRL trainer to what is here.
"""

import json
import logging
import os
import sys
import warnings
from pathlib import Path

import datasets
import numpy as np
import transformers
from transformers import PrinterCallback, ProgressCallback

from bitsample_llm.meter.callback import InformationMeter
from bitsample_llm.meter.heldout import HeldOut
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.options import START_EVALUATIONS, check_output_dir
from bitsample_llm.records import RecordError, check_run_dir
from bitsample_llm.records.added_files import VALUES_FILE
from bitsample_llm.training.arguments import RunArguments, one_line_errors
from bitsample_llm.training.budget import FlopBudget, ProgressLine, TargetReached, Targets, end_before_the_first_step
from bitsample_llm.training.generation_server import GenerationServerError, name_lost_server
from bitsample_llm.training.learned_reward import LearnsReward
from bitsample_llm.training.memorisation import write_ceiling
from bitsample_llm.training.problems import RunProblems
from bitsample_llm.training.processes import choose_num_threads, honour_fsdp_on_cpu, part
from bitsample_llm.training.value_function import LearnsValue
from bitsample_llm.training.value_record import ValueRecord


def set_up_process() -> None:
    """What a recipe does first. The terminal is left to its own progress line: no bars for reading a small file, no warning
    meant for TRL.
    """
    honour_fsdp_on_cpu()
    choose_num_threads()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it logs of a file that it cannot read, it raises as well
    transformers.utils.logging.disable_progress_bar()


def prepare_run_dir(args) -> str | None:
    """Point the trainer's checkpoints into the run directory; the checkpoint to resume, if one was asked for and exists.

    `--resume_from_checkpoint last` means the newest one, and the beginning where there is none yet.

    Raises:
        RecordError: if the directory holds a run and no resume was asked for, or a finished one.
        ValueError: if the directory cannot be made, or the checkpoint is none.
    """
    if args.output_dir == "trainer_output":  # what transformers makes of no answer
        raise ValueError("no run directory: pass --output_dir FOLDER")
    run_dir, asked = check_output_dir(args.output_dir), args.resume_from_checkpoint
    check_run_dir(run_dir, resume=bool(asked))
    args.output_dir = str(run_dir / "checkpoints")
    if asked in ("last", "true", "True"):
        return last_whole_checkpoint(Path(args.output_dir))
    if asked and not (Path(asked) / "trainer_state.json").is_file():
        fault = "holds no checkpoint" if Path(asked).exists() else "does not exist"
        raise ValueError(f"--resume_from_checkpoint {asked} {fault}: pass last, or a folder checkpoint-STEP of the run")
    return asked


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end: a kill can leave one without its last file, the trainer's state."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        return str(path)
    return None


def evaluation_points(study: RunArguments) -> list[float]:
    """FLOPs of the trainer at which to evaluate: most learning is early, so on a log axis."""
    if not study.flop_budget:
        return []
    first = study.first_evaluation_flops or study.flop_budget / 1024
    return np.geomspace(first, study.flop_budget, study.num_evaluations)[:-1].tolist()


def train_and_record(
    trainer,
    study: RunArguments,
    problems: RunProblems,
    manifest: dict,
    checkpoint: str | None,
    verifier: RolloutVerifier | None = None,
    **meter_options,
) -> InformationMeter:
    """Train with the meter on (`meter_options` are InformationMeter's), and leave a finished run directory with the trained model.

    `finished` is written after everything else. A run that raises leaves its records with state `failed` and the reason.
    """
    args = trainer.args
    run_dir = Path(args.output_dir).parent
    model = trainer.accelerator.unwrap_model(trainer.model)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()} if study.memorise else None
    drawn = study.num_eval_rollouts, study.max_eval_tokens, study.num_kl_problems
    evaluation = HeldOut(
        problems.evaluation_sets,
        evaluation_points(study),
        problems.task,
        *drawn,
        texts=problems.texts,
        start_evaluations=os.environ.get(START_EVALUATIONS),
    )
    with one_line_errors():
        meter = InformationMeter(
            trainer,
            output_dir=run_dir,
            manifest=manifest,
            verifier=verifier,
            evaluation=evaluation,
            strict=True,
            finishes_with_training=False,
            texts=study.record_texts,
            **meter_options,
        )
    trainer.add_callback(meter)
    name_lost_server(trainer)
    if isinstance(trainer, LearnsValue):
        trainer.counter = meter.counter
        record = run_dir / VALUES_FILE
        if checkpoint is None and trainer.accelerator.is_main_process:  # of a run that was killed before its first checkpoint
            record.unlink(missing_ok=True)
        trainer.keep_record(ValueRecord(record, args.max_completion_length))
    if isinstance(trainer, LearnsReward):
        trainer.charge_to(meter.counter)
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    progress = ProgressLine(meter, study.flop_budget)
    trainer.add_callback(progress)
    stops = [FlopBudget(meter, study.flop_budget)] if study.flop_budget else []
    targets = Targets(study.target_bits, study.target_share, study.target_pass_rate, study.keep_target_for)
    stops += [TargetReached(meter, targets)] if targets else []
    for callback in stops:
        trainer.add_callback(callback)
    if checkpoint is not None:
        end_before_the_first_step(trainer, stops)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        if args.save_strategy != "no":
            trainer.save_model(str(run_dir / "model"))
        if start is not None and trainer.accelerator.is_main_process:
            model.load_state_dict(start)  # a deep copy would not do: TRL's patched forward stays bound to the original
            write_ceiling(run_dir, model, trainer.processing_class, problems.train, meter.end)
        trainer.accelerator.wait_for_everyone()
        meter.close()
    except (RecordError, GenerationServerError) as error:
        progress.close()
        sys.exit(f"error: {error}")
    except BaseException as error:  # also an interrupt: the records say why they end, and the error goes on
        meter.close_failed(error)
        raise
    if trainer.accelerator.is_main_process:
        print(f"records: {run_dir} (summary: bitsample {run_dir})")
    part(trainer.accelerator)
    return meter


def unlimited_steps(args, flop_budget: float | None) -> None:
    """Let the budget end the run where no number of steps was given."""
    if flop_budget and args.max_steps <= 0:
        args.max_steps = 10**9
