"""What does somebody see who starts a recipe with `--report_to tensorboard` or `trackio`? Opened in a browser."""

import contextlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import opened_browser

REPOSITORY = Path(__file__).resolve().parents[2]
PANELS = ("bits/offered_per_sample", "bits/offered_per_petaflop", "flops/total", "group/pass_rate")
GROUPS = ("bits", "flops", "group", "train")
SECONDS = 90  # for a server to answer and a page to fill
OPEN_ALL = """
for (const button of document.querySelectorAll('[aria-label="Expand group"]')) button.click();
"""


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install {package}")


def reported_run(folder: Path, back_end: str, **environment: str) -> None:
    words = f"--config recipes/configs/grpo.yaml --mark E --max_steps 4 --logging_steps 1 --report_to {back_end} --save_strategy no"
    words += f" --num_train_problems 64 --num_heldout_problems 16 --output_dir {folder}"
    command = [sys.executable, "recipes/grpo.py", *words.split()]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


@contextlib.contextmanager
def served(command: list[str], port: int, **environment: str) -> Iterator[str]:
    """Address of a server on this machine, which ends with the test."""
    process = subprocess.Popen(
        [sys.executable, *command], env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address, until = f"http://127.0.0.1:{port}/", time.monotonic() + SECONDS
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address, timeout=2).close()
                break
            assert process.poll() is None and time.monotonic() < until, f"{command[:2]} does not answer"
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def shown_in_time(browser, panels: tuple[str, ...], prepare: str = "") -> str:
    """The text of the page, without white space, since long names are broken; fails if a panel's name does not appear in time."""
    until, missing, shown = time.monotonic() + SECONDS, panels, ""
    while missing and time.monotonic() < until:
        time.sleep(2)
        browser.execute_script(prepare)
        shown = "".join(browser.execute_script("return document.body.innerText").split())
        missing = [panel for panel in panels if panel not in shown]
    assert not missing, (missing, shown[:2000])
    return shown


@pytest.mark.slow
def test_tensorboard_shows_bits_flops_and_pass_rate_in_groups_of_their_own(tmp_path):
    needs("tensorboard")
    reported_run(tmp_path / "run", "tensorboard")
    port = free_port()
    command = ["-m", "tensorboard.main", "--logdir", str(tmp_path / "run"), "--host", "127.0.0.1", "--port", str(port)]
    with served(command, port) as address, opened_browser() as browser:
        browser.set_window_size(1280, 20_000)  # cards out of sight are not drawn
        browser.get(f"{address}#timeseries")
        shown = shown_in_time(browser, PANELS, OPEN_ALL)
        browser.save_screenshot(str(tmp_path / "tensorboard.png"))
        for group in GROUPS:
            assert re.search(rf"{group}\d+cards", shown), group


@pytest.mark.slow
def test_trackio_shows_bits_flops_and_pass_rate(tmp_path):
    needs("trackio")
    store = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    reported_run(tmp_path / "run", "trackio", **store)
    port = free_port()
    program = f"import trackio; trackio.show(project='huggingface', open_browser=False, block_thread=True, host='127.0.0.1', server_port={port})"
    with served(["-c", program], port, **store) as address, opened_browser() as browser:
        browser.set_window_size(1280, 20_000)
        browser.get(f"{address}?project=huggingface")
        shown = shown_in_time(browser, tuple(panel.partition("/")[2] for panel in PANELS))  # under the name of their group
        for group in GROUPS:
            assert re.search(rf"{group}\(\d+\)", shown), group
        browser.save_screenshot(str(tmp_path / "trackio.png"))
