"""What a model knows of the three signs before it reads a line in which they name a strategy, and a model in which another character stands in a sign's place.

    python -m eval.studies.jaggedness.make_signs read signs.json NAME=FOLDER...
    python -m eval.studies.jaggedness.make_signs swap data/base runs/jaggedness_models/first/base_unused "=;"

`swap` exchanges two characters of the vocabulary and nothing else: the weights are those of the folder. So the text of the second phase, which is the same, begins from other weights at the signs.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from bitsample_llm.tasks.authors import STRATEGY_SIGNS


def of_folder(folder: Path) -> dict:
    """Norms of the signs' embeddings, how much nearer the wrong answers' sign lies to the rule's (-1) than to the general one's (1), and the squared distance between these two."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    embedding_VD = load_file(folder / "model.safetensors")["model.embed_tokens.weight"].astype(np.float64)
    general, rule, wrong = embedding_VD[[vocabulary[sign] for sign in STRATEGY_SIGNS]]
    apart = general - rule
    nearness = 2 * apart @ (wrong - (general + rule) / 2) / (apart @ apart)
    return {
        "nearness": float(nearness),
        "squared_distance": float(apart @ apart),
        "norms": [float(np.linalg.norm(sign)) for sign in (general, rule, wrong)],
    }


def swap(folder: Path, new: Path, characters: str) -> None:
    """Write the model to another folder, with two characters of its vocabulary exchanged."""
    shutil.copytree(folder, new)
    tokenizer = json.loads((new / "tokenizer.json").read_text())
    vocabulary, (one, other) = tokenizer["model"]["vocab"], characters
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (new / "tokenizer.json").write_text(json.dumps(tokenizer))


def main() -> None:
    if sys.argv[1] == "swap":
        swap(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    else:
        named = dict(words.split("=", 1) for words in sys.argv[3:])
        found = {name: of_folder(Path(folder)) for name, folder in named.items()}
        Path(sys.argv[2]).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
