"""Measure a model's pass rates before spending on RL: rollouts of every prompt, their verdicts and their price.

    accelerate launch recipes/measure.py --config recipes/configs/measure.yaml --output_dir runs/measure
    python -m eval.plan runs/measure

Half of a prompt's rollouts select the prompts worth keeping, the other half says what they offer. Probes ask whether the skill
is latent. A measurement that was stopped goes on with `--resume_from_checkpoint last`. Takes `RunArguments`, TRL's `ModelConfig` and the choices below.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType
from transformers import GenerationConfig
from trl import ModelConfig
from trl.trainer.utils import disable_dropout_in_model

from bitsample_llm.measure.measurement import MeasuredPrompt, Sampler, flops_per_sample
from bitsample_llm.measure.probes import shot_separator, train_briefly, with_mark, with_prefix, with_shots
from bitsample_llm.measure.recorder import UPDATES, Recorded, Recorder, resumed, shared_by_all
from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.options import check_output_dir
from bitsample_llm.records import check_run_dir
from bitsample_llm.records.writer import RunWriter
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import check_completion_length
from bitsample_llm.tasks import Problem
from bitsample_llm.training.arguments import OneLineParser, RunArguments, one_line_errors
from bitsample_llm.training.loading import declared_end, load_model_and_tokenizer
from bitsample_llm.training.manifest import run_manifest
from bitsample_llm.training.problems import RunProblems, load_problems
from bitsample_llm.training.processes import part, report_processes
from bitsample_llm.training.prompt_format import problems_for_model
from bitsample_llm.training.run import set_up_process


@dataclass
class MeasureChoices:
    """How much is measured, and which probes."""

    output_dir: str | None = field(default=None, metadata={"help": "Run directory for the records."})
    num_generations: int = field(default=32, metadata={"help": "Rollouts a training prompt; even, at least 4."})
    batch_size: int = field(default=256, metadata={"help": "Rollouts sampled at once on a process."})
    max_completion_length: int = field(default=256, metadata={"help": "Tokens of a rollout at most."})
    seed: int = field(default=42, metadata={"help": "Seed of the rollouts."})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "last: go on after the last part that a stopped measurement recorded."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU."})
    probe_mark: str | None = field(default=None, metadata={"help": "Better prompt of the arithmetic tasks: another author's mark."})
    probe_prompt_prefix: str | None = field(default=None, metadata={"help": "Better prompt: a text before every prompt."})
    probe_shots: int = field(default=0, metadata={"help": "Solved training problems before every prompt."})
    probe_updates: int = field(
        default=0, metadata={"help": "Updates of a short GRPO run on the training problems, measured on the held-out ones."}
    )
    probe_learning_rate: float = field(
        default=1e-5, metadata={"help": "Learning rate of that run; the plan says if it was too low to move anything."}
    )
    probe_rollouts_per_update: int = field(default=32, metadata={"help": "Rollouts of its updates, in groups of 8."})

    def to_dict(self) -> dict:
        """The choices as the manifest has them."""
        return dataclasses.asdict(self)


PROBE_GROUP_SIZE = 8


def check_choices(choices: MeasureChoices, num_processes: int) -> None:
    """Refuse what cannot be measured.

    Raises:
        ValueError: naming the option.
    """
    check_output_dir(choices.output_dir)
    if choices.resume_from_checkpoint not in (None, "last"):
        raise ValueError(f"--resume_from_checkpoint takes last, got {choices.resume_from_checkpoint!r}")
    if choices.num_generations < 4 or choices.num_generations % 2:
        raise ValueError(f"--num_generations must be even and at least 4, for two halves, got {choices.num_generations}")
    for name in ("batch_size", "max_completion_length"):
        if getattr(choices, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(choices, name)}")
    for name in ("probe_shots", "probe_updates"):
        if getattr(choices, name) < 0:
            raise ValueError(f"--{name} must not be negative, got {getattr(choices, name)}")
    parts = math.lcm(PROBE_GROUP_SIZE, num_processes)
    if choices.probe_rollouts_per_update < 1 or choices.probe_rollouts_per_update % parts:
        raise ValueError(f"--probe_rollouts_per_update must be a multiple of {parts}, got {choices.probe_rollouts_per_update}")


def asked_otherwise(
    choices: MeasureChoices, problems: list[Problem], tokenizer, max_tokens: int | None, end: AnswerEnd
) -> dict[str, list[Problem]]:
    """The training problems under each prompt probe that was asked for."""
    probes = {}
    if choices.probe_prompt_prefix:
        probes["prefix"] = with_prefix(problems, choices.probe_prompt_prefix)
    if choices.probe_mark:
        probes["mark"] = with_mark(problems, choices.probe_mark)
    if choices.probe_shots:
        probes["shots"] = with_shots(problems, choices.probe_shots, tokenizer, max_tokens, end)
    return probes


def told_of_probes(choices: MeasureChoices, end: AnswerEnd) -> dict[str, str]:
    """What each probe did, in words for the plan."""
    updates = f"{choices.probe_updates} GRPO updates of {choices.probe_rollouts_per_update} rollouts"
    return {
        "prefix": f"prompt after {choices.probe_prompt_prefix!r}",
        "mark": f"prompt under author mark {choices.probe_mark!r}",
        "shots": f"{choices.probe_shots} solved problems before the prompt, parted by {shot_separator(end.tokenizer, end.stop)!r}",
        "updates": f"{updates} at learning rate {choices.probe_learning_rate:g}, on held-out prompts",
    }


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
    found = {"flops_per_sample": flops_per_sample(recorder.sampler, problems.train, plain, recorder.line)}
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
            PROBE_GROUP_SIZE,
        )
        recorder.sampler.model.train()
        after = recorder.measure(heldout, half, "updates")
        found["updates_moved_bits"] = moved_bits(before, after)
    recorder.close()
    return found


def rollouts_in_all(choices: MeasureChoices, problems: RunProblems, probes: dict[str, list[Problem]]) -> int:
    """Rollouts of all conditions; those that the short branch trains on are not among them."""
    num_prompts = len(problems.train) * (2 + len(probes))
    num_prompts += 2 * len(problems.evaluation_sets["heldout"]) if choices.probe_updates else 0
    return num_prompts * (choices.num_generations // 2)


def moved_bits(before: list[MeasuredPrompt], after: list[MeasuredPrompt]) -> float | None:
    """Mean change, whichever way, of the surprisal of a label; None where a problem has none."""
    pairs = [(b.label_surprisal_bits, a.label_surprisal_bits) for b, a in zip(before, after, strict=True)]
    return None if any(None in pair for pair in pairs) else sum(abs(a - b) for b, a in pairs) / len(pairs)


def recorded(
    manifest: dict, run_dir: Path, is_main: bool, work: Callable[[RunWriter | None], dict], writer: RunWriter | None = None
) -> None:
    """Do the work with a writer on the first process, a new one if none is given, and close the records: finished, or failed with
    the reason."""
    if is_main and writer is None:
        writer = RunWriter.create(run_dir, manifest)
    try:
        found = work(writer)
    except BaseException as error:  # also an interrupt: the records say why they end, and the error goes on
        if writer is not None:
            writer.close("failed", f"{type(error).__name__}: {error}")
        raise
    if writer is not None:
        writer.manifest |= found
        writer.close("finished")


def main() -> None:
    set_up_process()
    with one_line_errors():
        study, choices, model_args = OneLineParser((RunArguments, MeasureChoices, ModelConfig)).parse_args_and_config()
        accelerator = Accelerator(cpu=choices.use_cpu)
        report_processes()
        check_choices(choices, accelerator.num_processes)
        if model_args.use_peft:
            raise ValueError("--use_peft: measure prices full training and trains no adapter; leave it out")
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
        problems = problems_for_model(problems, model, tokenizer, study.prompt_format, reserved=reserved, end=end)
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
            done = shared_by_all(done)

        def work(writer: RunWriter | None) -> dict:
            recorder = Recorder(sampler, counter, writer, rollouts_in_all(choices, problems, probes), done)
            return measure(recorder, choices, problems, probes)

        recorded(manifest, run_dir, accelerator.is_main_process, work, writer)
    if accelerator.is_main_process:
        print(f"records: {run_dir} (plan: python -m eval.plan {run_dir})")
    part(accelerator)


if __name__ == "__main__":
    main()
