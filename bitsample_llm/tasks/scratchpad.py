"""Worked steps before the answer: what they are for a sum or a product, and verdicts on them line by line.

    A47+85:7+5=12;4+8+1=13;132        columns from the right, with the carry where there is one
    A47*8:7*8=56;4*8+5=37;376         the same for a number times a single digit

Lines end in `;`, the answer comes last and ends with the end of the sequence. The outcome is judged on the answer alone,
whatever stands before it, so several completions pass; each line is judged against the worked one.
"""

from bitsample_llm.tasks.problem import Step, Verdict

LINE_END = ";"
MAX_LINES = 64  # of a completion that are judged


def worked_lines(name: str, first: int, second: int) -> list[str]:
    """Lines of the scratchpad of a sum or of a product with a single digit, each with its `;`.

    >>> worked_lines("addition", 47, 85), worked_lines("multiplication", 47, 8)
    (['7+5=12;', '4+8+1=13;'], ['7*8=56;', '4*8+5=37;'])
    """
    lines, carry = [], 0
    if name == "addition":
        width = max(len(str(first)), len(str(second)))
        columns = zip(str(first).zfill(width)[::-1], str(second).zfill(width)[::-1], strict=True)
    else:
        columns = ((digit, str(second)) for digit in str(first)[::-1])
    for a, b in columns:
        value = (int(a) + int(b) if name == "addition" else int(a) * int(b)) + carry
        operator = "+" if name == "addition" else "*"
        lines.append(f"{a}{operator}{b}{f'+{carry}' if carry else ''}={value}{LINE_END}")
        carry = value // 10
    return lines


def guessed_lines(lines: list[str], rng) -> list[str]:
    """The same lines with every result and carry guessed, as an author writes who does not work them out."""
    guessed = []
    for line in lines:
        left = line.partition("=")[0]
        columns = left if left.count("+") + left.count("*") == 1 else left.rpartition("+")[0]
        carry = f"+{rng.integers(1, 9)}" if guessed and rng.random() < 0.5 else ""
        guessed.append(f"{columns}{carry}={rng.integers(0, 82)}{LINE_END}")
    return guessed


def verdict_on_scratchpad(lines: list[str], answer: str, completion: str, ended: bool) -> Verdict:
    """Verdict that passes a completion which stopped by itself and whose last line is the answer.

    Steps are the lines, the answer and the end. A line is right if it is the worked one at its place; at most `MAX_LINES`
    are looked at, so a completion of a megabyte costs no more than a short one.

    >>> verdict = verdict_on_scratchpad(["7+5=12;", "4+8+1=13;"], "132", "7+5=11;4+8+1=13;132", True)
    >>> verdict.passed, verdict.reason, [step.correct for step in verdict.steps]
    (True, 'correct', [False, True, True, True])
    """
    ended = bool(ended)
    steps, start = [], 0
    while len(steps) < MAX_LINES and (end := completion.find(LINE_END, start) + 1):
        expected = lines[len(steps)] if len(steps) < len(lines) else None
        steps.append(Step(start, end, completion[start:end] == expected))
        start = end
    passed = ended and completion.rpartition(LINE_END)[2] == answer
    if start < len(completion):
        steps.append(Step(start, len(completion), completion[start:] == answer))
    steps.append(Step(len(completion), len(completion), ended and bool(completion)))
    if passed:
        return Verdict(True, "correct", tuple(steps))
    if not completion:
        reason = "empty" if ended else "not_ended"
    elif not all(step.correct for step in steps[:-2]):
        reason = "wrong_line"
    elif not ended:
        reason = "not_ended"
    else:
        reason = "wrong_answer"
    return Verdict(False, reason, tuple(steps))
