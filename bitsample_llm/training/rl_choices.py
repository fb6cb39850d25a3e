"""Which trainer learns from rewards, what is it told, and which options go together?"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import yaml
from accelerate import PartialState
from trl import GRPOConfig, GRPOTrainer, ModelConfig, RLOOConfig, RLOOTrainer
from trl.import_utils import is_vllm_available

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.options import option
from bitsample_llm.tasks import Problem
from bitsample_llm.training.arguments import OneLineParser, RunArguments
from bitsample_llm.training.credit import CREDITS
from bitsample_llm.training.objectives import (
    ReinforceTrainer,
    RejectionTrainer,
    VerdictLikelihoodTrainer,
    skipping_dead_updates,
)
from bitsample_llm.training.process_grpo import ProcessGRPOTrainer
from bitsample_llm.training.rewards import RandomReward, VerdictReward
from bitsample_llm.training.rollout_prompt import drawing_under_other_prompt
from bitsample_llm.training.selection import SelectionArguments, Selector, SelectsPrompts, selecting
from bitsample_llm.training.self_play import ProblemSetter, ProposalVerifier, SelfPlayArguments, self_playing
from bitsample_llm.training.value_function import ValueArguments, learning_value
from bitsample_llm.training.votes import VoteArguments, voting

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
class GRPOChoices(SelectionArguments, ValueArguments, VoteArguments, SelfPlayArguments):
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


def training_row(problem: Problem) -> dict:
    """A row of what TRL draws rollouts for."""
    row = {"prompt": problem.prompt, "problem_id": problem.problem_id}
    return row if problem.rollout_prompt is None else row | {"rollout_prompt": problem.rollout_prompt}


def reward_function(name: str, verifier: RolloutVerifier, seed: int):
    """What TRL calls for the scalar reward."""
    if name == "random":
        return RandomReward(seed, PartialState().process_index)
    return VerdictReward(verifier, name)


def verifier_class(choices: GRPOChoices) -> type[RolloutVerifier]:
    """What judges the rollouts."""
    return RolloutVerifier if choices.self_play == "none" else ProposalVerifier


def _check_self_play(choices: GRPOChoices, verifier: RolloutVerifier) -> None:
    if choices.trainer != "grpo" or choices.reward != "outcome":
        raise ValueError("--self_play needs --trainer grpo and --reward outcome")
    if own := _which_read_verdicts(choices) or "--vote" * (choices.vote is not None):
        raise ValueError(f"--self_play and {own} do not go together: leave one of the two out")
    if any(problem.rollout_prompt is not None for problem in verifier.problem_by_id.values()):
        raise ValueError("--self_play and --rollout_prompt_column do not go together: leave one of the two out")
    if any(not isinstance(problem.prompt, str) for problem in verifier.problem_by_id.values()):
        raise ValueError("--self_play reads problems from text, and the prompts are conversations: pass --prompt_format text")


def trainer_of(choices: GRPOChoices, verifier: RolloutVerifier, seed: int, max_completion_length: int) -> tuple[type, dict]:
    """The trainer's class, and what it takes besides TRL's arguments; a ValueError for choices that do not go together."""
    trainer_class, extra = _plain_trainer_of(choices, verifier)
    if choices.stop_as_others and not choices.stop_at_low_value:
        raise ValueError("--stop_as_others is a control for --stop_at_low_value: pass that too")
    if choices.stop_at_low_value or choices.value_baseline:
        if choices.reward != "outcome" or choices.stop_at_first_error or choices.trainer not in ("grpo", "rloo"):
            raise ValueError(
                "--stop_at_low_value and --value_baseline need --trainer grpo or rloo, --reward outcome and no --stop_at_first_error"
            )
        if not choices.value_run_on > 0:
            raise ValueError(
                f"--value_run_on must be above 0, since the value function learns from rollouts that run on, got {choices.value_run_on}"
            )
        trainer_class, extra = learning_value(trainer_class), extra | {"value": choices}
    if choices.vote is not None:
        if choices.reward != "outcome" or choices.trainer not in ("grpo", "rloo", "reinforce"):
            raise ValueError("--vote needs --trainer grpo, rloo or reinforce, and --reward outcome")
        if own := _which_read_verdicts(choices):
            raise ValueError(f"--vote gives rollouts the verdict of others, and {own} their own: leave one of the two out")
        trainer_class, extra = voting(trainer_class), extra | {"vote": choices, "verifier": verifier}
    if any(problem.rollout_prompt is not None for problem in verifier.problem_by_id.values()):
        if own := _which_read_verdicts(choices):
            raise ValueError(f"--rollout_prompt_column and {own} do not go together: leave one of the two out")
        trainer_class = drawing_under_other_prompt(trainer_class)
    if choices.self_play != "none":
        _check_self_play(choices, verifier)
        setter = ProblemSetter(verifier, max_completion_length)
        return self_playing(trainer_class), extra | {"setter": setter, "trains_proposer": choices.self_play == "near_half"}
    if choices.selection == "shuffled":
        return trainer_class, extra
    if choices.reward != "outcome":
        raise ValueError(
            f"--selection {choices.selection} chooses by verdicts, and --reward {choices.reward} is none: use --reward outcome"
        )
    if choices.selection == "probe" and (choices.stop_at_first_error or choices.stop_at_low_value):
        raise ValueError("--selection probe needs rollouts that run on: no --stop_at_first_error and no --stop_at_low_value")
    problems = list(verifier.problem_by_id.values())
    selector = Selector(choices, problems, seed, verifier.end, verifier)
    return selecting(trainer_class, SelectsPrompts), extra | {"selector": selector}


def _which_read_verdicts(choices: GRPOChoices) -> str:
    """The first of the chosen options that decide by a rollout's own verdict under its own prompt; empty if none does."""
    chosen = {"--stop_at_first_error": choices.stop_at_first_error, "--stop_at_low_value": choices.stop_at_low_value}
    chosen |= {"--value_baseline": choices.value_baseline, f"--selection {choices.selection}": choices.selection != "shuffled"}
    return next((name for name, is_chosen in chosen.items() if is_chosen), "")


def _plain_trainer_of(choices: GRPOChoices, verifier: RolloutVerifier) -> tuple[type, dict]:
    credit = CREDITS[choices.reward]
    needs_steps = choices.reward not in ("outcome", "random") or choices.stop_at_first_error
    if needs_steps and not getattr(verifier.task, "judges_steps", True):
        raise ValueError(f"--reward {choices.reward} and --stop_at_first_error need step verdicts: use --verifier exact")
    if credit.step_advantages is None and not choices.stop_at_first_error:
        if choices.trainer != "verdict_likelihood":
            trainer_class = TRAINERS[choices.trainer][0]
            return skipping_dead_updates(trainer_class) if choices.skip_dead_updates else trainer_class, {}
        if choices.skip_dead_updates or choices.reward != "outcome":
            raise ValueError(
                "--trainer verdict_likelihood learns from --reward outcome, and from fails too: no --skip_dead_updates"
            )
        return VerdictLikelihoodTrainer, {"verifier": verifier}
    if choices.trainer != "grpo":
        raise ValueError(f"--reward {choices.reward} and --stop_at_first_error need --trainer grpo, got {choices.trainer}")
    if choices.skip_dead_updates and credit.step_advantages is not None:
        raise ValueError(f"--reward {choices.reward} cannot be combined with --skip_dead_updates")
    trainer_class = skipping_dead_updates(ProcessGRPOTrainer) if choices.skip_dead_updates else ProcessGRPOTrainer
    return trainer_class, {"credit": credit, "verifier": verifier, "stop_at_first_error": choices.stop_at_first_error}


def arm_name(choices: GRPOChoices) -> str:
    """The trainer, with what it is told where that is not the outcome of a whole rollout."""
    words = [choices.trainer, choices.reward * (choices.reward != "outcome"), "stop" * choices.stop_at_first_error]
    words += [choices.selection * (choices.selection != "shuffled"), "stop_at_low_value" * choices.stop_at_low_value]
    words += ["stop_as_others" * choices.stop_as_others, "value_baseline" * choices.value_baseline]
    words += [f"{choices.vote}_of_{choices.vote_size}" * (choices.vote is not None)]
    words += [f"self_play_{choices.self_play}" * (choices.self_play != "none")]
    return "_".join(word for word in words if word)
