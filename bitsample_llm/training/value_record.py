"""What did the value function say of a rollout before it was told how it ended? The file `values.jsonl` of a run directory."""

import json
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from bitsample_llm.training.checkpoint_state import keep_lines

PLACES = (0.0, 0.5, 0.9)  # shares of the longest completion, at whose tokens the values of a rollout are noted


class ValueRecord:
    """One line per generation, about the rollouts in it that ran on: only their verdicts are their own. Written by the main process."""

    def __init__(self, path: Path, max_tokens: int):
        self.path = path
        self.indices = [int(place * max_tokens) for place in PLACES]

    def add(self, step: int, threshold: float, ran_on: Sequence[tuple[Sequence[float], int | None, bool]]) -> None:
        """Note of each rollout its values before each token, after how many tokens the threshold would have ended it (None: not at all), and
        whether it passed. `step` is the number of updates before the generation.
        """
        line = {
            "step": step,
            "threshold": round(threshold, 6),
            "passed": [passed for _, _, passed in ran_on],
            "num_tokens": [len(values) for values, _, _ in ran_on],
            "ends_after": [ends_after for _, ends_after, _ in ran_on],
            "values": [[round(values[i], 4) if i < len(values) else None for i in self.indices] for values, _, _ in ran_on],
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self, folder: Path) -> None:
        """Nothing: what was noted is in the file."""

    def load(self, folder: Path) -> None:
        """Drop the generations after the checkpoint `checkpoint-STEP`, which are drawn again."""
        step = int(folder.name.rpartition("-")[2])
        if PartialState().is_main_process:
            keep_lines(self.path, lambda kept: kept < step)
