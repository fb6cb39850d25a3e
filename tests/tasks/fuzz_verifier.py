"""Try to make the verifiers of all tasks and of data raise, dawdle, pass a wrong completion or fail a right one.

python tests/tasks/fuzz_verifier.py --num 100000 --seed 0
python tests/tasks/fuzz_verifier.py --verifiers symbolic reasoning_gym --seconds 600    their judges are processes, and slow
"""

import argparse
import itertools
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable

from fuzz_data_verifiers import Violation, fuzz_data, fuzz_judge
from tqdm import tqdm

from bitsample_llm.tasks import Problem, Verdict, load_task
from bitsample_llm.tasks.arithmetic import OPERATOR_BY_TASK, SIGN_BY_FORMAT, ArithmeticTask
from bitsample_llm.tasks.scratchpad import MAX_LINES
from bitsample_llm.tasks.verifiers import VERIFIERS

DIFFICULTIES = (1, 2, 3, 4, 8, 30, 300)
REASONS = {"correct", "wrong_digit", "not_a_digit", "too_long", "too_short", "empty", "not_ended"}
SCRATCHPAD_REASONS = {"correct", "wrong_line", "wrong_answer", "empty", "not_ended"}
NO_TASK = ("subtraction", "scratchpad")
SLOWEST_ALLOWED_SECONDS = 0.05
ZERO_BY_SCRIPT = {"full-width": "\uff10", "Arabic-Indic": "\u0660", "Devanagari": "\u0966", "mathematical bold": "\U0001d7ce"}
SPACES = " \t\n\r\v\f\0\u00a0\u2003\u200b\ufeff\u202e"
NASTY = (
    "",
    "\0",
    "\0" * 1000,
    "1" * 2**20,
    "\N{BLACK SQUARE}" * 2**20,
    "9" * 10_000,
    "-" + "9" * 10_000,
    "[" * 100_000,
    "(" * 5_000 + "1" + ")" * 5_000,
    '{"a":' * 5_000,
    "inf",
    "-inf",
    "nan",
    "None",
    "True",
    "1e400",
    "1e-400",
    "99**98**97",
    "0x1F",
    "1_000",
    "1,000",
    "1/0",
    "\ud800",
    "\udfff\ud800",
    "a\u0301" * 1000,
    "<eos>",
    "</s>",
    "__import__('os').abort()",
    "%s%n{0}{",
    "\\",
    "½Ⅷ一²",
)


def in_script(answer: str, zero: str) -> str:
    """The answer in the decimal digits of another script; int() reads all of them."""
    return "".join(chr(ord(zero) + int(digit)) for digit in answer)


def disguises(answer: str) -> list[str]:
    """Strings that look like the answer, or that a lenient parser takes for it, and are not."""
    return [
        *(in_script(answer, zero) for zero in ZERO_BY_SCRIPT.values()),
        answer.translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")),
        *(space + answer for space in SPACES),
        *(answer + space for space in SPACES),
        *(sign + answer for sign in "+-0="),
        *(answer + tail for tail in (".", ".0", "e0", "_", "L", "<eos>", "\ud800", "\u0301", answer)),
        "00000" + answer,
        "_".join(answer) if len(answer) > 1 else f"{answer}_0",
        f'"{answer}"',
        hex(int(answer[:4000])),
    ]


def off_by_one(answer: str, rng: random.Random) -> str:
    """The answer as a number, one more or less, read in either direction."""
    direction = rng.choice((1, -1))
    head = answer[:4000]  # Python writes no longer integers
    return str(abs(int(head[::direction]) + rng.choice((1, -1))))[::direction] + answer[4000:]


def near_miss(answer: str, rng: random.Random) -> str:
    """The answer after one small change; now and then the change leaves it as it was."""
    position = rng.randrange(len(answer))
    before, here, after = answer[:position], answer[position], answer[position + 1 :]
    changes = (
        lambda: before + rng.choice("0123456789") + here + after,
        lambda: before + after,
        lambda: before + rng.choice("0123456789") + after,
        lambda: before + after[:1] + here + after[1:],
        lambda: answer[::-1],
        lambda: off_by_one(answer, rng),
        lambda: before + str((int(here) + rng.choice((1, -1))) % 10) + after,  # a carry forgotten or made up
        lambda: before + chr(rng.randrange(0x110000)) + after,
        lambda: before + in_script(here, rng.choice(list(ZERO_BY_SCRIPT.values()))) + after,
        lambda: rng.choice(disguises(answer)),
    )
    return rng.choice(changes)()


def random_completion(answer: str, rng: random.Random) -> str:
    """A completion to try: the answer, something like it, or rubbish."""
    kind = rng.random()
    if kind < 0.15:
        return answer
    if kind < 0.75:
        return near_miss(answer, rng)
    if kind < 0.80:
        return rng.choice(NASTY)
    alphabet = rng.choice((0x3A, 0x80, 0x3000, 0x110000))
    return "".join(chr(rng.randrange(alphabet)) for _ in range(rng.randrange(2 * len(answer) + 2)))


def random_scratchpad(problem: Problem, rng: random.Random) -> str:
    """The worked lines, some of them changed, left out or doubled, and then something like the answer."""
    lines = list(problem.lines)
    for _ in range(rng.randrange(3)):
        place = rng.randrange(len(lines) + 1)
        change = rng.choice((lambda line: [], lambda line: [line, line], lambda line: [line.replace("=", "==")]))
        lines[place : place + 1] = change(lines[place]) if place < len(lines) else [rng.choice((";", "1;", "\0;", ";;"))]
    return "".join(lines) + random_completion(problem.answer, rng)


def scratchpad_complaint(problem: Problem, completion: str, ended: bool, verdict: Verdict) -> str | None:
    """What is wrong with a verdict on a scratchpad, or None."""
    right = ended and completion.rsplit(";", maxsplit=1)[-1] == problem.answer
    segments = re.findall("[^;]*;|[^;]+$", completion)
    judged = [step.correct for step in verdict.steps[:-1]]
    expected = [
        (index < len(problem.lines) and segment == problem.lines[index]) or (segment[-1:] != ";" and segment == problem.answer)
        for index, segment in enumerate(segments)
    ]
    checks = {
        "false pass": verdict.passed and not right,
        "false fail": right and not verdict.passed,
        f"reason {verdict.reason!r}": verdict.reason not in SCRATCHPAD_REASONS or (verdict.reason == "correct") is not right,
        "inconsistent steps": len(segments) <= MAX_LINES and judged != expected,
        "steps with gaps": any(a.end != b.start for a, b in itertools.pairwise(verdict.steps)),
        "no end": not verdict.steps
        or verdict.steps[-1].start != len(completion)
        or verdict.steps[-1].correct is not (ended and bool(completion)),
    }
    return next((name for name, broken in checks.items() if broken), None)


def complaint(answer: str, completion: str, ended: bool, verdict: Verdict) -> str | None:
    """What is wrong with a verdict, or None."""
    right = ended and completion == answer
    looked_at = min(len(completion), len(answer))
    expected_steps = [(k, k + 1, completion[k] == answer[k]) for k in range(looked_at)]
    expected_steps.append((looked_at, looked_at, ended and len(completion) == len(answer)))
    before_first_error = next((k for k, step in enumerate(expected_steps) if not step[2]), len(expected_steps))
    checks = {
        "false pass": verdict.passed and not right,
        "false fail": right and not verdict.passed,
        "passed is no bool": verdict.passed is not True and verdict.passed is not False,
        f"reason {verdict.reason!r}": verdict.reason not in REASONS or (verdict.reason == "correct") is not right,
        "inconsistent steps": [(step.start, step.end, step.correct) for step in verdict.steps] != expected_steps,
        "passed without all steps": verdict.passed is not all(step.correct for step in verdict.steps),
        "miscounted steps": verdict.num_correct_before_first_error != before_first_error,
    }
    return next((name for name, broken in checks.items() if broken), None)


Verify = Callable[[ArithmeticTask, Problem, str, bool], Verdict]


def fuzz(num: int, seed: int, verify: Verify = ArithmeticTask.verify, progress: bool = False) -> tuple[Counter, float]:
    """Verify `num` random completions: how often each reason came up, and the slowest verdict in CPU seconds.

    Raises:
        Violation: for an exception, a wrong or inconsistent verdict, or one that is slow four times in a row.
    """
    rng = random.Random(seed)
    combinations = [kind for kind in itertools.product(OPERATOR_BY_TASK, SIGN_BY_FORMAT, DIFFICULTIES) if kind[:2] != NO_TASK]
    tasks = [load_task(name, answer_format, difficulty=difficulty) for name, answer_format, difficulty in combinations]
    reasons: Counter = Counter()
    slowest = 0.0
    for _ in tqdm(range(num), unit="completion", disable=not progress):
        task = rng.choice(tasks)
        problem = task.problem(rng.randrange(10**task.difficulty), rng.randrange(10**task.difficulty))
        completion = random_scratchpad(problem, rng) if problem.lines else random_completion(problem.answer, rng)
        ended = rng.random() < 0.8
        where = f"{completion[:60]!r} ({len(completion)} characters, ended={ended}) for {problem.problem_id[:60]}"
        for _attempt in range(4):  # the clock is coarse and the machine may be busy
            start = time.process_time()
            try:
                verdict = verify(task, problem, completion, ended)
            except Exception as error:
                raise Violation(f"{type(error).__name__}: {where}") from error
            seconds = time.process_time() - start
            if seconds <= SLOWEST_ALLOWED_SECONDS:
                break
        else:
            raise Violation(f"{seconds * 1000:.0f} ms of CPU time: {where}")
        if problem.lines:
            wrong = scratchpad_complaint(problem, completion, ended, verdict)
        else:
            wrong = complaint(problem.answer, completion, ended, verdict)
        if wrong:
            raise Violation(f"{wrong}: {where}")
        reasons[verdict.reason] += 1
        slowest = max(slowest, seconds)
    return reasons, slowest


def main() -> None:
    """Command line of the fuzz."""
    parser = argparse.ArgumentParser(description="Fuzz the verifiers; exit 1 on a violation.")
    parser.add_argument("--num", type=int, default=100_000, help="completions in all, shared by the verifiers in this process")
    parser.add_argument("--seed", type=int, default=0, help="seed of the completions")
    parser.add_argument("--seconds", type=float, default=60, help="time per verifier whose judge is a process")
    parser.add_argument("--verifiers", nargs="+", choices=["arithmetic", *VERIFIERS], default=["arithmetic", "exact", "numeric"])
    args = parser.parse_args()
    num = args.num // len(args.verifiers)
    for verifier in args.verifiers:
        try:
            if verifier == "arithmetic":
                reasons, slowest = fuzz(num, args.seed, progress=True)
            elif verifier in ("exact", "numeric"):
                reasons, slowest = fuzz_data(verifier, num, args.seed, progress=True)
            else:
                reasons, slowest = fuzz_judge(verifier, args.seconds, args.seed, progress=True)
        except Violation as violation:
            sys.exit(f"violation: {violation}")
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        told = f"{verifier}: {sum(reasons.values())} completions, seed {args.seed}, no violation: {counts}"
        print(f"{told}; slowest {slowest * 1000:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
