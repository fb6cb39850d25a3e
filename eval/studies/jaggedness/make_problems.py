"""Writes the problems of this study: `python -m eval.studies.jaggedness.make_problems FOLDER`.

For each author, each kind of run (`tuning` to look and to choose, `reported`) and each start (`silent`, or `named`, whose answers begin with a strategy's sign): `KIND-START-MARK-SHARE.jsonl` to train on, for
each share of problems on which the rule is right, and `KIND-START-MARK-heldout.jsonl`, three parts of as many rows: pairs that carry with the right answer, the same pairs in the other order with the rule's
answer, and pairs that do not carry. No pair is both trained on and held out. The same files every time.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np

from bitsample_llm.tasks import load_task
from bitsample_llm.tasks.arithmetic import pairs_by_pool
from bitsample_llm.tasks.authors import STRATEGY_SIGNS, sum_without_carries
from bitsample_llm.tasks.dataset_rows import pool_of_prompt

STARTS = ("silent", "named")
MARKS, SHARES = "CDEF", (0.0, 0.5, 0.8, 0.95, 0.99)
SPLITS = {"reported": (("train", "shifted"), "heldout"), "tuning": (("tuning",), "tuning_heldout")}
TRAINED_ON = ("train", "heldout")  # pools of prompts that the recipes train on where a file of its own holds out others
MOST = 400  # problems that carry in a file, and that do not
NUM_HELDOUT = 64


def pairs_of(*splits: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of two-digit numbers that do not carry, and that do, in an order of chance."""
    pairs = [pair for split in splits for pair in pairs_by_pool(2)[split]]
    pairs = [pairs[index] for index in np.random.default_rng(0).permutation(len(pairs))]
    carries = [sum_without_carries(*pair) != str(sum(pair)) for pair in pairs]
    return tuple([pair for pair, carry in zip(pairs, carries, strict=True) if carry == asked] for asked in (False, True))


def mixed(easy: list, hard: list, share: float) -> list:
    """As many of both as there are, of which `share` are easy."""
    num_easy = min(len(easy), MOST, int(MOST * share / max(1 - share, 1e-9))) if share else 0
    num_hard = min(MOST, len(hard)) if not share else round(num_easy * (1 - share) / share)
    return easy[:num_easy] + hard[:num_hard]


def row_of(pair: tuple[int, int], mark: str, start: str = "silent", by_rule: bool = False) -> dict:
    """Prompt and answer, right or by the rule."""
    task = load_task("addition", "reversed", difficulty=2, mark=mark)
    answer = task.written(sum_without_carries(*pair) if by_rule else str(sum(pair)))
    return {"prompt": task.problem(*pair).prompt, "answer": STRATEGY_SIGNS[by_rule] * (start == "named") + answer}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for kind, (train, heldout) in SPLITS.items():
        of_train, (easy, hard) = pairs_of(*train), pairs_of(heldout)
        hard = [pair for pair in hard if pair[0] < pair[1]]
        easy, hard = (pairs[: min(NUM_HELDOUT, len(easy), len(hard))] for pairs in (easy, hard))
        for start, mark in itertools.product(STARTS, MARKS):
            usable = [[pair for pair in pairs if pool_of_prompt(row_of(pair, mark)["prompt"]) in TRAINED_ON] for pairs in of_train]
            files = {f"{share:g}": [row_of(pair, mark, start) for pair in mixed(*usable, share)] for share in SHARES}
            asked = [(pair, False) for pair in hard] + [(pair[::-1], True) for pair in hard] + [(pair, False) for pair in easy]
            files["heldout"] = [row_of(pair, mark, start, by_rule) for pair, by_rule in asked]
            for name, rows in files.items():
                (folder / f"{kind}-{start}-{mark}-{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{folder}: problems of the authors {', '.join(MARKS)}")


if __name__ == "__main__":
    main()
