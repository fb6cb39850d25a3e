"""Which values may an option have? Checked by name before anything is loaded, for TRL's options and this study's alike.

TRL accepts a learning rate of -1 and a temperature of 0, and fails later or trains on nonsense. A value of another type in a file
(`max_steps: 2.5`) is caught here as well.
"""

import argparse
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

MAX_NAME_LENGTH = 100  # characters; the name of a run directory is made of two names, and file systems take 255 bytes
MAX_SEED = 2**32 - 1  # numpy's
# Environment variable that names a folder in which runs from the same weights share what evaluations of their start found; a study sets it for its
# runs. No option, because a run's results are the same without it.
START_EVALUATIONS = "BITSAMPLE_START_EVALUATIONS"

_LIMITS: dict[str, Callable[[float], bool]] = {
    "at least 0": lambda value: value >= 0,
    "at least 1": lambda value: value >= 1,
    "at least 2": lambda value: value >= 2,
    "above 0": lambda value: value > 0,
    "from 0 to 1": lambda value: 0 <= value <= 1,
    "from 0 to below 1": lambda value: 0 <= value < 1,
    "above 0 and at most 1": lambda value: 0 < value <= 1,
    f"from 0 to {MAX_SEED}": lambda value: 0 <= value <= MAX_SEED,
}
_OPTIONS = {
    "at least 0": "learning_rate weight_decay adam_epsilon max_grad_norm beta epsilon epsilon_high delta top_k problem_seed "
    "save_ladder num_kl_problems judge_rollouts probe_learning_rate probe_shots probe_updates shots warmup_steps",
    "at least 1": "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps max_length "
    "dataset_num_proc rollouts_per_prompt num_train_problems num_heldout_problems num_evaluations num_eval_rollouts max_eval_tokens "
    "difficulty generation_batch_size steps_per_generation num_iterations max_completion_length lora_r lora_alpha batch_size "
    "watch_steps keep_target_for selection_candidates selection_rollouts easy_to_hard_steps vote_size refill",
    "at least 2": "num_generations groups_per_prompt",
    "above 0": "label_cost gpu_hour_price gpu_flops_per_second flop_budget first_evaluation_flops target_bits temperature repetition_penalty save_steps logging_steps",
    "from 0 to 1": "share_proposed share_remarked value_run_on judge_share min_p lora_dropout stop_at_pass_rate",
    "from 0 to below 1": "adam_beta1 adam_beta2",
    "above 0 and at most 1": "top_p target_share target_pass_rate",
    f"from 0 to {MAX_SEED}": "seed",
}
LIMIT_BY_OPTION = {option: limit for limit, options in _OPTIONS.items() for option in options.split()}


def option(default, description: str, choices: Sequence[str] | None = None):
    """A field of a dataclass that transformers' parser makes an option of; `description` is what --help says of it."""
    return dataclasses.field(default=default, metadata={"help": description} | ({"choices": choices} if choices else {}))


class OneLineArgumentParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage before it."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help lists all options)\n")


def value_fault(option: str, value) -> str | None:
    """What is wrong with a number given for an option, or with one of a list of them; None if nothing is.

    >>> value_fault("temperature", 0.0)
    '--temperature must be above 0, got 0.0'
    >>> value_fault("anything", float("nan"))
    '--anything must be a finite number, got nan'
    """
    limit = LIMIT_BY_OPTION.get(option)
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not math.isfinite(number):
            return f"--{option} must be a finite number, got {number}"
        if limit is not None and not _LIMITS[limit](number):
            return f"--{option} must be {limit}, got {number}"
    return None


def type_fault(option: str, value, kind: type | None, is_optional: bool, choices: Iterable | None) -> str | None:
    """What is wrong with the type of a value from a file; the command line's values are converted by the parser.

    >>> type_fault("max_steps", 2.5, int, False, None)
    '--max_steps must be a whole number, got 2.5'
    """
    if value is None and is_optional:
        return None
    if choices is not None and value not in choices:
        return f"--{option} must be one of {', '.join(map(str, choices))}, got {value!r}"
    if kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        return f"--{option} must be a whole number, got {value}"
    if kind is float and (isinstance(value, bool) or not isinstance(value, int | float)):
        return f"--{option} must be a number, got {value}"
    return None


def check_name(what: str, name: str) -> None:
    """Refuse a name of an arm or a start that could not be part of one folder's name: a ValueError that calls it `what`."""
    if not name:
        raise ValueError(f"{what} must not be empty")
    if name in (".", ".."):
        raise ValueError(f"{what} must not be {name!r}")
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"{what} is longer than {MAX_NAME_LENGTH} characters: {name[:30]}...")
    if "/" in name:
        raise ValueError(f"{what} {name!r} names files: leave out the /")
    if not name.isprintable():
        raise ValueError(f"{what} {name!r} holds a control character: leave it out")


def check_output_dir(folder: str | Path | None) -> Path:
    """The folder, if it is there and can be written or can be made; a ValueError of one line if not."""
    if folder is None or not str(folder):
        raise ValueError("no run directory: pass --output_dir FOLDER")
    folder = Path(folder)
    place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not place.is_dir():
        raise ValueError(f"{place} exists and is no folder: name another --output_dir")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"{place} cannot be written: name another --output_dir")
    return folder
