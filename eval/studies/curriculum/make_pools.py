"""Writes the pools of problems that curricula choose from: `python -m eval.studies.curriculum.make_pools FOLDER`.

For each target and each kind of run (`tuning` for the search, `reported`): `pool` holds problems of every level, from the easiest to the target's; `target` problems of the target alone; `heldout` what is
evaluated, of the target; of `G` and `H` also `only_C` and so on, the pool's problems of one author. No operand pair of a pool is held out, in whatever order and under whatever mark. The same files every time.
"""

import json
import sys
from pathlib import Path

from bitsample_llm.tasks import Problem, load_task

PER_LEVEL, NUM_TARGET, NUM_HELDOUT = 512, 1024, 128
# By target, (author, digits) of each level, the target last. `gates`: problems of one kind, whose level is the first digit of the first operand.
LEVELS = {
    "G": [(mark, 3) for mark in "BCDEFG"],
    "H": [(mark, 3) for mark in "BCDEFGH"],
    "digits": [("E", 1), ("E", 2), ("E", 3)],
    "gates": [("E", 2)],
}
SPLITS = {"reported": ("train", "heldout"), "tuning": ("tuning", "tuning_heldout")}


def problems_of(level: tuple[str, int], split: str, most: int, seed: int) -> list[Problem]:
    """So many problems of a level, or all that there are."""
    mark, digits = level
    task = load_task("addition", "reversed", difficulty=digits, mark=mark)
    return task.problems(split, min(most, int(min(task.num_problems(split), most))), seed)


def rows_of(problems: list[Problem], level: int | None) -> list[dict]:
    """Rows of a JSONL file; without a level it is the first digit, after the mark."""
    return [
        {"prompt": problem.prompt, "answer": problem.answer, "level": int(problem.prompt[1]) if level is None else level}
        for problem in problems
    ]


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for target, levels in LEVELS.items():
        for kind, (train, heldout) in SPLITS.items():
            numbers = [None] if target == "gates" else list(range(len(levels)))
            most = NUM_TARGET if target == "gates" else PER_LEVEL
            of_levels = [
                rows_of(problems_of(level, train, most, place), number)
                for place, (level, number) in enumerate(zip(levels, numbers, strict=True))
            ]
            files = {
                "pool": [row for rows in of_levels for row in rows],
                "target": rows_of(problems_of(levels[-1], train, NUM_TARGET, len(levels) - 1), numbers[-1]),
                "heldout": rows_of(problems_of(levels[-1], heldout, NUM_HELDOUT, 0), numbers[-1]),
            }
            if target in "GH":
                files |= {f"only_{mark}": rows for (mark, _), rows in zip(levels, of_levels, strict=True)}
            for name, rows in files.items():
                path = folder / f"{target}-{kind}-{name}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{folder}: pools of the targets {', '.join(LEVELS)}")


if __name__ == "__main__":
    main()
