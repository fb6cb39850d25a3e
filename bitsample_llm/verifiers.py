"""Is a completion right? One function a kind of answer, by name, for problems that come from data.

    exact          the completion is the answer, character for character
    numeric        its last number (after the last ####, or in the last \\boxed{}, where there is one) is the answer's, as a
                   rational number
    symbolic       math-verify finds it equal to the answer
    reasoning_gym  the task's own scoring gives it full marks

No text of a model is ever evaluated: what a library parses is parsed in another process, which is killed when it takes too
long (`judge.py`). The end of a completion is judged, where answers stand, and no more than `MAX_JUDGED` characters of it.
"""

import re
from collections.abc import Callable
from fractions import Fraction

from bitsample_llm.judge import ask_judge

MAX_JUDGED = 4096
MAX_DIGITS = 64  # of a number, and a hundred for its power of ten
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,2}(?!\d))?(?:/\d+)?")
BOXED = "\\boxed{"


def final_answer(text: str) -> str:
    """The part of a text in which its answer is looked for: after the last `####`, in the last `\\boxed{}`, or all of it.

    >>> final_answer("6 * 12 = 72\\n#### 72"), final_answer("so \\\\boxed{1/2} it is"), final_answer("72")
    (' 72', '1/2', '72')
    """
    text = text[-MAX_JUDGED:]
    if "####" in text:
        return text.rpartition("####")[2]
    if BOXED in text:
        inner = text.rpartition(BOXED)[2]
        depth = 1
        for index, character in enumerate(inner):
            depth += (character == "{") - (character == "}")
            if depth == 0:
                return inner[:index]
    return text


def last_number(text: str) -> Fraction | None:
    """The last number of a text's final answer, exactly; None if there is none, or it is longer than any answer is.

    >>> last_number("that makes $1,234.50"), last_number("#### -3/4"), last_number("none")
    (Fraction(2469, 2), Fraction(-3, 4), None)
    """
    found = NUMBER.findall(final_answer(text))
    if not found or len(found[-1]) > MAX_DIGITS:
        return None
    numerator, _, denominator = found[-1].replace(",", "").partition("/")
    if denominator and not int(denominator):
        return None
    return Fraction(numerator) / int(denominator or 1)


def is_same_number(completion: str, answer: str, details: dict) -> bool:
    """Whether both end in the same number."""
    right = last_number(answer)
    return right is not None and last_number(completion) == right


def is_same_text(completion: str, answer: str, details: dict) -> bool:
    """Whether the completion is the answer."""
    return completion == answer


def is_same_expression(completion: str, answer: str, details: dict) -> bool:
    """Whether math-verify finds the completion's final answer equal to the right one."""
    return ask_judge({"kind": "symbolic", "completion": final_answer(completion), "answer": final_answer(answer)})


def is_full_score(completion: str, answer: str, details: dict) -> bool:
    """Whether the task of reasoning-gym that made the problem gives the completion full marks."""
    return ask_judge({"kind": "reasoning_gym", "completion": completion[-MAX_JUDGED:].strip()} | details)


VERIFIERS: dict[str, Callable[[str, str, dict], bool]] = {
    "exact": is_same_text,
    "numeric": is_same_number,
    "symbolic": is_same_expression,
    "reasoning_gym": is_full_score,
}
