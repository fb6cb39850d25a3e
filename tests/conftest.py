"""What several tests need: the embedded model, and runs of the recipes on it."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from browsing import opened_browser
from transformers import AutoModelForCausalLM, AutoTokenizer

REPOSITORY = Path(__file__).resolve().parent.parent
BASE = REPOSITORY / "data" / "base"

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the recipes that tests start; tests run beside each other
torch.set_num_threads(1)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(REPOSITORY))  # eval/ and recipes/ are not installed


MOST_MEMORY_KB = 4 * 2**20  # of the test process, and of the largest process that a test started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A test that takes too much memory fails by its name; both peaks are of the session so far, so the first one is at fault."""
    result = yield
    peaks_kb = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    assert max(peaks_kb) < MOST_MEMORY_KB, f"a test may take 4 GB of memory: {max(peaks_kb) / 2**20:.1f} GB"
    return result


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


@pytest.fixture
def recipe(tmp_path):
    """Runs a recipe as a user would and returns the finished process; `launcher` comes before its file name."""

    def run(name: str, *options, launcher=(sys.executable,), timeout: float = 600) -> subprocess.CompletedProcess:
        command = [
            *launcher,
            str(REPOSITORY / "recipes" / f"{name}.py"),
            "--config",
            str(REPOSITORY / "recipes" / "configs" / f"{name}.yaml"),
        ]
        return subprocess.run([*command, *map(str, options)], capture_output=True, text=True, timeout=timeout, cwd=REPOSITORY)

    return run
