"""Reinforcement learning with a verifiable reward on arithmetic, with TRL's GRPOTrainer (or RLOOTrainer).

    accelerate launch recipes/grpo.py --config recipes/configs/grpo.yaml --output_dir runs/grpo --learning_rate 1e-4

Takes TRL's `GRPOConfig` (`--trainer rloo`: `RLOOConfig`) and `ModelConfig` and the choices of `StudyArguments` and below.
"""

import sys
from dataclasses import dataclass, field

from accelerate import PartialState
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, ModelConfig, RLOOConfig, RLOOTrainer, get_peft_config

from bitsample_llm.likelihood import encode_answer
from bitsample_llm.rewards import OutcomeReward, RandomReward, RolloutVerifier
from bitsample_llm.study import (
    OneLineParser,
    StudyArguments,
    load_model_and_tokenizer,
    load_problems,
    one_line_errors,
    prepare_run_dir,
    run_manifest,
    set_up_process,
    train_and_record,
    unlimited_steps,
)

TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


@dataclass
class GRPOChoices:
    """Which trainer, and what it is told."""

    trainer: str = field(default="grpo", metadata={"help": "Policy gradient to use.", "choices": list(TRAINERS)})
    reward: str = field(
        default="outcome",
        metadata={"help": "outcome: 1 for a pass. random: a fair coin, the control.", "choices": ["outcome", "random"]},
    )


def parsed_arguments(arguments: list[str]):
    """Study, choices, training and model arguments; which options there are depends on the trainer, named in either place."""
    trainer = asked_trainer(arguments)
    while True:
        config_class = TRAINERS.get(trainer, TRAINERS["grpo"])[1]
        parsed = OneLineParser((StudyArguments, GRPOChoices, config_class, ModelConfig)).parse_args_and_config()
        if TRAINERS[parsed[1].trainer][1] is config_class:
            return parsed
        trainer = parsed[1].trainer  # the YAML file named it


def asked_trainer(arguments: list[str]) -> str:
    """The trainer named on the command line, needed before parsing because it decides which options there are."""
    for index, word in enumerate(arguments):
        if word.startswith("--trainer="):
            return word.removeprefix("--trainer=")
        if word == "--trainer" and index + 1 < len(arguments):
            return arguments[index + 1]
    return "grpo"


def check_completion_length(max_completion_length: int, tokenizer, problems) -> None:
    """Refuse a limit that cuts right answers off: their pass rate would not be the probability of the answer."""
    needed = max(len(encode_answer(tokenizer, problem)[1]) for problem in problems)
    if max_completion_length < needed:
        raise ValueError(
            f"max_completion_length {max_completion_length} cuts answers off, which need {needed} tokens with their end"
        )


def main() -> None:
    set_up_process()
    with one_line_errors():
        study, choices, args, model_args = parsed_arguments(sys.argv[1:])
        problems = load_problems(study)
        checkpoint = prepare_run_dir(args)
        unlimited_steps(args, study.flop_budget)
        model, tokenizer = load_model_and_tokenizer(model_args, args.trust_remote_code)
        check_completion_length(args.max_completion_length, tokenizer, problems.train)
        if choices.reward == "outcome":
            reward = OutcomeReward(RolloutVerifier(problems.task, problems.train, tokenizer))
        else:
            reward = RandomReward(args.seed, PartialState().process_index)
        study.arm = study.arm or (choices.trainer if choices.reward == "outcome" else f"{choices.trainer}_random")
        trainer = TRAINERS[choices.trainer][0](
            model=model,
            reward_funcs=[reward],
            args=args,
            train_dataset=Dataset.from_list([{"prompt": p.prompt, "problem_id": p.problem_id} for p in problems.train]),
            processing_class=tokenizer,
            peft_config=get_peft_config(model_args),
        )
        manifest = run_manifest(study, args, model_args, problems, choices=vars(choices))
    train_and_record(trainer, study, problems, manifest, checkpoint, reward_is_verdict=choices.reward == "outcome")


if __name__ == "__main__":
    main()
