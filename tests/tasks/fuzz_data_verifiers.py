"""Try to make the verifiers of data (`VERIFIERS`) raise, dawdle, pass a wrong completion or fail a right one; `fuzz_verifier.py`
runs this. Values and notations are made here, so what is right is known without asking the code.
"""

import itertools
import random
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

from tqdm import tqdm

from bitsample_llm.tasks import Problem, Verdict
from bitsample_llm.tasks.dataset_rows import gym_problems
from bitsample_llm.tasks.dataset_task import DatasetTask
from bitsample_llm.tasks.judge import PATIENCE, SECONDS, START_SECONDS

SLOWEST_ALLOWED_SECONDS = 0.05
MINUS = ("-", "\u2212", "\u2013", "\uff0d")
PROSE = (
    "{}",
    "that makes {}.",
    "The answer is: {}",
    "x = {}",
    "**{}**",
    "({})",
    "{} apples",
    "First 7, then {}!",
    "${}$",
    "7\n{}\n",
    "it is\t{},",
)
MARKED = (
    "#### {}",
    "6 of 9\n#### {}",
    "\\boxed{{{}}}",
    "7, so $\\boxed{{{}}}$ of 9",
    "\\boxed{{x = {}}}",
    "\\boxed{{ {} \\text{{ cm}}}}",
)
# What holds the digits of a whole number from 2 on, and is another number or none.
NEVER = (
    "10-{}", "{}-10", "12:{}", "1.2.{}", "2024-01-{}", "0x{}", "{}x", "{}\\pi", "\\sqrt{{{}}}", "\\boxed{{\\sqrt{{{}}}}}", "x^{}", "x^{{{}}}", "{}^{{2}}",
    "e{}", "x_{}", "(1, {})", "\\boxed{{{}, 1}}", "\\boxed{{{} + 1}}", "7 or {}", "7, {}", "{} million", "1/{}", "\\frac{{1}}{{{}}}", "\\frac{{{}}}{{7}}",
    "10^{{{}}}", "1e{}", "-{}", "\u2212{}", "minus {}", "{}.5", "{},5", "0.{}", "{}e5", "7{}", "{}7", "> {}", "|{}|", "f({})", "{} 1/2", "{}\u00b2", "{}\u00bd",
    "#### 1 to {}", "{}/0", "\u00b1{}", "{}k", "{}:1", "2 * {}",
)  # fmt: skip
PIECES = (
    "\\boxed{", "}", "{", "####", "#### ", "$", "\\frac{", "}{", "\\text{", "\\,", "{,}", "1,000", "1", "0", "7", ".", ",", " ", "\n", "-", "+", "/", "%",
    "^", "10^{", "e", "x", "=", "(", ")", "[", "]", "|", "*", "**", "_", "`", "or", "km", "\u2212", "\u00bd", "\u00b2", "\uff14", "\u0664", "\u202f", "\ud800",
    "\0", "\\", "\\sqrt", "million", "minus ", ":", ";", "<<", ">>", "<a>", "\u200e", "&", "~", "!", "...",
)  # fmt: skip


class Violation(Exception):
    """A completion that broke a verifier; the message names it."""


def number(rng: random.Random) -> Fraction:
    """A number as answers have them: whole, decimal or a fraction."""
    size = 10 ** rng.choice((1, 2, 3, 6, 9))
    bottom = rng.choice((1, 1, 1, 10, 100, 10_000, rng.randrange(1, 100)))
    return Fraction(rng.randrange(-size, size), bottom)


def decimals(value: Fraction, rng: random.Random) -> list[str]:
    """Ways to write the size of a number that has at most four decimals."""
    places = next(places for places in range(5) if (value * 10**places).denominator == 1)
    places += rng.choice((0, 0, 1, 2))
    whole, part = divmod(int(abs(value) * 10**places), 10**places)
    tail = f".{part:0{places}d}" if places else ""
    plain, grouped = f"{whole}{tail}", f"{whole:,}{tail}"
    wide = plain.translate({ord(digit): chr(0xFF10 + int(digit)) for digit in "0123456789"})
    exponent = rng.randrange(-6, 7)
    shifted = abs(value) / Fraction(10) ** exponent
    digits = 12
    mantissa = int(shifted * 10**digits)
    ways = [plain, grouped, grouped.replace(",", "{,}"), grouped.replace(",", "\\,"), grouped.replace(",", "\u202f"), wide]
    if shifted * 10**digits == mantissa:
        scaled = f"{mantissa // 10**digits}.{mantissa % 10**digits:0{digits}d}".rstrip("0").rstrip(".")
        ways += [f"{scaled}e{exponent}", f"{scaled} \\times 10^{{{exponent}}}", f"{scaled}*10^{exponent}"]
    return ways


def written(value: Fraction, rng: random.Random) -> str:
    """A number in one of the notations of school."""
    size, sign = abs(value), rng.choice(MINUS) if value < 0 else rng.choice(("", "", "+"))
    ways = decimals(value, rng) if 10_000 % value.denominator == 0 else []
    times = rng.choice((1, 1, 2, 5))
    top, bottom = size.numerator * times, size.denominator * times
    ways += [f"{top}/{bottom}", f"{top} / {bottom}", f"\\frac{{{top}}}{{{bottom}}}", f"\\dfrac{{{top}}}{{{bottom}}}"]
    if size > 1 and bottom > 1:
        whole, rest = divmod(top, bottom)
        ways += [f"{whole} {rest}/{bottom}", f"{whole}\\frac{{{rest}}}{{{bottom}}}"] * bool(rest)
    return sign + rng.choice(ways)


def readings(text: str) -> Iterator[Fraction]:
    """All sizes that the groups of digits of a text could be read as, whatever stands between them: by a reader that knows
    nothing but digits. The likely ones come first.
    """
    text = "".join(
        f" {unicodedata.normalize('NFKC', character)} " if character in "\u00bd\u00bc\u00be" else character for character in text
    )
    text = re.sub(r"(?<=\d)(?:,|\{,\}|\\,|\\?[^\S\n]|[~*_`])+(?=\d{3})", "", text.replace("\\!", "")) + "|" + text
    text = "".join(
        str(unicodedata.digit(character)) if unicodedata.digit(character, None) is not None else character for character in text
    )
    groups = [int(group[:4000]) for group in re.findall(r"\d+", text)]
    bases = [*map(Fraction, groups), *map(Fraction, re.findall(r"\d*\.\d+", text))]
    yield from bases
    for base, other in itertools.product(bases[-12:], groups[-12:]):
        if other:
            yield base / other
        if other < 1000:
            yield from (part * Fraction(10) ** power for part in (base, Fraction(1)) for power in (other, -other))
    for whole, top, bottom in itertools.product(groups[-8:], repeat=3):
        if bottom:
            yield whole + Fraction(top, bottom)


def could_be_read(text: str, value: Fraction) -> bool:
    """Whether a text can say a number, be it in dozens, millions or per cent."""
    sizes = {abs(value) / scale for scale in (1, 100, 12, 10**3, 10**6, 10**9, 10**12)} | {abs(value) * 100}
    return any(reading in sizes for reading in readings(text))


def splice(rng: random.Random, base: str) -> str:
    """A text with some pieces put in, cut out or doubled."""
    for _ in range(rng.randrange(1, 5)):
        place = rng.randrange(len(base) + 1)
        change = rng.randrange(4)
        if change == 0:
            base = base[:place] + base[place + rng.randrange(1, 4) :]
        elif change == 1:
            base = base[:place] + chr(rng.randrange(0x110000)) + base[place:]
        else:
            base = base[:place] + rng.choice(PIECES) + base[place:]
    return base


def numeric_case(rng: random.Random) -> tuple[str, str, Fraction, bool | None]:
    """What a completion is tried for, the completion, the right number, and whether it is to pass (None: whoever reads it)."""
    value, kind = number(rng), rng.random()
    around, prose = rng.choice(PROSE + MARKED), rng.choice(PROSE)
    if kind < 0.25:
        case = "right", around.format(written(value, rng)), value, True
    elif kind < 0.45:
        other = rng.choice(
            (value + 1, value - 1, -value, value * 10, value / 10, value + Fraction(1, 10), 1 / value if value else 1)
        )
        case = "wrong", around.format(written(other, rng)), value, other == value
    elif kind < 0.55:
        other = value + rng.choice((1, -1, 7, Fraction(1, 2), 1000))
        tail = rng.choice((" {}", "\n{}", ". No: {}", ", then {}", "\n#### {}", " \\boxed{{{}}}", "; {}", " or {}"))
        case = "followed by another", prose.format(written(value, rng)) + tail.format(written(other, rng)), value, False
    elif kind < 0.70:
        value = Fraction(rng.randrange(2, 60))
        case = "no such number", rng.choice(PROSE[:4]).format(rng.choice(NEVER).format(value)), value, False
    elif kind < 0.93:
        case = "changed", splice(rng, around.format(written(value, rng))), value, None
    elif kind < 0.97:
        case = "pieces", "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 30))), value, None
    else:
        piece = rng.choice(PIECES) * rng.choice((1, 10, 4096, 10**5))
        case = "long", rng.choice(("", "7")) + piece + rng.choice(("", "7", "}", rng.choice(PIECES))), value, None
    return case


def exact_case(rng: random.Random) -> tuple[str, str, str, bool | None]:
    """As `numeric_case`, with the right text."""
    alphabet = rng.choice((0x3A, 0x80, 0x3000, 0x110000))
    answer = "".join(chr(rng.randrange(0x21, alphabet)) for _ in range(rng.choice((1, 2, 3, 5, 8, 40, rng.randrange(1, 300)))))
    kind = rng.random()
    if kind < 0.3:
        return "right", answer, answer, True
    spaced = rng.choice((" ", "\n", "\t", "\0", "\u200b", ".", "\ufffd"))
    lookalike = rng.choice(
        (answer + spaced, spaced + answer, answer * 2, answer[:-1], answer.upper(), unicodedata.normalize("NFKC", answer))
    )
    completion = lookalike if kind < 0.6 else splice(rng, answer)
    return "changed", completion, answer, completion == answer


def judged(task: DatasetTask, problem: Problem, completion: str, ended: bool, where: str) -> tuple[Verdict, float]:
    """The verdict and its CPU seconds.

    Raises:
        Violation: if it raises, or is slow four times in a row.
    """
    for _attempt in range(4):
        start = time.process_time()
        try:
            verdict = task.verify(problem, completion, ended)
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {where}") from error
        seconds = time.process_time() - start
        if seconds <= SLOWEST_ALLOWED_SECONDS:
            return verdict, seconds
        task = DatasetTask("again", [problem])  # which remembers nothing
    raise Violation(f"{seconds * 1000:.0f} ms of CPU time: {where}")


def fuzz_data(verifier: str, num: int, seed: int, progress: bool = False) -> tuple[Counter, float]:
    """As `fuzz_verifier.fuzz`, for `exact` or `numeric`.

    Raises:
        Violation: for an exception, a wrong, slow or inconsistent verdict, or one that depends on what was asked before.
    """
    rng = random.Random(f"{verifier} {seed}")
    problems = {}
    veteran = DatasetTask("veteran", [])
    reasons: Counter = Counter()
    slowest = 0.0
    for count in tqdm(range(num), unit=f" {verifier}", disable=not progress):
        kind, completion, right, wanted = (numeric_case if verifier == "numeric" else exact_case)(rng)
        answer = str(right)
        problem = problems.setdefault(answer, Problem(f"fuzz/{answer}", "What is it?", answer, 0, verifier=verifier))
        if len(problems) > 1000:
            problems.clear()
        ended = rng.random() < 0.9
        where = f"{verifier}, {kind}: {completion[:80]!r} ({len(completion)} characters, ended={ended}) for {answer[:60]!r}"
        verdict, seconds = judged(DatasetTask("new", [problem]), problem, completion, ended, where)
        if count % 8 == 0 and veteran.verify(problem, completion, ended) != verdict:
            raise Violation(f"depends on what was asked before: {where}")
        is_read_so = verifier != "numeric" or not verdict.passed or wanted is not None or could_be_read(completion, right)
        checks = {
            "false pass": verdict.passed and (not ended or wanted is False),
            "false fail": wanted and ended and not verdict.passed,
            "passes for a number that is not there": not is_read_so,
            f"reason {verdict.reason!r}": (verdict.reason == "correct") is not verdict.passed
            or not re.fullmatch(r"[a-z_:]+", verdict.reason),
            "passed is no bool": verdict.passed is not True and verdict.passed is not False,
            "passed without all steps": verdict.passed is not all(step.correct for step in verdict.steps),
            "no end": verdict.steps[-1].start != verdict.steps[-1].end or (verdict.steps[-1].correct and not ended),
        }
        if wrong := next((name for name, broken in checks.items() if broken), None):
            raise Violation(f"{wrong}: {where}")
        reasons[verdict.reason] += 1
        slowest = max(slowest, seconds)
    return reasons, slowest


def symbolic_problems(rng: random.Random) -> tuple[DatasetTask, list[Problem]]:
    """Problems whose answers are numbers."""
    rows = [Problem(f"fuzz/{n}", "What is it?", str(number(rng)), 0, verifier="symbolic") for n in range(200)]
    return DatasetTask("symbolic", rows), rows


def gym_rows(rng: random.Random) -> tuple[DatasetTask, list[Problem]]:
    """Problems of tasks of reasoning-gym that score by themselves."""
    rows, details = [], {}
    for task in (
        "chain_sum",
        "decimal_chain_sum",
        "gcd",
        "simple_equations",
        "complex_arithmetic",
        "leg_counting",
        "spell_backward",
    ):
        found, facts = gym_problems(task, rng.randrange(1000), 30, faults=None)
        rows += [problem for problem in found if problem.verifier == "reasoning_gym"]
        details |= facts
    return DatasetTask("gym", rows, details), rows


def fuzz_judge(verifier: str, max_seconds: float, seed: int, progress: bool = False) -> tuple[Counter, float]:
    """As `fuzz_data`, for a verifier whose judge is a process: as many completions as fit in the time.

    Raises:
        Violation: for an exception, a false fail of the answer itself, a verdict that takes longer than its limit and a restart, or
            one that depends on what was asked before.
    """
    rng = random.Random(f"{verifier} {seed}")
    task, problems = (symbolic_problems if verifier == "symbolic" else gym_rows)(rng)
    reasons: Counter = Counter()
    slowest, started = 0.0, time.monotonic()
    with tqdm(unit=f" {verifier}", disable=not progress) as bar:
        while time.monotonic() - started < max_seconds:
            problem, kind = rng.choice(problems), rng.random()
            is_right = kind < 0.2
            completion = problem.answer if is_right else splice(rng, problem.answer)
            if kind > 0.5:
                completion = rng.choice(MARKED).format(splice(rng, problem.answer)) if kind < 0.9 else numeric_case(rng)[1]
            where = f"{verifier}: {completion[:80]!r} ({len(completion)} characters) for {problem.answer[:60]!r} of {problem.problem_id}"
            start = time.monotonic()
            try:
                verdict = task.verify(problem, completion, True)
            except Exception as error:
                raise Violation(f"{type(error).__name__}: {where}") from error
            seconds = time.monotonic() - start
            if seconds > PATIENCE * SECONDS + START_SECONDS:
                raise Violation(f"{seconds:.1f} s: {where}")
            if is_right and not verdict.passed and not verdict.reason.startswith("no_verdict:"):
                raise Violation(f"false fail: {where}")
            if rng.random() < 0.05:
                task._remembered.clear()
                if task.verify(problem, completion, True) != verdict and "timed_out" not in verdict.reason:
                    raise Violation(f"depends on what was asked before: {where}")
            reasons[verdict.reason] += 1
            slowest = max(slowest, seconds)
            bar.update()
    return reasons, slowest
