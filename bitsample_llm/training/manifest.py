"""What does a run directory say of a run before it starts?"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from trl import ModelConfig

from bitsample_llm.training.arguments import RunArguments
from bitsample_llm.training.problems import RunProblems, problems_sha256

PACKAGES = ("bitsample_llm", "torch", "transformers", "trl", "accelerate", "peft", "datasets")
REPOSITORY = Path(__file__).resolve().parents[2]


def sha256_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git_state() -> dict:
    """Commit and dirty flag of the repository; null outside of one."""

    def ask(*words: str) -> str | None:
        answer = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True)
        return answer.stdout.strip() if answer.returncode == 0 else None

    changes = ask("status", "--porcelain", "--untracked-files=no")
    return {"git_commit": ask("rev-parse", "HEAD"), "git_dirty": None if changes is None else bool(changes)}


def tags_of(words: Sequence[str]) -> dict[str, str]:
    """Facts by name, of words `key=value`; a ValueError for a word without a key or without `=`.

    >>> tags_of(["reason=latent", "grid.options=a=1"])
    {'reason': 'latent', 'grid.options': 'a=1'}
    """
    for word in words:
        if word.find("=") < 1:
            raise ValueError(f"--tags takes key=value words, got {word!r}: write --tags reason=latent")
    return dict(word.split("=", 1) for word in words)


def run_manifest(study: RunArguments, args, model_args: ModelConfig, problems: RunProblems, **choices) -> dict:
    """What a run directory says of a run before it starts."""
    folder = Path(model_args.model_name_or_path)
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.gguf"))
    config = {"study": dataclasses.asdict(study), "model": dataclasses.asdict(model_args), "training": args.to_dict(), **choices}
    return {
        "arm": study.arm,
        "start": study.start or folder.name,
        "tags": tags_of(study.tags),
        "command": " ".join(sys.argv),
        **git_state(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "model_sha256": {path.name: sha256_of_file(path) for path in weights},
        "train_problems_sha256": problems_sha256(problems.train),
        "heldout_problems_sha256": problems_sha256(problems.evaluation_sets["heldout"]),
        "data": problems.data,
        "config": json.loads(json.dumps(config, default=str)),  # JSON's types only
    }
