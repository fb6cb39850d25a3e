"""What can be said of an attempt, in the characters of the small models: a remark that stands after it in the context of a second attempt.

`G47+85<281(1=3)` asks author G anew after the attempt `281`, of which the digit at place 1 is wrong and should be 3. Places count from 0, the end of an answer is a place, and `.` stands for
it. Which model can read remarks: `data/pretraining/pretrain_remarks.yaml`.
"""

KINDS = ("verdict", "place", "place_and_digit", "answer")  # each tells more than the one before
PASSED, FAILED, END = "(+)", "(-)", "."


def first_error(attempt: str, right: str, ended: bool = True) -> int | None:
    """The place at which an attempt first differs from the right answer, `len(right)` where it should have ended; None for a pass.

    >>> first_error("281", "231"), first_error("23", "231"), first_error("2310", "231"), first_error("231", "231")
    (1, 2, 3, None)
    """
    if attempt == right:
        return None if ended else len(right)
    return next(
        (place for place, pair in enumerate(zip(attempt, right, strict=False)) if pair[0] != pair[1]), min(len(attempt), len(right))
    )


def remark(kind: str, attempt: str, right: str, ended: bool = True) -> str:
    """What is said of an attempt; of a pass always the same.

    Raises:
        ValueError: for an unknown kind.

    >>> [remark(kind, "281", "231") for kind in KINDS], remark("place_and_digit", "2310", "231"), remark("answer", "231", "231")
    (['(-)', '(1-)', '(1=3)', '(=231)'], '(3=.)', '(+)')
    """
    if kind not in KINDS:
        raise ValueError(f"unknown remark {kind!r}; known: {', '.join(KINDS)}")
    if (place := first_error(attempt, right, ended)) is None:
        return PASSED
    said = {
        "verdict": FAILED,
        "place": f"({place}-)",
        "place_and_digit": f"({place}={right[place : place + 1] or END})",
        "answer": f"(={right})",
    }
    return said[kind]
