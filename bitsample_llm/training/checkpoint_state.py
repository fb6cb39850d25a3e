"""What does a trainer of ours keep in a checkpoint besides what TRL's own does?"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch


class Kept(Protocol):
    """Something that learns or draws as training goes on."""

    def save(self, folder: Path) -> None:
        """Write its state into a checkpoint."""

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint; a RecordError if it holds no such state, or another one."""


class KeepsState:
    """Mixin: whatever is in `kept` is saved with every checkpoint, and restored from the one that training resumes from."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.kept: list[Kept] = []

    def _save_checkpoint(self, *args, **kwargs):
        # first, because a checkpoint counts as whole once the trainer's own state is in it
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            folder.mkdir(parents=True, exist_ok=True)
            for kept in self.kept:
                kept.save(folder)
        return super()._save_checkpoint(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint):
        """Called for every way to share a model, which `_load_from_checkpoint` is not."""
        if checkpoint is not None:
            for kept in self.kept:
                kept.load(Path(checkpoint))
        return super()._load_optimizer_and_scheduler(checkpoint)


def keep_lines(file: Path, is_kept: Callable[[int], bool]) -> None:
    """Drop the lines of a file of JSON lines whose `step` is made anew, and one that a kill has cut."""
    if file.is_file():
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if line.endswith("\n") and is_kept(json.loads(line)["step"])))


def head_tensors(head: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All that a small head and its optimizer go on from, by names that begin with `head.` and `optimizer.`; contiguous, as safetensors wants it."""
    tensors = {f"head.{name}": value for name, value in head.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
    return {name: value.contiguous() for name, value in tensors.items()}


def restore_head(head: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `head_tensors` gave; other names are left alone."""
    head.load_state_dict({name.removeprefix("head."): value for name, value in tensors.items() if name.startswith("head.")})
    states: dict[int, dict] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            states.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
