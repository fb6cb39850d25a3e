"""Bad input is refused in one line that names it, before anything is written: a table of cases, in one process."""

import importlib
import shlex
import sys
from pathlib import Path

import pytest
from bad_inputs import CASES, MADE
from conftest import REPOSITORY

OF_RECORDS = ("report", "plan", "summary")
MAINS = dict.fromkeys(OF_RECORDS, "bitsample_llm.__main__")
MAINS |= {"measure": "bitsample_llm.measure.command", "noise": "eval.studies.ladder.make_noise", "pretrain": "pretrain"}
SMALL = {
    "sft": "--num_train_problems 16 --num_heldout_problems 8",
    "grpo": "--num_train_problems 16 --num_heldout_problems 8",
    "measure": "--num_train_problems 16 --num_heldout_problems 8",
    "noise": "--model_name_or_path data/base --num_train_problems 32 --num_heldout_problems 8",
    "pretrain": "",
    "study": "",
    "search": "",
}


class Accepted(BaseException):
    """Raised in place of the work: the input was not refused."""


def accepted(*args, **kwargs):
    raise Accepted


class Made(dict):
    """Files and folders, made when they are asked for."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> Path:
        self[name] = MADE[name](self.folder / name)
        return self[name]


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys):
    """Runs a command up to its work; returns the exit status and the lines on stderr."""

    def run(command: str) -> tuple[object, list[str]]:
        name, *options = [word.format_map(Made(tmp_path / "made")) for word in shlex.split(command)]
        module = importlib.import_module(MAINS.get(name, f"recipes.{name}"))
        words = [name] if name in OF_RECORDS else shlex.split(SMALL.get(name, ""))
        if name not in (*OF_RECORDS, "noise", "study", "search") and "--config" not in options:
            folder = REPOSITORY / ("data/pretraining" if name == "pretrain" else "recipes/configs")
            words = ["--config", str(folder / f"{name}.yaml"), *words]
        if name == "noise" and "--model_name_or_path" in options:
            words = words[2:]
        if name not in OF_RECORDS and "--output_dir" not in options:
            options += ["--output_dir", str(tmp_path / "out" / "run")]
        for work in ("train_and_record", "closed", "Trainer", "ThreadPoolExecutor"):
            if hasattr(module, work):
                monkeypatch.setattr(module, work, accepted)
        if name == "noise":
            monkeypatch.setattr(module, "measure", accepted)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words, *options])
        monkeypatch.chdir(REPOSITORY)
        status = None
        try:
            module.main()
        except SystemExit as error:
            status = error.code
        told = capsys.readouterr().err
        if isinstance(status, str):  # what the interpreter prints on its way out
            told, status = told + status + "\n", 1
        return status, told.splitlines()

    return run


@pytest.mark.parametrize(("command", "message"), CASES, ids=[command[:80].replace("\n", " ") for command, _ in CASES])
def test_bad_input_is_one_line_that_names_it(refusal, tmp_path, command, message):
    status, lines = refusal(command)
    assert status in (1, 2)
    assert len(lines) == 1 and message in lines[0], lines
    assert not (tmp_path / "out").exists()  # nothing was begun


def test_the_table_holds_two_hundred_different_cases():
    assert len({command for command, _ in CASES}) == len(CASES) >= 200
