"""Is a completion right? One function per kind of answer, by name, for problems that come from data.

    exact          the completion is the answer, character for character
    numeric        the one number that it ends in or marks is the answer's (`plain_number.py`)
    symbolic       math-verify finds it equal to the answer
    reasoning_gym  the task's own scoring gives it full marks

No text of a model is ever evaluated: what a library parses is parsed in another process, which is killed when it takes too
long (`judge.py`). Only the last `MAX_JUDGED` characters of a completion are judged: answers stand at the end. What a verifier
cannot read does not pass and is no wrong answer either: `NoVerdict` says why.
"""

from collections.abc import Callable

from bitsample_llm.tasks.judge import ask_judge
from bitsample_llm.tasks.plain_number import MAX_JUDGED, marked_place, plain_number


def is_same_number(completion: str, answer: str, details: dict) -> bool:
    return plain_number(completion).is_same(plain_number(answer))


def final_answer(text: str) -> str:
    """The part of a text that holds its answer: what it marks, or its end."""
    marked = marked_place(text)
    return text[-MAX_JUDGED:] if marked is None else marked


def is_same_text(completion: str, answer: str, details: dict) -> bool:
    return completion == answer


def is_same_expression(completion: str, answer: str, details: dict) -> bool:
    return ask_judge({"kind": "symbolic", "completion": final_answer(completion), "answer": final_answer(answer)})


def is_full_score(completion: str, answer: str, details: dict) -> bool:
    return ask_judge({"kind": "reasoning_gym", "completion": completion[-MAX_JUDGED:].strip()} | details)


VERIFIERS: dict[str, Callable[[str, str, dict], bool]] = {
    "exact": is_same_text,
    "numeric": is_same_number,
    "symbolic": is_same_expression,
    "reasoning_gym": is_full_score,
}
