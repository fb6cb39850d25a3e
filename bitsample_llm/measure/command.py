"""The command line that measures: the prompts in two halves, then every probe."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from transformers import GenerationConfig
from trl import ModelConfig
from trl.trainer.utils import disable_dropout_in_model

from bitsample_llm.measure.choices import MeasureChoices, asked_otherwise, check_choices, told_of_probes
from bitsample_llm.measure.measurement import MeasuredPrompt, Sampler, flops_per_sample
from bitsample_llm.measure.probes import train_briefly
from bitsample_llm.measure.recorder import UPDATES, Recorded, Recorder, resumed
from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.records import check_run_dir
from bitsample_llm.records.writer import RunWriter
from bitsample_llm.scoring.likelihood import check_completion_length
from bitsample_llm.tasks import Problem
from bitsample_llm.training.arguments import OneLineParser, RunArguments, one_line_errors
from bitsample_llm.training.loading import declared_end, load_model_and_tokenizer
from bitsample_llm.training.manifest import run_manifest
from bitsample_llm.training.problems import RunProblems, load_problems
from bitsample_llm.training.processes import part, report_processes
from bitsample_llm.training.prompt_format import problems_for_model
from bitsample_llm.training.run import set_up_process


def problem_rows(problems: Sequence[Problem], measured: Sequence[MeasuredPrompt]) -> list[dict]:
    """What the table `problems` says of the prompts as they were asked."""
    return [
        {
            "problem_id": p.problem_id,
            "prompt": p.prompt if isinstance(p.prompt, str) else json.dumps(p.prompt, ensure_ascii=False),
            "answer": p.answer,
            "label_surprisal_bits": m.label_surprisal_bits,
        }
        for p, m in zip(problems, measured, strict=True)
    ]


def measure(recorder: Recorder, choices: MeasureChoices, problems: RunProblems, probes: dict[str, list[Problem]]) -> dict:
    """Measure the prompts in two halves and then every probe; what the manifest is to say of it."""
    half = choices.num_generations // 2
    plain = recorder.measure(problems.train, half, rows_of=problem_rows)
    plain += recorder.measure(problems.train, half)
    measured = {
        "flops_per_sample": flops_per_sample(recorder.sampler, recorder.counter.products, problems.train, plain, recorder.line)
    }
    for name, asked in probes.items():
        recorder.measure(asked, half, name)
    if choices.probe_updates:
        heldout = problems.evaluation_sets["heldout"]
        before = recorder.measure(heldout, half, "heldout")
        train_briefly(
            recorder.sampler,
            problems.train,
            Path(choices.output_dir) / UPDATES,
            choices.probe_updates,
            choices.probe_learning_rate,
            choices.probe_rollouts_per_update,
        )
        recorder.sampler.model.train()
        after = recorder.measure(heldout, half, "updates")
        measured["updates_moved_bits"] = moved_bits(before, after)
    recorder.close()
    return measured


def rollouts_in_all(choices: MeasureChoices, problems: RunProblems, probes: dict[str, list[Problem]]) -> int:
    """Rollouts of all conditions; those that the short branch trains on are not among them."""
    num_prompts = len(problems.train) * (2 + len(probes))
    num_prompts += 2 * len(problems.evaluation_sets["heldout"]) if choices.probe_updates else 0
    return num_prompts * (choices.num_generations // 2)


def moved_bits(before: list[MeasuredPrompt], after: list[MeasuredPrompt]) -> float | None:
    """Mean change, whichever way, of the surprisal of a label; None where a problem has none."""
    pairs = [(b.label_surprisal_bits, a.label_surprisal_bits) for b, a in zip(before, after, strict=True)]
    return None if any(None in pair for pair in pairs) else sum(abs(a - b) for b, a in pairs) / len(pairs)


@contextlib.contextmanager
def closed(writer: RunWriter | None) -> Iterator[None]:
    """Close the records after the work, where this process writes them: finished, or failed with the reason."""
    try:
        yield
    except BaseException as error:  # also an interrupt: the records say why they end, and the error goes on
        if writer is not None:
            writer.close("failed", f"{type(error).__name__}: {error}")
        raise
    if writer is not None:
        writer.close("finished")


def main() -> None:
    set_up_process()
    with one_line_errors():
        study, choices, model_args = OneLineParser((RunArguments, MeasureChoices, ModelConfig)).parse_args_and_config()
        accelerator = Accelerator(cpu=choices.use_cpu)
        report_processes()
        check_choices(choices, accelerator.num_processes, study.shots)
        if model_args.use_peft or study.trained_parameters != "all":
            raise ValueError("--use_peft, --trained_parameters: measure prices and probes training of all weights; leave them out")
        if study.memorise or study.also_evaluate:
            raise ValueError("--memorise, --also_evaluate: measure trains nothing that they are about; leave them out")
        run_dir = Path(choices.output_dir)
        if accelerator.is_main_process:
            check_run_dir(run_dir, resume=bool(choices.resume_from_checkpoint))
        problems = load_problems(study)
        if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise ValueError("measure puts the whole model on every process: launch it without sharding")
        model, tokenizer = load_model_and_tokenizer(model_args)
        max_tokens = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        end = declared_end(study, model, tokenizer)
        reserved = choices.max_completion_length
        problems = problems_for_model(problems, model, tokenizer, study, reserved=reserved, end=end)
        check_completion_length(choices.max_completion_length, tokenizer, problems.train, end)
        probes = asked_otherwise(choices, problems.train, tokenizer, max_tokens, end)
        ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": end.token_ids}
        model.generation_config = GenerationConfig(**ends)  # a model's own may sample from a narrower distribution than its own
        disable_dropout_in_model(model)
        model.to(accelerator.device).train()  # rollouts as a trainer draws them; evaluation would be left out of the price
        study.arm = study.arm or "measure"
        manifest = run_manifest(study, choices, model_args, problems) | {
            "regime": "measure",
            "trainer": "measure",
            "seed": choices.seed,
            "device": accelerator.device.type,
            "world_size": accelerator.num_processes,
            "num_generations": choices.num_generations,
            "probes": told_of_probes(choices, end),
        }
        sampler = Sampler(
            accelerator, model, tokenizer, problems.task, choices.max_completion_length, choices.batch_size, choices.seed, end
        )
        counter = FlopCounter(model, set(end.token_ids))
        writer, done = None, Recorded()
        if choices.resume_from_checkpoint:
            # the halves, the probes and the held-out prompts come before the updates
            repeat_from = 2 + len(probes) + 2 if choices.probe_updates else None
            if accelerator.is_main_process:
                writer, done = resumed(run_dir, manifest, repeat_from)
            done = broadcast_object_list([done])[0]
        elif accelerator.is_main_process:
            writer = RunWriter.create(run_dir, manifest)
        with closed(writer):
            recorder = Recorder(sampler, counter, writer, rollouts_in_all(choices, problems, probes), done)
            measured = measure(recorder, choices, problems, probes)
            if writer is not None:
                writer.manifest |= measured
    if accelerator.is_main_process:
        print(f"records: {run_dir} (plan: bitsample plan {run_dir})")
    part(accelerator)
