"""Which trainer learns from rewards, and what is it told?"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import yaml
from trl import GRPOConfig, GRPOTrainer, ModelConfig, RLOOConfig, RLOOTrainer
from trl.import_utils import is_vllm_available

from bitsample_llm.options import option
from bitsample_llm.training.arguments import OneLineParser, RunArguments
from bitsample_llm.training.credit import CREDITS
from bitsample_llm.training.learned_reward import JudgeArguments
from bitsample_llm.training.objectives import (
    ReinforceTrainer,
    RejectionTrainer,
    VerdictLikelihoodTrainer,
)
from bitsample_llm.training.observation import ObservationArguments
from bitsample_llm.training.selection import SelectionArguments
from bitsample_llm.training.self_play import SelfPlayArguments
from bitsample_llm.training.value_function import ValueArguments
from bitsample_llm.training.votes import VoteArguments

TRAINERS = {  # the trainer and its configuration
    "grpo": (GRPOTrainer, GRPOConfig),
    "rloo": (RLOOTrainer, RLOOConfig),
    "reinforce": (ReinforceTrainer, GRPOConfig),
    "rejection": (RejectionTrainer, GRPOConfig),
    "verdict_likelihood": (VerdictLikelihoodTrainer, GRPOConfig),
}
# TRL reads these strings as it trains
KNOWN_VALUES = {
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"),
    "scale_rewards": ("group", "batch", "none"),
    "importance_sampling_level": ("token", "sequence"),
}


@dataclass
class GRPOChoices(SelectionArguments, ValueArguments, VoteArguments, SelfPlayArguments, JudgeArguments, ObservationArguments):
    """Which trainer, and what it is told."""

    trainer: str = option(
        "grpo",
        "How to learn from rewards; reinforce has no baseline, rejection is SFT on the rollouts that passed, and "
        "verdict_likelihood is maximum likelihood of the verdicts.",
        choices=list(TRAINERS),
    )
    reward: str = option(
        "outcome",
        "outcome: 1 for a pass, 0 for a fail. process_sum: the share of right steps; process_prefix: of those before the first wrong one. process_tokens, first_error: "
        "advantages of single steps (formulas in bitsample_llm/training/credit.py). process_outcome: half first_error, half "
        "outcome. random: a fair coin, as a control.",
        choices=list(CREDITS),
    )
    skip_dead_updates: bool = option(False, "Skip the forward pass and the update of batches whose advantages are all zero.")
    stop_at_first_error: bool = option(False, "End a rollout at its first wrong step.")


def parsed_arguments(arguments: list[str]):
    """Study, choices, training and model arguments; which options there are depends on the trainer, named on the command line or in the file."""
    command_line = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option_name in ("--trainer", "--config"):
        command_line.add_argument(option_name, nargs="?")
    named = command_line.parse_known_args(arguments)[0]
    trainer = named.trainer or trainer_of_file(named.config)
    config_class = TRAINERS.get(trainer, TRAINERS["grpo"])[1]
    return OneLineParser((RunArguments, GRPOChoices, config_class, ModelConfig)).parse_args_and_config(arguments)


def trainer_of_file(config: str | None) -> str | None:
    """What a configuration file calls the trainer; None where it does not say, or cannot be read: the parser then says why."""
    try:
        options = yaml.safe_load(Path(config).read_text()) if config else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    trainer = options.get("trainer") if isinstance(options, dict) else None
    return trainer if isinstance(trainer, str) else None


def check_training_arguments(args) -> None:
    """Refuse what TRL's trainer would stumble over in its first step: a ValueError names the option."""
    for name, known in KNOWN_VALUES.items():
        if (value := getattr(args, name, known[0])) not in known:
            raise ValueError(f"--{name} must be one of {', '.join(known)}, got {value!r}")
    if args.use_vllm and not is_vllm_available():
        raise ValueError("--use_vllm true needs the package vllm: pip install 'trl[vllm]', or leave the option out")


def arm_name(choices: GRPOChoices) -> str:
    """The trainer, with what it is told where that is not the outcome of a whole rollout."""
    words = [choices.trainer, choices.reward * (choices.reward != "outcome"), "stop" * choices.stop_at_first_error]
    words += ["learned" * bool(choices.judge_rollouts), "shuffled" * (choices.judge_verdicts == "shuffled")]
    words += [choices.selection * (choices.selection != "shuffled"), "stop_at_low_value" * choices.stop_at_low_value]
    words += ["stop_as_others" * choices.stop_as_others, "value_baseline" * choices.value_baseline]
    words += [f"{choices.vote}_of_{choices.vote_size}" * (choices.vote is not None)]
    words += [f"told_{choices.told}" * (choices.told is not None)]
    words += [f"self_play_{choices.self_play}" * (choices.self_play != "none")]
    return "_".join(word for word in words if word)
