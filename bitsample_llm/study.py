"""How a run of the study is put together: its choices, its model, its problems and its records.

The recipes add a TRL trainer to what is here.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import typing
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
import yaml
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, ProgressCallback
from trl import ModelConfig, TrlParser

from bitsample_llm.answer_end import AnswerEnd
from bitsample_llm.budget import FlopBudget, ProgressLine, TargetGain, end_before_the_first_step
from bitsample_llm.dataset_rows import DataArguments, read_dataset
from bitsample_llm.flop_counter import FlopCounter
from bitsample_llm.loading import check_all_loaded, loading
from bitsample_llm.memorisation import relabelled, write_ceiling
from bitsample_llm.meter import InformationMeter
from bitsample_llm.model_card import sha256_of_file
from bitsample_llm.options import check_name, check_output_dir, type_fault, value_fault
from bitsample_llm.processes import honour_fsdp_on_cpu, part
from bitsample_llm.records import RecordError, check_run_dir
from bitsample_llm.rewards import RolloutVerifier
from bitsample_llm.tasks import ALWAYS_RIGHT_MARK, Problem, load_task
from bitsample_llm.tasks.problem import UNKNOWN_MARK

PACKAGES = ("bitsample_llm", "torch", "transformers", "trl", "accelerate", "peft", "datasets")
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass
class StudyArguments(DataArguments):
    """This study's own choices, beside TRL's."""

    arm: str | None = field(
        default=None, metadata={"help": "Name of this way to train in reports; made up from the options by default."}
    )
    start: str | None = field(
        default=None, metadata={"help": "Name of the starting point in reports; the model's name by default."}
    )
    tags: list[str] = field(
        default_factory=list,
        metadata={"help": "Facts that a report may select by, as key=value words: --tags reason=latent ladder=age."},
    )
    task: str = field(default="addition", metadata={"help": "addition, subtraction or multiplication (by a digit)."})
    answer_format: str = field(
        default="reversed",
        metadata={
            "help": "plain, reversed (least significant digit first), restated2 to restated16 (reversed, that many times over), "
            "or scratchpad (worked lines, then the answer)."
        },
    )
    difficulty: int = field(default=2, metadata={"help": "Digits of the operands."})
    mark: str = field(default=UNKNOWN_MARK, metadata={"help": "Author mark on every prompt; ? for an unknown author."})
    num_train_problems: int = field(default=512, metadata={"help": "Distinct training problems."})
    num_heldout_problems: int = field(default=256, metadata={"help": "Problems in each evaluation set."})
    problem_seed: int = field(default=0, metadata={"help": "Seed of the problems, the same for all runs of a comparison."})
    memorise: bool = field(
        default=False,
        metadata={
            "help": "Replace the training answers by draws of the starting model: nothing is known of them but what the training "
            "tells, and the run is measured on them alone."
        },
    )
    tuning: bool = field(
        default=False, metadata={"help": "Train and evaluate on the problems set aside for tuning, which no reported run touches."}
    )
    flop_budget: float | None = field(
        default=None, metadata={"help": "Stop after this many training FLOPs, rollouts included; max_steps holds as well."}
    )
    num_evaluations: int = field(
        default=16,
        metadata={"help": "Held-out evaluations after the first, spaced evenly in the log of the FLOPs up to the budget."},
    )
    num_eval_rollouts: int = field(
        default=8,
        metadata={"help": "Rollouts of each problem that an evaluation draws where pass rates are not exact; costs no budget."},
    )
    max_eval_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of such a rollout at most, the same for all runs of a comparison; by default the trainer's "
            "max_completion_length, and 256 in SFT, which has none."
        },
    )
    first_evaluation_flops: float | None = field(
        default=None, metadata={"help": "FLOPs of the first of them; 1/1024 of the budget by default."}
    )
    target_bits: float | None = field(
        default=None,
        metadata={
            "help": "Stop once the mean log2 pass rate of the held-out problems has risen by this much; where pass rates come from "
            "rollouts, log2 of their mean."
        },
    )
    trained_parameters: str = field(
        default="all",
        metadata={
            "help": "all, or norms: the scales of the norm layers alone, which can open a gate and hardly write a skill.",
            "choices": ["all", "norms"],
        },
    )
    stop: str | None = field(
        default=None,
        metadata={
            "help": "Text that ends an answer, besides the end of sequence: for base models, which seldom write that. \\n means a "
            "line's end. A single token has to hold it."
        },
    )

    def __post_init__(self):
        if self.stop is not None:  # a shell hands on a backslash and an n
            self.stop = self.stop.replace("\\n", "\n").replace("\\t", "\t")


class OneLineParser(TrlParser):
    """TRL's parser, whose errors are one line and not four hundred lines of usage, and which checks values by option."""

    from_file: frozenset[str] = frozenset()  # options that the configuration file gave

    def error(self, message: str):
        """Exit with status 2 and the message."""
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


def set_up_process() -> None:
    """What a recipe does first. The terminal is left to its own progress line: no bars for reading a small file, no warning
    meant for TRL.
    """
    honour_fsdp_on_cpu()
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it logs of a file that it cannot read, it raises as well
    transformers.utils.logging.disable_progress_bar()


def load_model_and_tokenizer(model_args: ModelConfig, trust_remote_code: bool = False, trained_parameters: str = "all"):
    """The model to train and its tokenizer. A tokenizer without a pad token pads with its EOS token, as TRL's trainers do; the
    adapters of a folder that holds nothing else are merged into their base model.

    Raises:
        ValueError: if no model is named, its folder does not exist, its files are broken or do not fit one another, or its
            tokenizer lacks an EOS token.
    """
    name = model_args.model_name_or_path
    if not name:
        raise ValueError("no model: pass --model_name_or_path FOLDER or a Hub name")
    if Path(name).is_file():
        raise ValueError(f"{name} is a file: pass the folder of a model, --model_name_or_path FOLDER")
    if not Path(name).is_dir() and (name.startswith((".", "/")) or name.count("/") != 1 or Path(name).parent.is_dir()):
        raise ValueError(f"model folder {name} does not exist: pass --model_name_or_path FOLDER or a Hub name")
    options = {"revision": model_args.model_revision, "trust_remote_code": trust_remote_code}
    with loading("tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    if tokenizer.eos_token is None:
        raise ValueError(f"the tokenizer of {name} has no eos_token: set it in its tokenizer_config.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    dtype = model_args.dtype if model_args.dtype in (None, "auto") else getattr(torch, model_args.dtype)
    options |= {"dtype": dtype, "attn_implementation": model_args.attn_implementation}
    with loading("model", name):
        if (Path(name) / "adapter_config.json").is_file():
            model, missing = AutoPeftModelForCausalLM.from_pretrained(name, **options).merge_and_unload(), ()
        else:
            model, info = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **options)
            missing = info["missing_keys"]
    check_all_loaded(missing, name)
    if trained_parameters == "norms":
        freeze_all_but_norms(model)
    return model, tokenizer


def declared_end(study: StudyArguments, model, tokenizer) -> AnswerEnd:
    """Where answers end, by `--stop` and the end of sequence; `generate`, and trainers made from now on, end there too.

    Raises:
        ValueError: for a stop that the tokenizer writes in several tokens, or that is empty.
    """
    if study.stop == "":
        raise ValueError("--stop is empty: name a text, such as \\n, or leave the option out")
    end = AnswerEnd.of(model, tokenizer, study.stop)
    end.declare(model)
    return end


def freeze_all_but_norms(model) -> None:
    """Leave the parameters of the norm layers trainable and no others.

    Raises:
        ValueError: if the model names no parameter after a norm.
    """
    norms = [name for name, _ in model.named_parameters() if "norm" in name or ".ln_" in name]
    if not norms:
        raise ValueError("--trained_parameters norms: the model has no parameter named after a norm")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in norms)


def check_study_arguments(study: StudyArguments) -> None:
    """Refuse what no run can be made of.

    Raises:
        ValueError: naming the option.
    """
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


@dataclass
class StudyProblems:
    """What a run trains on and is measured on; `data` is what the manifest says of where it came from."""

    task: object
    train: list[Problem]
    evaluation_sets: dict[str, list[Problem]]
    data: dict = field(default_factory=dict)


def load_problems(study: StudyArguments) -> StudyProblems:
    """Training problems and evaluation sets of a run; `prompt_format.problems_for_model` fits them to its model.

    Raises:
        ValueError: for an unknown task, format or mark, more problems than a split has or none, a budget of nothing, or data
            that cannot be read.
    """
    check_study_arguments(study)
    if study.dataset is not None:
        sizes = study.num_train_problems, study.num_heldout_problems
        read = read_dataset(study, *sizes, study.problem_seed, study.tuning)
        sets = {"heldout": read.heldout, "train": read.train[: study.num_heldout_problems]}
        return StudyProblems(read.task, read.train, sets, read.facts)
    mark = None if study.mark == UNKNOWN_MARK else study.mark
    options = {"answer_format": study.answer_format, "difficulty": study.difficulty}
    task = load_task(study.task, mark=mark, **options)
    seed, num = study.problem_seed, study.num_heldout_problems
    if study.tuning:
        splits = {"heldout": "tuning_heldout"}
        train = task.problems("tuning", study.num_train_problems, seed)
    else:
        splits = {"heldout": "heldout", "seen": "seen", "shifted": "shifted"}
        train = task.problems("train", study.num_train_problems, seed)
    sets = {name: task.problems(split, num, seed) for name, split in splits.items()}
    # the same pairs under the always-right mark: what the right prompt gives for no training at all
    sets["marked"] = load_task(study.task, mark=ALWAYS_RIGHT_MARK, **options).problems(splits["heldout"], num, seed)
    if not study.tuning:
        sets |= other_forms(study, mark, num, seed)
    return StudyProblems(task, train, sets | {"train": train[:num]})


def other_forms(study: StudyArguments, mark: str | None, num: int, seed: int) -> dict[str, list[Problem]]:
    """Held-out pairs asked otherwise, where the task has it: `other_operation`, and `other_format` of the same answer."""
    operation = {"addition": "subtraction", "subtraction": "addition"}.get(study.task)
    answer_format = {"plain": "reversed", "reversed": "plain"}.get(study.answer_format)
    found = {}
    if operation is not None and answer_format is not None:
        options = {"difficulty": study.difficulty, "mark": mark}
        found["other_operation"] = load_task(operation, answer_format=study.answer_format, **options).problems("heldout", num, seed)
        found["other_format"] = load_task(study.task, answer_format=answer_format, **options).problems("heldout", num, seed)
    return found


def to_memorise(problems: StudyProblems, model, tokenizer, seed: int, end: AnswerEnd) -> StudyProblems:
    """The training problems with draws of `model` for answers, which are all that is evaluated."""
    max_new_tokens = max(len(tokenizer(problem.answer)["input_ids"]) for problem in problems.train) + 1
    train = relabelled(model, tokenizer, problems.train, max_new_tokens, seed, end)
    return StudyProblems(problems.task, train, {"heldout": train}, problems.data)


def problems_sha256(problems: Sequence[Problem]) -> str:
    """Digest of the problems' ids and answers, in order."""
    return hashlib.sha256("\n".join(f"{problem.problem_id}\t{problem.answer}" for problem in problems).encode()).hexdigest()


def git_state() -> dict:
    """Commit and dirty flag of the repository; null outside of one."""

    def ask(*words: str) -> str | None:
        answer = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True)
        return answer.stdout.strip() if answer.returncode == 0 else None

    changes = ask("status", "--porcelain", "--untracked-files=no")
    return {"git_commit": ask("rev-parse", "HEAD"), "git_dirty": None if changes is None else bool(changes)}


def pretraining_flops(folder: Path) -> float | None:
    """Training FLOPs behind a checkpoint that `recipes/pretrain.py` kept; None of any other model."""
    path = folder / "pretraining.json"
    if not path.is_file():
        return None
    flops = json.loads(path.read_text())["flops"]
    return sum(flops.get(phase, 0.0) for phase in ("train_forward", "train_backward"))


def tags_of(words: Sequence[str]) -> dict[str, str]:
    """Facts by name, of words `key=value`.

    >>> tags_of(["reason=latent", "grid.options=a=1"])
    {'reason': 'latent', 'grid.options': 'a=1'}

    Raises:
        ValueError: for a word without a key or without `=`.
    """
    for word in words:
        if word.find("=") < 1:
            raise ValueError(f"--tags takes key=value words, got {word!r}: write --tags reason=latent")
    return dict(word.split("=", 1) for word in words)


def run_manifest(study: StudyArguments, args, model_args: ModelConfig, problems: StudyProblems, **choices) -> dict:
    """What a run directory says of a run before it starts."""
    folder = Path(model_args.model_name_or_path)
    weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    config = {"study": dataclasses.asdict(study), "model": dataclasses.asdict(model_args), "training": args.to_dict(), **choices}
    return {
        "arm": study.arm,
        "start": study.start or folder.name,
        "tags": tags_of(study.tags),
        "command": " ".join(sys.argv),
        **git_state(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "model_sha256": {path.name: sha256_of_file(path) for path in weights},
        "pretraining_flops": pretraining_flops(folder),
        "train_problems_sha256": problems_sha256(problems.train),
        "heldout_problems_sha256": problems_sha256(problems.evaluation_sets["heldout"]),
        "data": _plain(problems.data),
        "config": _plain(config),
    }


def _plain(value):
    """JSON's types only."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def prepare_run_dir(args) -> str | None:
    """Point the trainer's checkpoints into the run directory; the checkpoint to resume, if one was asked for and exists.

    `--resume_from_checkpoint last` means the newest one, and the beginning where there is none yet.

    Raises:
        RecordError: if the directory holds a run and no resume was asked for, or a finished one.
        ValueError: if the directory cannot be made, or the checkpoint is none.
    """
    if args.output_dir == "trainer_output":  # what transformers makes of no answer
        raise ValueError("no run directory: pass --output_dir FOLDER")
    run_dir, asked = check_output_dir(args.output_dir), args.resume_from_checkpoint
    check_run_dir(run_dir, resume=bool(asked))
    args.output_dir = str(run_dir / "checkpoints")
    if asked in ("last", "true", "True"):
        return last_whole_checkpoint(Path(args.output_dir))
    if asked and not (Path(asked) / "trainer_state.json").is_file():
        fault = "holds no checkpoint" if Path(asked).exists() else "does not exist"
        raise ValueError(f"--resume_from_checkpoint {asked} {fault}: pass last, or a folder checkpoint-STEP of the run")
    return asked


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end: a kill can leave one without its last file, the trainer's state."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        return str(path)
    return None


def evaluation_points(study: StudyArguments) -> list[float]:
    """FLOPs of the trainer at which to evaluate: most learning is early, so on a log axis."""
    if not study.flop_budget:
        return []
    first = study.first_evaluation_flops or study.flop_budget / 1024
    return np.geomspace(first, study.flop_budget, study.num_evaluations)[:-1].tolist()


def train_and_record(
    trainer,
    study: StudyArguments,
    problems: StudyProblems,
    manifest: dict,
    checkpoint: str | None,
    verifier: RolloutVerifier | None = None,
    counter: FlopCounter | None = None,
    reward_is_verdict: bool = True,
    stop: str | None = None,
) -> InformationMeter:
    """Train with the meter on, and leave a finished run directory with the trained model in it.

    `finished` is written after everything else. A run that raises leaves its records with state `failed` and the reason.
    """
    args = trainer.args
    run_dir = Path(args.output_dir).parent
    model = trainer.accelerator.unwrap_model(trainer.model)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()} if study.memorise else None
    with one_line_errors():
        meter = InformationMeter(
            trainer,
            output_dir=run_dir,
            manifest=manifest,
            verifier=verifier,
            evaluation_sets=problems.evaluation_sets,
            evaluation_flops=evaluation_points(study),
            evaluation_task=problems.task,
            num_eval_rollouts=study.num_eval_rollouts,
            max_eval_tokens=study.max_eval_tokens,
            counter=counter,
            reward_is_verdict=reward_is_verdict,
            strict=True,
            finishes_with_training=False,
            stop=stop,
        )
    trainer.add_callback(meter)
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(ProgressLine(meter, study.flop_budget))
    stops = [FlopBudget(meter, study.flop_budget)] if study.flop_budget else []
    stops += [TargetGain(meter, study.target_bits)] if study.target_bits else []
    for callback in stops:
        trainer.add_callback(callback)
    if checkpoint is not None:
        end_before_the_first_step(trainer, stops)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        if args.save_strategy != "no":
            trainer.save_model(str(run_dir / "model"))
        if start is not None and trainer.accelerator.is_main_process:
            model.load_state_dict(start)  # a deep copy would not do: TRL's patched forward stays bound to the original
            write_ceiling(run_dir, model, trainer.processing_class, problems.train, meter.end)
        trainer.accelerator.wait_for_everyone()
        meter.close()
    except RecordError as error:
        sys.exit(f"error: {error}")
    except BaseException as error:  # also an interrupt: the records say why they end, and the error goes on
        meter.close_failed(error)
        raise
    if trainer.accelerator.is_main_process:
        print(f"records: {run_dir} (summary: python -m bitsample_llm {run_dir})")
    part(trainer.accelerator)
    return meter


def unlimited_steps(args, flop_budget: float | None) -> None:
    """Let the budget end the run where no number of steps was given."""
    if flop_budget and args.max_steps <= 0:
        args.max_steps = 10**9
