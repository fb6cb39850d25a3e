"""What a program that trains on rollouts starts from: the model, its problems as it reads them, the verdicts on them."""

from dataclasses import dataclass
from typing import Any

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.likelihood import check_completion_length
from bitsample_llm.training.arguments import RunArguments
from bitsample_llm.training.loading import declared_end, load_model_and_tokenizer
from bitsample_llm.training.problems import RunProblems, load_problems
from bitsample_llm.training.prompt_format import problems_for_model
from bitsample_llm.training.run import prepare_run_dir, unlimited_steps


@dataclass(frozen=True)
class Started:
    """Before any training."""

    model: Any
    tokenizer: Any
    problems: RunProblems
    verifier: RolloutVerifier  # of the training problems
    checkpoint: str | None  # to resume from


def started(study: RunArguments, args, model_args) -> Started:
    """From the arguments of a program: `args` are those of TRL's trainer. What a user can get wrong is raised as by its parts (ValueError, RecordError, OSError)."""
    problems = load_problems(study)
    checkpoint = prepare_run_dir(args)
    unlimited_steps(args, study.flop_budget)
    model, tokenizer = load_model_and_tokenizer(model_args, args.trust_remote_code, study.trained_parameters)
    end = declared_end(study, model, tokenizer)
    problems = problems_for_model(problems, model, tokenizer, study, reserved=args.max_completion_length, end=end)
    check_completion_length(args.max_completion_length, tokenizer, problems.train, end)
    return Started(model, tokenizer, problems, RolloutVerifier(problems.task, problems.train, tokenizer, end), checkpoint)
