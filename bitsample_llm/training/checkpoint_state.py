"""What does a trainer of ours keep in a checkpoint besides what TRL's own does?"""

from pathlib import Path
from typing import Protocol


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
