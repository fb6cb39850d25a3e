"""Which options does a recipe take besides TRL's, and how is a wrong one told in one line?"""

import contextlib
import os
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml
from trl import TrlParser

from bitsample_llm.options import check_name, option, type_fault, value_fault
from bitsample_llm.records import RecordError
from bitsample_llm.tasks.dataset_rows import DataArguments
from bitsample_llm.tasks.problem import UNKNOWN_MARK


@dataclass
class RunArguments(DataArguments):
    """This study's own choices, in addition to TRL's."""

    arm: str | None = option(None, "Name of this way to train in reports; by default made from the options.")
    start: str | None = option(None, "Name of the starting point in reports; the model's name by default.")
    tags: list[str] = field(
        default_factory=list,
        metadata={"help": "Facts that a report may select by, as key=value words: --tags reason=latent ladder=age."},
    )
    task: str = option("addition", "addition, subtraction or multiplication (by a digit).")
    answer_format: str = option(
        "reversed",
        "plain, reversed (least significant digit first), restated2 to restated16 (reversed, that many times over), "
        "or scratchpad (worked lines, then the answer).",
    )
    difficulty: int = option(2, "Digits of the operands.")
    mark: str = option(UNKNOWN_MARK, "Author mark on every prompt; ? for an unknown author, none for prompts without a mark.")
    shots: int = option(
        0, "Solved training problems before every prompt, the same for all prompts of a run; they are not trained on."
    )
    shot_separator: str = option(
        "\n", "Text after each of them, but in a conversation, where they are earlier turns. \\n means a line end."
    )
    also_evaluate: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files (.jsonl, .parquet) of prompts and answers that nothing trains on, in the columns of --dataset: the probability of each "
            "answer is recorded before and after training under the file's name, as what training does to everything else."
        },
    )
    num_train_problems: int = option(512, "Distinct training problems.")
    num_heldout_problems: int = option(256, "Problems in each evaluation set.")
    problem_seed: int = option(0, "Seed of the problems, the same for all runs of a comparison.")
    memorise: bool = option(
        False,
        "Replace the training answers by draws from the starting model: all that can be known of them is what the training "
        "tells. The run is evaluated on them alone.",
    )
    tuning: bool = option(False, "Train and evaluate on the problems set aside for tuning, which no reported run touches.")
    flop_budget: float | None = option(None, "Stop after this many training FLOPs, rollouts included, or after max_steps.")
    num_evaluations: int = option(
        16, "Held-out evaluations after the one before training, evenly spaced in log FLOPs up to the budget."
    )
    num_eval_rollouts: int = option(
        8, "Rollouts per problem in an evaluation where pass rates are not exact; they do not count against the budget."
    )
    max_eval_tokens: int | None = option(
        None,
        "Most tokens per rollout of an evaluation, the same for all runs of a comparison; by default the trainer's "
        "max_completion_length, and 256 in SFT, which has none.",
    )
    num_kl_problems: int = option(
        0, "Of so many held-out problems an evaluation also draws a rollout, to measure the KL divergence from the start."
    )
    first_evaluation_flops: float | None = option(
        None, "Training FLOPs at the first evaluation after the start; 1/1024 of the budget by default."
    )
    target_bits: float | None = option(
        None,
        "Stop once the mean log2 pass rate of the held-out problems has risen by this much; where pass rates come from "
        "rollouts, log2 of their mean.",
    )
    target_share: float | None = option(
        None, "The same target as a share of the bits that there are to gain: of minus the mean log2 pass rate."
    )
    target_pass_rate: float | None = option(
        None, "Stop once the mean held-out pass rate is this high; of several targets, once all are reached."
    )
    keep_target_for: float = option(
        1.0, "Stop only when each target was kept until so many times the FLOPs to it were spent; 1 stops at once."
    )
    record_texts: bool = option(True, "Keep what rollouts wrote in the records, which is most of their bytes.")
    trained_parameters: str = option(
        "all",
        "all, or norms: only the scales of the norm layers, which can show a skill but hardly teach one.",
        choices=["all", "norms"],
    )
    stop: str | None = option(
        None,
        "Text that ends an answer, besides the end of sequence: for base models, which seldom write that. \\n means a "
        "line end. A single token must hold the text.",
    )

    def __post_init__(self):
        for name in ("stop", "shot_separator"):
            if (text := getattr(self, name)) is not None:  # a shell hands on a backslash and an n
                setattr(self, name, text.replace("\\n", "\n").replace("\\t", "\t"))


class OneLineParser(TrlParser):
    """TRL's parser, whose errors are one line and not four hundred lines of usage, and which checks values by option."""

    from_file: frozenset[str] = frozenset()  # options that the configuration file gave

    def error(self, message: str):
        print(f"{self.prog}: {' '.join(message.split())} (--help lists all options)", file=sys.stderr)
        raise SystemExit(2)

    def parse_args_and_config(self, args=None, **kwargs):
        """What TRL's does, with the configuration file named where it is not YAML."""
        words = sys.argv[1:] if args is None else list(args)
        file = next(iter(words[words.index("--config") + 1 :]), "--") if "--config" in words else None
        if file is not None and file.startswith("--"):
            self.error("argument --config: expected one argument")
        try:
            return super().parse_args_and_config(words, **kwargs)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            self.error(f"--config {file} is not YAML: {error}")

    def set_defaults_with_config(self, **kwargs) -> list[str]:
        """Take a configuration file's options, and refuse those that nobody knows."""
        self.from_file = frozenset(kwargs)
        if unknown := super().set_defaults_with_config(**kwargs):
            self.error(f"the configuration file names unknown options: {', '.join(unknown[::2])}")
        return []

    def parse_known_args(self, args=None, namespace=None):
        """Refuse values out of range here: TRL's dataclasses compute with them before anybody else can."""
        parsed, rest = super().parse_known_args(args, namespace)
        hints = {name: hint for kind in self.dataclass_types for name, hint in typing.get_type_hints(kind).items()}
        for action in self._actions:
            if not hasattr(parsed, action.dest):
                continue
            value = getattr(parsed, action.dest)
            is_from_file = action.dest in self.from_file
            if value is action.default and not is_from_file:  # TRL's own, whatever it is
                continue
            fault = value_fault(action.dest, value)
            if is_from_file and action.nargs is None:
                members = typing.get_args(hints[action.dest])
                kind = None if str in members else action.type
                fault = fault or type_fault(action.dest, value, kind, type(None) in members, action.choices)
            if fault:
                self.error(fault)
        return parsed, rest


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what a user can get wrong into one line and exit status 1; anything else keeps its traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError, RecordError) as error:
        if int(os.environ.get("RANK", "0")) == 0:
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(1) from error


def check_run_arguments(study: RunArguments) -> None:
    """Refuse what no run can be made of: a ValueError names the option."""
    for name, value in vars(study).items():
        if fault := value_fault(name, value):
            raise ValueError(fault)
    for name in ("arm", "start"):
        if getattr(study, name) is not None:
            check_name(f"--{name}", getattr(study, name))
    if study.flop_budget and (study.first_evaluation_flops or 0) > study.flop_budget:
        raise ValueError(
            f"--first_evaluation_flops must be at most --flop_budget {study.flop_budget:g}, got {study.first_evaluation_flops:g}"
        )
    if study.dataset == "":
        raise ValueError("--dataset must not be empty: name a file or a Hub data set, or leave it out")
