"""Verdicts from a process of its own, which can be killed: libraries that parse mathematics may take forever over `9^9^9^9`, or
all memory, and no signal reaches them there.

    python -m bitsample_llm.tasks.judge KIND     reads questions and writes verdicts, one JSON object a line
"""

import atexit
import importlib
import inspect
import json
import os
import re
import resource
import select
import subprocess
import sys
import time
from functools import cache

import psutil

SECONDS = 5.0  # of CPU time for one verdict, so that a busy machine gives the same ones
PATIENCE = 10  # times SECONDS by the clock
START_SECONDS = 120.0  # for its libraries to load
MEMORY_BYTES = 4 * 2**30
PACKAGES = {"symbolic": ("math_verify", "math-verify"), "reasoning_gym": ("reasoning_gym", "reasoning-gym")}
EVALUATES = re.compile(r"\b(eval|exec|compile|parse_expr|sympify|sympy|sp)\b")  # in a scoring function: the model's text would run


class NoVerdict(Exception):
    """There is no verdict; the message says why, in one word."""


def require_package(kind: str):
    """The optional package behind a verifier; a ValueError names it and the command that installs it."""
    module, package = PACKAGES[kind]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"the verifier {kind} needs {package}: pip install 'bitsample_llm[{package}]'") from error


class Judge:
    """A process that answers questions of one kind, started when first asked and again after it had to be killed."""

    def __init__(self, kind: str, seconds: float = SECONDS):
        self.kind = kind
        self.seconds = seconds
        self._process: subprocess.Popen | None = None

    def ask(self, question: dict) -> bool:
        """The verdict; `NoVerdict` says `timed_out`, `judge_died`, or the name of the error that the library raised."""
        if self._process is None:
            self._start()
        self._process.stdin.write((json.dumps(question) + "\n").encode())
        self._process.stdin.flush()
        reply = self._reply(self.seconds)
        if "error" in reply:
            raise NoVerdict(reply["error"])
        return reply["passed"]

    def _start(self) -> None:
        command = [sys.executable, "-m", "bitsample_llm.tasks.judge", self.kind]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self._reply(START_SECONDS)

    def _reply(self, seconds: float) -> dict:
        line = b""
        started, spent = time.monotonic(), self._cpu_seconds()
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], seconds / 10)
            if not ready and self._cpu_seconds() - spent < seconds and time.monotonic() - started < PATIENCE * seconds:
                continue
            part = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not part:
                self.close()
                raise NoVerdict("judge_died" if ready else "timed_out")
            line += part
        return json.loads(line)

    def _cpu_seconds(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@cache
def _judge(kind: str) -> Judge:
    judge = Judge(kind)
    atexit.register(judge.close)
    return judge


def ask_judge(question: dict) -> bool:
    """The verdict on a question, whose `kind` says who answers it; `NoVerdict` as of `Judge.ask`."""
    return _judge(question["kind"]).ask(question)


# ---- in the judge's process ------------------------------------------------------------------------------------------


def symbolic_verdict(question: dict) -> bool:
    """Whether math-verify finds both equal, read as LaTeX only: its other reader evaluates the text as Python does."""
    math_verify = require_package("symbolic")

    def read(text: str) -> list:
        has_delimiter = any(mark in text for mark in ("$", "\\(", "\\["))
        text = text if has_delimiter else f"${text}$"
        # no time limit of its own, which is a signal: the process is killed instead
        return math_verify.parse(text, [math_verify.LatexExtractionConfig()], parsing_timeout=None, raise_on_error=True)

    answer, completion = read(question["answer"]), read(question["completion"])
    return bool(math_verify.verify(answer, completion, timeout_seconds=None, raise_on_error=True))


@cache
def gym_dataset(task: str, seed: int, size: int):
    """A task of reasoning-gym; a ValueError if there is none of that name, or its scoring would evaluate the model's text."""
    gym = require_package("reasoning_gym")
    if task not in gym.factory.DATASETS:
        raise ValueError(f"reasoning-gym has no task {task!r}; it has {', '.join(sorted(gym.factory.DATASETS))}")
    dataset = gym.create_dataset(task, seed=seed, size=size)
    if EVALUATES.search(inspect.getsource(type(dataset).score_answer)):
        raise ValueError(f"the scoring of reasoning-gym's task {task} would evaluate the model's text: it is not offered here")
    return dataset


def accepts_only_its_answer(dataset) -> bool:
    """Whether a task of reasoning-gym scores by comparing with its own answer, character for character."""
    return type(dataset).score_answer is require_package("reasoning_gym").dataset.ProceduralDataset.score_answer


def gym_verdict(question: dict) -> bool:
    dataset = gym_dataset(question["task"], question["seed"], question["size"])
    return float(dataset.score_answer(question["completion"], dataset[question["index"]])) >= 1.0


def main() -> None:
    """Answer questions until there are no more."""
    kind = sys.argv[1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    out, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no verdict
    require_package(kind)
    if kind == "symbolic":  # its first verdict loads and builds a good deal
        symbolic_verdict({"completion": "x^2+2x+1", "answer": "(x+1)^2"})
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            reply = {"passed": (symbolic_verdict if kind == "symbolic" else gym_verdict)(question)}
        except Exception as error:  # noqa: BLE001  a library raises what it likes; its name goes into the record
            reply = {"error": type(error).__name__}
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    main()
