"""Writes the pools of problems that curricula choose from: `python -m eval.studies.curriculum.make_pools FOLDER`.

For each target (author G, author H) and each kind of run (`tuning` for the search, `reported`): `pool` holds as many problems by each author, with a
level from the easiest author to the target's; `target` problems by the target's author alone; `heldout` what is evaluated, by that author.
Operand pairs of the three do not overlap with each other's held-out ones, in whatever order and under whatever mark. The same files every time.
"""

import json
import sys
from pathlib import Path

from bitsample_llm.tasks import load_task

DIGITS = 3
PER_LEVEL, NUM_TARGET, NUM_HELDOUT = 512, 1024, 128
AUTHORS = {"G": "BCDEFG", "H": "BCDEFGH"}  # by target, from the easiest to the target itself
SPLITS = {"reported": ("train", "heldout"), "tuning": ("tuning", "tuning_heldout")}


def rows_of(mark: str, split: str, num: int, level: int, seed: int) -> list[dict]:
    """Rows of a JSONL file: problems by one author, all of one level."""
    problems = load_task("addition", "reversed", difficulty=DIGITS, mark=mark).problems(split, num, seed)
    return [{"prompt": problem.prompt, "answer": problem.answer, "level": level} for problem in problems]


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for target, authors in AUTHORS.items():
        for kind, (train, heldout) in SPLITS.items():
            hardest = len(authors) - 1
            files = {
                "pool": [row for level, mark in enumerate(authors) for row in rows_of(mark, train, PER_LEVEL, level, seed=level)],
                "target": rows_of(target, train, NUM_TARGET, hardest, seed=hardest),
                "heldout": rows_of(target, heldout, NUM_HELDOUT, hardest, seed=0),
            }
            for name, rows in files.items():
                path = folder / f"{target}-{kind}-{name}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{folder}: pools of the targets {', '.join(AUTHORS)}")


if __name__ == "__main__":
    main()
