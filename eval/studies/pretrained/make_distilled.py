"""On-policy self-distillation: the model under the bare prompt learns from itself after solved problems, with TRL's SDFTTrainer.

    accelerate launch eval/studies/pretrained/make_distilled.py --config eval/studies/pretrained/make_distilled.yaml --context_shots 4 --output_dir FOLDER

Takes TRL's `SDFTConfig` and `ModelConfig`, and the choices of `RunArguments` and below. Rollouts are drawn under the bare prompt; the teacher, which is the model as it was before training, predicts their tokens after the
solved problems.
"""

import dataclasses
from dataclasses import dataclass

from datasets import Dataset
from trl import ModelConfig, get_peft_config
from trl.experimental.sdft import SDFTConfig, SDFTTrainer

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.options import option
from bitsample_llm.training.arguments import OneLineParser, RunArguments, one_line_errors
from bitsample_llm.training.manifest import run_manifest
from bitsample_llm.training.processes import report_processes
from bitsample_llm.training.prompt_format import check_shots
from bitsample_llm.training.run import set_up_process, train_and_record
from bitsample_llm.training.started import started


@dataclass
class DistilledChoices:
    """What the teacher sees and the student does not."""

    context_shots: int = option(4, "Solved training problems before the teacher's prompt; they are not trained on.")


def main() -> None:
    set_up_process()
    with one_line_errors():
        study, choices, args, model_args = OneLineParser(
            (RunArguments, DistilledChoices, SDFTConfig, ModelConfig)
        ).parse_args_and_config()
        report_processes()
        start = started(study, args, model_args)
        problems = start.problems
        check_shots("--context_shots", choices.context_shots, problems.train)
        train, shots = problems.train[: -choices.context_shots], problems.train[-choices.context_shots :]
        problems = dataclasses.replace(problems, train=train)
        context = "".join(f"{shot.prompt}{shot.completion}{study.shot_separator}" for shot in shots)
        verifier = RolloutVerifier(problems.task, problems.train, start.tokenizer, start.verifier.end)
        study.arm = study.arm or "distilled"
        rows = [{"prompt": p.prompt, "privileged_context": context, "problem_id": p.problem_id} for p in problems.train]
        trainer = SDFTTrainer(
            model=start.model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=start.tokenizer,
            peft_config=get_peft_config(model_args),
        )
        manifest = run_manifest(study, args, model_args, problems, choices=vars(choices))
    train_and_record(trainer, study, problems, manifest, start.checkpoint, verifier)


if __name__ == "__main__":
    main()
