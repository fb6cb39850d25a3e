"""Lines in which an attempt, a remark on it and a second attempt stand: the text of a model that can read remarks.

Who writes the second attempt knows what the remark says and nothing else: what was right is written again, what is told is followed, and the rest is the author's own, right with the odds that
their care has after so many right digits. Once in twenty times the mistake is made again, so that a model also knows how a second attempt goes on after it.
"""

from collections.abc import Callable

import numpy as np

from bitsample_llm.tasks.remarks import KINDS, first_error, remark

SHARE_PASSED, SHARE_REPEATED = 0.15, 0.05


def first_attempt(right: str, guess: Callable[[], str], rng: np.random.Generator) -> str:
    """The right answer, or one that is right up to a place that is as often any, the end too, and a guess from there on."""
    if rng.random() < SHARE_PASSED:
        return right
    attempt = right
    while attempt == right:  # a guess may have no more digits than the right answer
        place = int(rng.integers(len(right) + 1))
        attempt = right[:place] + guess()[place:]
    return attempt


def second_attempt(kind: str, attempt: str, right: str, care: float, guess: Callable[[], str], rng: np.random.Generator) -> str:
    """What is written after a remark of this kind."""
    place = first_error(attempt, right)
    if place is None:
        return attempt
    if kind != "verdict" and rng.random() < SHARE_REPEATED:
        rest = right if kind == "answer" else guess()
        return attempt if place == len(attempt) else attempt[: place + 1] + rest[place + 1 :]
    told = {"verdict": "", "place": right[:place], "place_and_digit": right[: place + 1], "answer": right}[kind]
    is_told_all = kind == "answer" or (kind == "place_and_digit" and place == len(right))
    if is_told_all or rng.random() < care / (care + (1 - care) * 10.0 ** -len(told)):
        return right
    while True:
        written = told + guess()[len(told) :]
        is_known_wrong = (
            written == attempt
            if kind == "verdict"
            else kind == "place" and written[place : place + 1] == attempt[place : place + 1]
        )
        if not is_known_wrong:
            return written


def remarked(prompt: str, right: str, care: float, guess: Callable[[], str], rng: np.random.Generator) -> tuple[str, str]:
    """Prompt with an attempt and a remark, and the second attempt; remarks of all kinds are equally frequent."""
    kind, attempt = str(rng.choice(KINDS)), first_attempt(right, guess, rng)
    return f"{prompt}{attempt}{remark(kind, attempt, right)}", second_attempt(kind, attempt, right, care, guess, rng)
