"""The notebook runs from its first cell to its last, and what it shows is what it says."""

import json
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

NOTEBOOK = REPOSITORY / "recipes" / "tour.ipynb"
SCREEN = """
class Shown:
    def update(self, figure):
        figure.savefig("shown.png")


def display(figure, display_id):
    return Shown()
"""


def cells(kind: str) -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


@pytest.mark.slow
def test_the_cells_of_the_tour_run_one_after_the_other(tmp_path):
    for name in ("data", "recipes"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    program = SCREEN + "\n".join("".join(cell["source"]) for cell in cells("code"))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "GRPOTrainer, finished, 60 steps" in done.stdout and "RL CAN PAY: THE SKILL IS LATENT" in done.stdout
    assert (tmp_path / "shown.png").stat().st_size > 10_000


def test_the_outputs_of_the_tour_are_those_of_its_cells_and_of_no_machine():
    outputs = [output for cell in cells("code") for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    said = "".join("".join(output.get("text", "")) for output in outputs)
    assert "RL CAN PAY" in said and not re.search(r"error:|Traceback|/home/|/root/", said, re.IGNORECASE)
    assert [cell["execution_count"] for cell in cells("code")] == list(range(1, len(cells("code")) + 1))
