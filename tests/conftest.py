"""What several tests need: the embedded model, and runs of the recipes on it."""

import importlib
import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from accelerate.state import AcceleratorState
from browsing import opened_browser
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.study import PRELOADED

REPOSITORY = Path(__file__).resolve().parent.parent
BASE = REPOSITORY / "data" / "base"

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the recipes that tests start; tests run beside each other
torch.set_num_threads(1)
# Every fork makes torch's pool anew at once, before transformers loads weights in several threads: threads that make it at the
# same time abort now and then with "Invalid thread pool".
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# TRL's trainers tell their maker that they were made, from a thread that holds a lock for a moment; a process that is forked just then waits for that lock for ever.
huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True


MOST_MEMORY_KB = 4 * 2**20  # of the test process, and of the largest process that a test started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A test that takes too much memory fails by its name; both peaks are of the session so far, so the first one is at fault."""
    result = yield
    peaks_kb = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    assert max(peaks_kb) < MOST_MEMORY_KB, f"a test may take 4 GB of memory: {max(peaks_kb) / 2**20:.1f} GB"
    return result


@pytest.fixture(autouse=True)
def closed_figures():
    """Close what a test has drawn and not written: figures of many tests in one process are a warning, which is an error."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def base_model():
    """The embedded model and its tokenizer, in float32 with eager attention."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")
    return model, AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium that reaches no host and logs its console and its requests."""
    with opened_browser() as opened:
        yield opened


def run_script(path: Path, words: list[str], output: Path) -> None:
    """Run a script as the shell would, with what it says in two files; the first thing that a forked process does."""
    AcceleratorState._reset_state(reset_partial_state=True)  # of tests that ran before in this process
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT), number)
        setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115 - open as long as the process
    sys.argv = [str(path), *words]
    os.chdir(REPOSITORY)
    runpy.run_path(str(path), run_name="__main__")


def fork(path: Path, words: list, output: Path) -> multiprocessing.Process:
    """Start a script in a fork of this process, which has imported what takes longer than most runs here."""
    for module in PRELOADED:
        importlib.import_module(module)
    output.mkdir(exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=run_script, args=(path, [str(word) for word in words], output))
    process.start()
    return process


def forked(path: Path, words: list, output: Path, timeout: float = 600) -> subprocess.CompletedProcess:
    """Run a script in a fork of this process to its end."""
    process = fork(path, words, output)
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
    said = [(output / name).read_text() if (output / name).exists() else "" for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess([str(path), *words], process.exitcode, *said)


@pytest.fixture
def recipe(tmp_path_factory):
    """Runs a recipe with its own configuration and returns the finished process. It is forked, or started by a `launcher`, whose
    words come before the file's name, as a user would start it."""

    def run(name: str, *options, launcher=None, timeout: float = 600) -> subprocess.CompletedProcess:
        path = REPOSITORY / ("data/pretraining" if name == "pretrain" else "recipes") / f"{name}.py"
        configs = path.parent if name == "pretrain" else path.parent / "configs"
        words = ["--config", configs / f"{name}.yaml", *options]
        if launcher is None:
            return forked(path, words, tmp_path_factory.mktemp("said"), timeout)
        command = [*launcher, path, *words]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout, cwd=REPOSITORY)

    return run
