"""What evaluations of a start found, kept in a folder: runs that begin with the same weights, as the seeds and arms of a study do, score them once."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from bitsample_llm.records.writer import write_json_atomically


def digest_of(model) -> str:
    """Of all that a model's predictions depend on: weights, settings and the libraries that run it."""
    how = torch.__version__, transformers.__version__, str(model.device), model.config._attn_implementation, repr(model.config)
    digest = hashlib.sha256(repr(how).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class StartEvaluations:
    """Rows of evaluations by model and by what was asked of it."""

    def __init__(self, folder: Path, model):
        self._folder = folder
        self._model_digest = digest_of(model)

    def rows(self, asked: str, scored: Callable[[], list[dict]]) -> list[dict]:
        """The rows of an evaluation, read where a run has left them, else made by `scored` and left for others."""
        digest = hashlib.sha256(f"{self._model_digest} {asked}".encode()).hexdigest()
        path = self._folder / f"{digest[:32]}.json"
        if not path.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            rows = scored()
            own = path.with_name(f"{path.stem}-{os.getpid()}.json")  # another run may be leaving the same now
            write_json_atomically(own, rows)
            own.replace(path)
            return rows
        return json.loads(path.read_text())
