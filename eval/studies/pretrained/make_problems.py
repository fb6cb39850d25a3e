"""Writes the problems of the study, and the plain English that nothing trains on: `python -m eval.studies.pretrained.make_problems FOLDER`.

One JSONL file for each kind of problem, one more for what is held out of it, and `plain_english.jsonl`, sentences whose second half is to be predicted.
The same files every time. `letters.jsonl` needs the package reasoning-gym.
"""

import json
import random
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bitsample_llm.tasks.judge import gym_dataset, require_package

NUM_TRAIN, NUM_HELDOUT = 1024, 64
SENTENCES = Path(__file__).parent / "plain_english.txt"


def operands(num_digits: int, rng: random.Random) -> tuple[int, int]:
    """Two numbers of so many digits."""
    first, beyond = (0, 10) if num_digits == 1 else (10 ** (num_digits - 1), 10**num_digits)
    return rng.randrange(first, beyond), rng.randrange(first, beyond)


def sum_row(num_digits: int, rng: random.Random) -> dict:
    """What a sum asks for and its answer."""
    a, b = operands(num_digits, rng)
    return {"prompt": f"What is {a} + {b}? Answer: ", "answer": str(a + b)}


def larger_row(num_digits: int, rng: random.Random) -> dict:
    """Which of two numbers is larger; of two equal ones others are drawn."""
    a = b = 0
    while a == b:
        a, b = operands(num_digits, rng)
    return {"prompt": f"Which is larger, {a} or {b}? Answer: ", "answer": str(max(a, b))}


def letter_rows() -> list[dict]:
    """How often does a letter stand in a text? A task of reasoning-gym."""
    require_package("reasoning_gym")
    rows = gym_dataset("letter_counting", 0, 2 * (NUM_TRAIN + NUM_HELDOUT))
    return [{"prompt": f"{row['question']}\nAnswer: ", "answer": row["answer"]} for row in rows]


def distinct(rows: Iterable[dict], num: int) -> list[dict]:
    """At most the first `num` rows that ask for different things: numbers in another order are the same, or held out would not be held out."""
    by_question: dict[tuple, dict] = {}
    for row in rows:
        if len(by_question) == num:
            break
        asked = sorted(re.findall(r"\d+", row["prompt"])) or [row["prompt"]]
        by_question.setdefault(tuple(asked), row)
    return list(by_question.values())


def drawn(row_of: Callable[[random.Random], dict], most: int) -> list[dict]:
    """Up to `most` rows that differ, from a fixed seed."""
    rng = random.Random(0)
    return distinct((row_of(rng) for _ in range(20 * most)), most)


def with_wrong_answers(rows: list[dict]) -> list[dict]:
    """The rows, each with the answer of the next one whose answer is another: all that they teach of an answer is its form."""
    answers = [row["answer"] for row in rows]
    others = (next(other for other in answers[n + 1 :] + answers[: n + 1] if other != answers[n]) for n in range(len(rows)))
    return [row | {"answer": other} for row, other in zip(rows, others, strict=True)]


def halves(sentence: str) -> dict:
    """A sentence as a problem: its first words, and the rest as the answer."""
    words = sentence.split(" ")
    middle = len(words) // 2
    return {"prompt": " ".join(words[:middle]), "answer": " " + " ".join(words[middle:])}


def write_rows(path: Path, rows: list[dict]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_problems(folder: Path) -> None:
    """Write all files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    most = NUM_TRAIN + NUM_HELDOUT
    kinds = {f"sums{digits}": drawn(lambda rng, digits=digits: sum_row(digits, rng), most) for digits in (1, 2, 3)}
    kinds["larger"] = drawn(lambda rng: larger_row(3, rng), most)
    kinds["letters"] = distinct(letter_rows(), most)
    for name, rows in kinds.items():
        num_heldout = min(NUM_HELDOUT, len(rows) // 3)  # there are few sums of one digit
        write_rows(folder / f"{name}_heldout.jsonl", rows[:num_heldout])
        write_rows(folder / f"{name}.jsonl", rows[num_heldout:])
    write_rows(folder / "sums2_wrong.jsonl", with_wrong_answers(kinds["sums2"][NUM_HELDOUT:]))
    write_rows(folder / "plain_english.jsonl", [halves(line) for line in SENTENCES.read_text().splitlines()])


if __name__ == "__main__":
    write_problems(Path(sys.argv[1]))
