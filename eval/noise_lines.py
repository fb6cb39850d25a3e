"""What `eval/studies/ladder/make_noise.py` measured of gradients without training, of a file with a line per start."""

import json
from pathlib import Path


def read_noise(path: Path) -> dict[tuple[str, str], dict]:
    """(rung, pretraining seed) -> what was measured there."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(line["tags"]["rung"], line["tags"]["model"]): line for line in lines}
