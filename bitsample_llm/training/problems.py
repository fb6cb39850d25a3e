"""What does a run train on, and what is it measured on?"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import longest_answer
from bitsample_llm.tasks import Problem, load_task
from bitsample_llm.tasks.authors import ALWAYS_RIGHT_MARK
from bitsample_llm.tasks.dataset_rows import (
    GYM,
    DataArguments,
    Faults,
    checked_columns,
    open_dataset,
    problems_of_rows,
    read_dataset,
)
from bitsample_llm.tasks.problem import NO_MARK, UNKNOWN_MARK
from bitsample_llm.training.arguments import RunArguments, check_run_arguments
from bitsample_llm.training.memorisation import relabelled
from bitsample_llm.training.processes import say


@dataclass
class RunProblems:
    """What a run trains on and is measured on; `data` is what the manifest says of where it came from, `texts` are sets of which only
    the probability of the answers is recorded.
    """

    task: object
    train: list[Problem]
    evaluation_sets: dict[str, list[Problem]]
    data: dict = field(default_factory=dict)
    texts: dict[str, list[Problem]] = field(default_factory=dict)


def load_problems(study: RunArguments) -> RunProblems:
    """Training problems and evaluation sets of a run; `prompt_format.problems_for_model` fits them to its model.

    Raises:
        ValueError: for an unknown task, format or mark, for no problems or more than a split has, for a budget of zero, or for
            data that cannot be read.
    """
    check_run_arguments(study)
    if study.rollout_prompt_column is not None and (study.dataset is None or study.dataset.startswith(GYM)):
        raise ValueError("--rollout_prompt_column needs data with columns: pass --dataset FILE.jsonl or FILE.parquet")
    problems = _of_dataset(study) if study.dataset is not None else _of_task(study)
    problems.texts = read_texts(study, taken=problems.evaluation_sets)
    return problems


def read_texts(study: RunArguments, taken: Collection[str]) -> dict[str, list[Problem]]:
    """The rows of `--also_evaluate`, by the names of their files; a ValueError for a file that cannot be read, or for two sets of one name."""
    columns = DataArguments(prompt_column=study.prompt_column, answer_column=study.answer_column)
    texts: dict[str, list[Problem]] = {}
    for file in study.also_evaluate:
        name, faults = Path(file).stem, Faults()
        if name in texts or name in taken:
            raise ValueError(f"--also_evaluate {file}: there is a set {name} already, rename the file")
        rows = checked_columns(open_dataset(file, None, "train"), columns, file)
        texts[name] = problems_of_rows(rows, Path(file).name, columns, faults)
        for line in faults.lines():
            say(f"{file}: {line}")
    return texts


def _of_dataset(study: RunArguments) -> RunProblems:
    sizes = study.num_train_problems, study.num_heldout_problems
    read = read_dataset(study, *sizes, study.problem_seed, study.tuning, tell=say)
    sets = {"heldout": read.heldout, "train": read.train[: study.num_heldout_problems]}
    return RunProblems(read.task, read.train, sets, read.facts)


def _of_task(study: RunArguments) -> RunProblems:
    mark = None if study.mark == UNKNOWN_MARK else study.mark
    options = {"answer_format": study.answer_format, "difficulty": study.difficulty}
    task = load_task(study.task, mark=mark, **options)
    seed, num = study.problem_seed, study.num_heldout_problems
    if study.tuning:
        training_split, splits = "tuning", {"heldout": "tuning_heldout"}
    else:
        training_split, splits = "train", {"heldout": "heldout", "seen": "seen", "shifted": "shifted"}
    train = task.problems(training_split, study.num_train_problems, seed)
    sets = {name: task.problems(split, num, seed) for name, split in splits.items()}
    if mark != NO_MARK:  # the same pairs under the always-right mark: what the right prompt gives for no training at all
        sets["marked"] = load_task(study.task, mark=ALWAYS_RIGHT_MARK, **options).problems(splits["heldout"], num, seed)
    if not study.tuning:
        sets |= other_forms(study, mark, num, seed)
    return RunProblems(task, train, sets | {"train": train[:num]})


def other_forms(study: RunArguments, mark: str | None, num: int, seed: int) -> dict[str, list[Problem]]:
    """Held-out pairs asked otherwise, where the task has it: `other_operation`, and `other_format` of the same answer."""
    operation = {"addition": "subtraction", "subtraction": "addition"}.get(study.task)
    answer_format = {"plain": "reversed", "reversed": "plain"}.get(study.answer_format)
    if operation is None or answer_format is None:
        return {}
    asked = {"other_operation": (operation, study.answer_format), "other_format": (study.task, answer_format)}
    return {
        name: load_task(*form, difficulty=study.difficulty, mark=mark).problems("heldout", num, seed)
        for name, form in asked.items()
    }


def to_memorise(problems: RunProblems, model, tokenizer, seed: int, end: AnswerEnd) -> RunProblems:
    """The training problems with draws of `model` for answers, which are all that is evaluated."""
    train = relabelled(model, tokenizer, problems.train, longest_answer(tokenizer, problems.train, end), seed, end)
    return RunProblems(problems.task, train, {"heldout": train}, problems.data)


def problems_sha256(problems: Sequence[Problem]) -> str:
    """Digest of the problems' ids and answers, in order."""
    return hashlib.sha256("\n".join(f"{problem.problem_id}\t{problem.answer}" for problem in problems).encode()).hexdigest()
