"""Problems from a data set: a Hub name, a JSONL or parquet file, or a task of reasoning-gym. Which rows are problems, and which
problems are trained on or held out?

A problem is what its prompt asks, in one normal form (`identity`). It belongs to a pool by the hash of that, so it is in the
same pool in whatever file and order it stands, and nothing trained on is held out. Rows that cannot be used are left out, named
and counted.
"""

import collections
import json
import math
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from bitsample_llm.options import option
from bitsample_llm.tasks import Problem
from bitsample_llm.tasks.dataset_task import DatasetTask
from bitsample_llm.tasks.judge import NoVerdict, accepts_only_its_answer, gym_dataset, require_package
from bitsample_llm.tasks.plain_number import plain_number
from bitsample_llm.tasks.problem import pool_of

GYM = "reasoning_gym:"
READER_BY_SUFFIX = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
# Cumulative upper bounds of a prompt's hash in [0, 1), as the arithmetic tasks have them for operand pairs.
POOL_BOUNDS = {"heldout": 0.15, "tuning_heldout": 0.20, "tuning": 0.30, "train": 1.0}
NARROW = {"float16": np.float16, "float32": np.float32}  # as Python's floats their 0.1 is 0.10000000149011612
NAMED_BY_ROWS = ("exact", "numeric", "symbolic")  # verifiers; tasks of reasoning-gym bring their own
SYSTEM_ROLES = ("system", "developer")  # of messages that say how to answer
COLUMNS = ("prompt_column", "answer_column", "verifier_column", "level_column", "rollout_prompt_column")
OF_TRAINING = ("level_column", "rollout_prompt_column")  # what is held out needs none of these
NAMED = 20  # rows of one fault that the terminal names; the manifest names all


@dataclass
class DataArguments:
    """Problems from data, in place of `--task`."""

    dataset: str | None = option(
        None,
        "A Hub name, a .jsonl or .parquet file, or reasoning_gym:TASK, in place of --task. num_train_problems and "
        "num_heldout_problems are then upper bounds.",
    )
    dataset_config: str | None = option(None, "Configuration of a Hub data set (gsm8k has 'main').")
    train_split: str = option("train", "Split of a Hub data set to take problems from.")
    heldout_split: str | None = option(None, "Split or file of the held-out problems; by the hash of the prompt if not given.")
    prompt_column: str = option("prompt", "Column of the prompt: a text, or a list of messages.")
    answer_column: str = option("answer", "Column of the right answer, a text or a number.")
    verifier: str = option("exact", "exact, numeric or symbolic (math-verify).")
    verifier_column: str | None = option(None, "Column that names the verifier of each row.")
    level_column: str | None = option(None, "Column of a problem's level, a number or a name, by which --selection chooses.")
    rollout_prompt_column: str | None = option(
        None,
        "Column of a better prompt, under which the rollouts of grpo.py are drawn; they are trained on under the prompt itself.",
    )
    prompt_format: str = option(
        "auto",
        "text: the prompt as it stands. chat: a message of the user, through the tokenizer's chat template. auto: "
        "chat where the tokenizer has a template.",
        choices=["auto", "text", "chat"],
    )


def pool_of_prompt(prompt) -> str:
    """Name of the pool that owns a prompt."""
    return pool_of(identity(prompt), POOL_BOUNDS)


def identity(prompt) -> str:
    """What a prompt asks, in one normal form: equal prompts are one problem, whichever file they come from.

    Unicode's NFC without whitespace at the ends. A conversation of one user's message is that message's text. System messages do
    not count, unless there is nothing else: they say how to answer, and a problem held out under one must not be trained on
    under another. Where the task itself stands in the system message, put it into the user's.

    >>> identity([{"role": "system", "content": "Be brief."}, {"role": "user", "content": " What is 2 plus 3?"}])
    'What is 2 plus 3?'
    """
    if isinstance(prompt, str):
        return _normal(prompt)
    said = [(message["role"], _normal(_text_of(message["content"]))) for message in prompt]
    asked = [(role, text) for role, text in said if role not in SYSTEM_ROLES] or said
    if len(asked) == 1 and asked[0][0] == "user":
        return asked[0][1]
    return json.dumps(asked, ensure_ascii=False)


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _text_of(content) -> str:
    """The text of a message, which may be a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content)
    return json.dumps(content, sort_keys=True, default=str)


def answer_text(value) -> str | None:
    """An answer as it is written, None for a cell without one. Tables make 42.0 of 42 where a column has gaps: an integral
    number has no decimals.

    >>> answer_text(42.0), answer_text(Decimal("2.50")), answer_text(float("nan")), answer_text("042")
    ('42', '2.5', None, '042')
    """
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, Integral):
        return str(int(value))
    if not isinstance(value, float | np.floating | Decimal) or not math.isfinite(value):
        return None
    if value == int(value):
        return str(int(value))
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)


class Faults:
    """Rows that cannot be used, by what is wrong with them; rows are counted from 1."""

    def __init__(self):
        self.rows_by_fault: dict[str, list[str]] = {}

    def add(self, fault: str, row: str) -> None:
        self.rows_by_fault.setdefault(fault, []).append(row)

    def lines(self) -> list[str]:
        """What the terminal is told: one line per fault."""
        told = []
        for fault, rows in self.rows_by_fault.items():
            more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
            told.append(f"{len(rows)} rows left out, {fault}: {', '.join(rows[:NAMED])}{more}")
        return told


def open_dataset(source: str, config: str | None, split: str) -> datasets.Dataset:
    """The rows of a file, a folder or a Hub data set; a ValueError if it cannot be read names a broken line of a JSONL file."""
    path = Path(source)
    reader = READER_BY_SUFFIX.get(path.suffix)
    if (reader is not None or source.startswith((".", "/"))) and not path.exists():
        raise ValueError(f"data file {source} does not exist: name a FILE.jsonl, a FILE.parquet or a Hub data set")
    if reader is not None and path.is_dir():
        raise ValueError(f"{source} is a folder: pass a file as --dataset, or a folder whose name does not end in {path.suffix}")
    if reader is None and path.is_file():
        raise ValueError(f"{source} is a file of another kind: pass --dataset FILE.jsonl, FILE.parquet or a Hub name")
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"data file {source} has no rows")
    try:
        if reader == "json":
            with path.open(encoding="utf-8") as lines:  # bytes that are not UTF-8 raise here; the reader meets them row by row
                collections.deque(lines, maxlen=0)
        if reader is not None:
            return datasets.load_dataset(reader, data_files=str(path), split="train")
        return datasets.load_dataset(source, config, split=split)
    except (OSError, ValueError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        fault = _first_broken_line(path) if path.suffix == ".jsonl" else None
        raise ValueError(f"data set {source} cannot be read: {fault or error}") from error


def _first_broken_line(path: Path) -> str | None:
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        try:
            is_row = not line.strip() or isinstance(json.loads(line), dict)
        except json.JSONDecodeError:
            is_row = False
        if not is_row:
            return f"line {number} is not a JSON object"
    return None


def problems_of_rows(
    rows: Iterable[dict], name: str, asked: DataArguments, faults: Faults, heldout: Collection[str] = (), heldout_by: str = ""
) -> list[Problem]:
    """The problems of rows, in order, but for identities in `heldout`; a ValueError names a row with an unknown verifier."""
    problems, answer_by_identity = [], {}
    column = getattr(rows, "features", {}).get(asked.answer_column)
    narrow = NARROW.get(getattr(column, "dtype", None), lambda value: value)
    for number, row in enumerate(rows, 1):
        label = f"{name}/{number}"
        prompt, answer = row[asked.prompt_column], row[asked.answer_column]
        answer = None if answer is None else answer_text(narrow(answer))
        verifier = row[asked.verifier_column] if asked.verifier_column else asked.verifier
        level = str(row[asked.level_column]) if asked.level_column in row else None
        rollout_prompt = row.get(asked.rollout_prompt_column)
        if asked.verifier_column and verifier not in NAMED_BY_ROWS:
            raise ValueError(f"row {label} asks for the verifier {verifier!r}; known: {', '.join(NAMED_BY_ROWS)}")
        if not _is_prompt(prompt):
            faults.add("the prompt is neither a text nor a list of messages", label)
        elif answer is None:
            faults.add("no answer", label)
        elif verifier == "numeric" and not _is_number(answer):
            faults.add("the answer is not plainly one number", label)
        elif level in ("None", "nan"):
            faults.add("no level", label)
        elif asked.rollout_prompt_column in row and not _is_prompt(rollout_prompt):
            faults.add("no prompt for rollouts", label)
        elif (key := identity(prompt)) in heldout:
            faults.add(f"held out in {heldout_by}", label)
        elif key in answer_by_identity:
            is_other = answer_by_identity[key] != answer
            faults.add("duplicate of an earlier prompt" + " with another answer" * is_other, label)
        else:
            answer_by_identity[key] = answer
            about = {"verifier": verifier, "level": level, "rollout_prompt": rollout_prompt}
            problems.append(Problem(label, prompt, answer, difficulty=0, **about))
    return problems


def _is_number(answer: str) -> bool:
    try:
        plain_number(answer)
    except NoVerdict:
        return False
    return True


def _is_prompt(prompt) -> bool:
    if not isinstance(prompt, list):
        return isinstance(prompt, str) and bool(prompt.strip())
    return bool(prompt) and all(isinstance(message, dict) and {"role", "content"} <= message.keys() for message in prompt)


def checked_columns(rows: datasets.Dataset, asked: DataArguments, source: str, names: Sequence[str] = COLUMNS) -> datasets.Dataset:
    """The rows, if they have the columns that were asked for; a ValueError names the first that is missing, and its option."""
    for name in names:
        column = getattr(asked, name)
        if column is not None and column not in rows.column_names:
            raise ValueError(f"{source} has no column {column!r}: pass --{name}; columns: {', '.join(rows.column_names)}")
    return rows


def gym_problems(task: str, seed: int, size: int, faults: Faults) -> tuple[list[Problem], dict[str, dict]]:
    """Problems of a task of reasoning-gym, and what its scoring has to know of each; errors as of `judge.gym_dataset`.

    A task that accepts its own answer only, character for character, is judged exactly.
    """
    require_package("reasoning_gym")
    dataset = gym_dataset(task, seed, size)
    verifier = "exact" if accepts_only_its_answer(dataset) else "reasoning_gym"
    rows = [{"prompt": dataset[index]["question"], "answer": dataset[index]["answer"]} for index in range(size)]
    problems = problems_of_rows(rows, task, DataArguments(verifier=verifier), faults)
    details = {f"{task}/{index + 1}": {"task": task, "seed": seed, "size": size, "index": index} for index in range(size)}
    return problems, details


def random_subset(problems: Sequence[Problem], num: int, seed: int) -> list[Problem]:
    """At most `num` of the problems, in an order that `seed` decides."""
    return [problems[index] for index in np.random.default_rng(seed).permutation(len(problems))[:num]]


@dataclass
class DatasetProblems:
    """What a data set gives a run; `facts` are for the manifest."""

    task: DatasetTask
    train: list[Problem]
    heldout: list[Problem]
    facts: dict


def read_dataset(
    asked: DataArguments, num_train: int, num_heldout: int, seed: int, tuning: bool, tell: Callable[[str], None] = print
) -> DatasetProblems:
    """At most `num_train` problems to train on and `num_heldout` others; the pools for tuning where `tuning` says so.

    Raises:
        ValueError: in one line, for data that cannot be read, lacks a column, or has no problem in a pool.
    """
    faults, details, held_apart, heldout_by = Faults(), {}, [], ""
    if asked.verifier not in NAMED_BY_ROWS:
        raise ValueError(f"unknown verifier {asked.verifier!r}; known: {', '.join(NAMED_BY_ROWS)}")
    if asked.dataset.startswith(GYM):
        if asked.level_column is not None:
            raise ValueError("--level_column needs data with columns: a task of reasoning-gym has none")
        size = int(np.ceil(max(num_train / 0.7, num_heldout / 0.15) * 1.1)) + 16  # so that each pool holds enough
        problems, details = gym_problems(asked.dataset.removeprefix(GYM), seed, size, faults)
    else:
        if asked.heldout_split is not None:  # first, so that what is held out is what is not trained on
            of_file = Path(asked.heldout_split).suffix in READER_BY_SUFFIX
            source, split = (asked.heldout_split, "train") if of_file else (asked.dataset, asked.heldout_split)
            rows = checked_columns(
                open_dataset(source, asked.dataset_config, split),
                asked,
                source,
                [name for name in COLUMNS if name not in OF_TRAINING],
            )
            heldout_by = Path(source).name if of_file else split
            held_apart = problems_of_rows(rows, heldout_by, asked, faults)
        name = Path(asked.dataset).name
        rows = checked_columns(open_dataset(asked.dataset, asked.dataset_config, asked.train_split), asked, asked.dataset)
        heldout = {identity(problem.prompt) for problem in held_apart}
        problems = problems_of_rows(rows, name, asked, faults, heldout, heldout_by)
    if any(problem.verifier == "symbolic" for problem in problems + held_apart):
        require_package("symbolic")
    pools: dict[str, list[Problem]] = {pool: [] for pool in POOL_BOUNDS}
    for problem in problems:
        pool = pool_of_prompt(problem.prompt)
        pools["train" if pool == "heldout" and held_apart else pool].append(problem)
    if held_apart:
        pools["heldout"] = held_apart
    names = ("tuning", "tuning_heldout") if tuning else ("train", "heldout")
    for line in faults.lines():
        tell(f"{asked.dataset}: {line}")
    train, heldout = (random_subset(pools[pool], num, seed) for pool, num in zip(names, (num_train, num_heldout), strict=True))
    for pool, part in zip(names, (train, heldout), strict=True):
        if not part:
            overlap = len(faults.rows_by_fault.get(f"held out in {heldout_by}", ())) if held_apart else 0
            in_all = f"of {len(problems) + len(held_apart)} in all"
            in_all += f" ({overlap} are held out in {heldout_by}, and so not trained on)" if overlap else ""
            fix = "that has other problems" if held_apart else "or a larger data set"
            raise ValueError(f"{asked.dataset} has no problem in the pool {pool}, {in_all}: pass a --heldout_split FILE {fix}")
    tell(
        f"{asked.dataset}: {len(train)} problems to train on of {len(pools[names[0]])}, "
        f"{len(heldout)} held out of {len(pools[names[1]])}"
    )
    split_by = f"split {asked.heldout_split}" if held_apart else "hash of the prompt"
    facts = {
        "source": asked.dataset,
        "held_out_by": split_by,
        "pools": {pool: len(members) for pool, members in pools.items()},
        "train": len(train),
        "heldout": len(heldout),
        "verifiers": sorted({problem.verifier for problem in train + heldout}),
        "left_out": faults.rows_by_fault,
    }
    return DatasetProblems(DatasetTask(asked.dataset, problems + held_apart, details), train, heldout, facts)
