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
from bitsample_llm.training.loading import declared_end, load_model_and_tokenizer
from bitsample_llm.training.manifest import run_manifest
from bitsample_llm.training.problems import load_problems
from bitsample_llm.training.processes import report_processes
from bitsample_llm.training.prompt_format import check_shots, problems_for_model
from bitsample_llm.training.run import prepare_run_dir, set_up_process, train_and_record, unlimited_steps


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
        problems = load_problems(study)
        checkpoint = prepare_run_dir(args)
        unlimited_steps(args, study.flop_budget)
        model, tokenizer = load_model_and_tokenizer(model_args, args.trust_remote_code, study.trained_parameters)
        end = declared_end(study, model, tokenizer)
        problems = problems_for_model(problems, model, tokenizer, study, reserved=args.max_completion_length, end=end)
        check_shots("--context_shots", choices.context_shots, problems.train)
        train, shots = problems.train[: -choices.context_shots], problems.train[-choices.context_shots :]
        problems = dataclasses.replace(problems, train=train)
        context = "".join(f"{shot.prompt}{shot.completion}{study.shot_separator}" for shot in shots)
        verifier = RolloutVerifier(problems.task, problems.train, tokenizer, end)
        study.arm = study.arm or "distilled"
        rows = [{"prompt": p.prompt, "privileged_context": context, "problem_id": p.problem_id} for p in problems.train]
        trainer = SDFTTrainer(
            model=model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=get_peft_config(model_args),
        )
        manifest = run_manifest(study, args, model_args, problems, choices=vars(choices))
    train_and_record(trainer, study, problems, manifest, checkpoint, verifier)


if __name__ == "__main__":
    main()
