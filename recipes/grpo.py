"""Reinforcement learning with a verifiable reward on arithmetic, with TRL's GRPOTrainer (or RLOOTrainer).

    accelerate launch recipes/grpo.py --config recipes/configs/grpo.yaml --output_dir runs/grpo --learning_rate 1e-4

Takes TRL's `GRPOConfig` (`--trainer rloo`: `RLOOConfig`) and `ModelConfig` and the choices of `RunArguments` and below.
"""

import sys

from datasets import Dataset
from trl import get_peft_config

from bitsample_llm.scoring.likelihood import check_completion_length
from bitsample_llm.training.arguments import one_line_errors
from bitsample_llm.training.loading import declared_end, load_model_and_tokenizer
from bitsample_llm.training.manifest import run_manifest
from bitsample_llm.training.problems import load_problems, to_memorise
from bitsample_llm.training.processes import report_processes
from bitsample_llm.training.prompt_format import problems_for_model
from bitsample_llm.training.rl_choices import arm_name, check_training_arguments, parsed_arguments
from bitsample_llm.training.rl_trainer import (
    check_choices,
    reward_function,
    reward_is_verdict,
    rewarding_verifier,
    trainer_of,
    training_row,
    verifier_class,
)
from bitsample_llm.training.run import prepare_run_dir, set_up_process, train_and_record, unlimited_steps


def main() -> None:
    set_up_process()
    with one_line_errors():
        study, choices, args, model_args = parsed_arguments(sys.argv[1:])
        report_processes()
        check_training_arguments(args)
        problems = load_problems(study)
        checkpoint = prepare_run_dir(args)
        unlimited_steps(args, study.flop_budget)
        model, tokenizer = load_model_and_tokenizer(model_args, args.trust_remote_code, study.trained_parameters)
        end = declared_end(study, model, tokenizer)
        if end.stop is not None and args.use_vllm:
            raise ValueError("--stop needs generation by transformers: set use_vllm to false")
        reserved = args.max_completion_length
        if study.shots and study.rollout_prompt_column is not None:
            raise ValueError("--shots and --rollout_prompt_column do not go together: write solved problems into that column")
        if choices.self_play != "none" and (study.shots or study.memorise):
            raise ValueError("--self_play sets bare problems with their true answers: no --shots and no --memorise")
        problems = problems_for_model(problems, model, tokenizer, study, reserved=reserved, end=end)
        if study.memorise:
            problems = to_memorise(problems, model, tokenizer, args.seed, end)
        check_completion_length(args.max_completion_length, tokenizer, problems.train, end)
        verifier = verifier_class(choices)(problems.task, problems.train, tokenizer, end)
        if choices.self_play != "none":
            verifier.evaluated_prompts = {
                problem.prompt for name, part in problems.evaluation_sets.items() if name != "train" for problem in part
            }
        study.arm = study.arm or arm_name(choices) + "_distilled" * (study.rollout_prompt_column is not None)
        check_choices(choices, verifier)
        rewarding = rewarding_verifier(choices, verifier, model)
        trainer_class, extra = trainer_of(choices, rewarding, args.seed, reserved)
        trainer = trainer_class(
            model=model,
            reward_funcs=[reward_function(choices, rewarding, args.seed)],
            args=args,
            train_dataset=Dataset.from_list([training_row(problem) for problem in problems.train]),
            processing_class=tokenizer,
            peft_config=get_peft_config(model_args),
            **extra,
        )
        manifest = run_manifest(study, args, model_args, problems, choices=vars(choices))
    is_verdict = reward_is_verdict(choices)
    train_and_record(trainer, study, problems, manifest, checkpoint, verifier, reward_is_verdict=is_verdict)


if __name__ == "__main__":
    main()
