r"""What a grader of school maths does with an answer, and that the verifier `numeric` does the same.

The table was written from the grader's side: who sees the right answer and what a pupil wrote, not the question. A pupil passes
who commits to one number that is the right one, in whatever notation. Who leaves something to work out, hedges, or writes what is no
number (a range, a date, an expression in x) has not given the answer, even where the right digits stand in it.
"""

import contextlib
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsample_llm.tasks import Problem
from bitsample_llm.tasks.dataset_task import DatasetTask
from bitsample_llm.tasks.judge import NoVerdict
from bitsample_llm.tasks.plain_number import MAX_JUDGED, plain_number

# why -> right answer -> what passes, and what does not
CASES = {
    "a number by itself": {
        "42": (["42", " 42 ", "42.", "+42", "42.0", "42.00", "042", "42\n"], ["43", "24", "4.2", "420", "-42", ""]),
        "-42": (["-42", "-42.0", "−42", "–42", "x = - 42"], ["42", "+42", "--42"]),
        "0": (["0", "-0", "0.00", "zero is 0"], ["none", "O", "1"]),
        "3.5": (["3.5", "3.50", "7/2", "3 1/2", "3½"], ["3,5", "35", "3.5.1", "3"]),
        ".5": (["0.5", ".5", "1/2", "½"], ["5", "0,5"]),
        "1234567": (["1234567", "1,234,567", "1 234 567", "1\u202f234\u202f567"], ["1.234.567", "1,2,3,4,5,6,7", "1,234,56"]),
    },
    "the last number of plain prose": {
        "42": (
            [
                "so that makes 42.",
                "The answer is 42",
                "The answer is: 42!",
                "6 * 7 = 42",
                "6*7=42",
                "First 5, then 42 in all.",
                "There are 42 apples, as was asked.",
                "**42**",
                "The answer is **42**.",
                "**Answer: 42**",
                "Answer:42",
                "It is 42 (forty-two).",
                "It is (42).",
                '"42"',
                "41\n42",
                "1. 42",
                "Step 3: 42",
                "6 × 7 = <<6*7=42>>42 apples",
                "<answer>42</answer>",
                '{"answer": 42}',
                "x=42",
                "x = 42, which is what we wanted",
                "* 42",
                "42 – that is all",
                "There were 40 and then two more, so 42",
                "20% more than 35 is 42",
            ],
            [
                "It is 43, not what you think",
                "42, no: 43",
                "The answer is not known",
                "forty-one",
                "It is 42\nIt is 43",
                "the 4th of 2",
            ],
        )
    },
    "the marked place counts, and holds one number": {
        "42": (
            [
                "#### 42",
                "7 times 6\n#### 42",
                "####42",
                "#### $42",
                "#### 42 apples",
                "#### 42\n\n",
                "\\boxed{42}",
                "so \\boxed{42}, since 6 * 7 is more than 40",
                "$\\boxed{42}$",
                "\\boxed{ 42 }",
                "\\boxed{x = 42}",
                "\\boxed{6 \\cdot 7 = 42}",
                "\\boxed{42\\text{ apples}}",
                "\\boxed{\\text{42}}",
                "\\boxed{41} was wrong: \\boxed{42}",
                "\\boxed{\\boxed{42}}",
                "#### \\boxed{42}",
                "#### Why\nbecause \\boxed{42}",
                "#### Final answer\n42",
                "#### Step 2\n6 * 7 = 42",
                "\\boxed{\\mathbf{42}}",
            ],
            [
                "42 #### 43",
                "42, so \\boxed{43}",
                "\\boxed{}",
                "\\boxed{x} and 42",
                "\\boxed{41, 42}",
                "\\boxed{41 \\text{ or } 42}",
                "\\boxed{(1, 42)}",
                "\\boxed{x = 41, y = 42}",
                "\\boxed{x + 42}",
                "\\boxed{40 + 2}",
                "\\boxed{42x}",
                "\\boxed{42!}",
                "\\boxed{> 42}",
                "\\boxed{x \\ge 42}",
                "#### 10 or 42",
                "\\boxed{2 = 42x}",
                "\\boxed{42 + y}",
                "\\boxed{\\{42\\}}",
                "\\boxed{4\n2}",
            ],
        ),
        "-42": (["#### -42", "#### - 42", "\\boxed{-42}", "\\boxed{- 42}", "\\boxed{−42}"], ["#### 42", "\\boxed{42}"]),
    },
    "a minus is a sign only where it can be one": {
        "42": (
            ["twenty-one doubled: 42", "a well-known 42"],
            ["10-42", "10 - 42", "10–42", "pages 10-42", "- 42", "10 −42", "x - 42", "minus 42"],
        ),
        "-42": (
            ["minus 42", "negative 42", "It is -42.", "(-42)", "= -42", "x = −42"],
            ["10-42", "10 - 42", "10 -42", "10 minus 42"],
        ),
        "-32": (["10 - 42 = -32"], []),
    },
    "fractions and mixed numbers are read, and only whole": {
        "1/2": (
            [
                "1/2",
                "1 / 2",
                "\\frac{1}{2}",
                "\\boxed{\\frac{1}{2}}",
                "\\dfrac{1}{2}",
                "\\frac12",
                "2/4",
                "0.5",
                "\\boxed{\\tfrac{1}{2}}",
                "1⁄2",
                "$\\frac{1}{2}$",
                "3/6 of it",
            ],
            [
                "2",
                "1",
                "1/3",
                "\\frac{1}{2}x",
                "\\frac{1}{2}7",
                "2 cups in 3 days",
                "1/0",
                "\\frac{x}{2}",
                "-1/2",
                "\\frac{1}{2} + 1",
                "half of 1",
            ],
        ),
        "2": (
            ["4/2", "\\frac{4}{2}"],
            ["\\boxed{\\frac{1}{2}}", "1/2", "1 / 2", "\\frac{x}{2}", "\\frac{\\pi}{2}", "x/2", "2/x", "1 1/2"],
        ),
        "5/2": (
            ["2 1/2", "2\\frac{1}{2}", "\\boxed{2 \\frac{1}{2}}", "2½", "2.5", "2.5 hours"],
            ["21/2", "2 and 1/2 of 1", "2 1/3"],
        ),
        "-3/4": (["-3/4", "-\\frac{3}{4}", "−¾", "-0.75", "\\boxed{-\\frac{3}{4}}"], ["3/4", "3/-4 x"]),
    },
    "thousands have separators": {
        "1000": (
            [
                "1000",
                "1,000",
                "1{,}000",
                "\\boxed{1{,}000}",
                "1\\,000",
                "1 000",
                "1,\\!000",
                "$1,000",
                "1,000.00",
                "１０００",
                "$1{,}000$",
            ],
            ["\\boxed{1\n000}", "0", "1", "000", "1.000,0", "1,00", "1,0000", "0,1000", "1'00'0"],
        ),
        "0": (["0,"], ["\\boxed{1{,}000}", "1,000", "10,0"]),
        "1234.5": (["1,234.5", "1 234.5", "1234.50", "$1,234.50"], ["1.234,5", "1,234,5", "12345"]),
    },
    "powers of ten are numbers, other powers are work left undone": {
        "1000": (
            [
                "10^3",
                "10^{3}",
                "1e3",
                "1E3",
                "1 × 10^3",
                "1.0 x 10^3",
                "1 \\times 10^{3}",
                "10³",
                "\\boxed{10^{3}}",
                "1 \\cdot 10^3",
                "10**3",
            ],
            ["10 3", "10*3", "1e2"],
        ),
        "3": (["3"], ["10^{3}", "10^3", "10³", "x^3", "x³", "2^3", "log 3", "e^3"]),
        "100": (["1e2", "100"], ["1e100", "10e100", "1e1000", "1e-2"]),
        "0.0025": (["2.5e-3", "2.5 × 10^{-3}", "2.5*10^-3", "2.5 × 10⁻³", "1/400"], ["2.5e3", "2.5 x 10^3"]),
        "2": (
            ["+2"],
            ["\\sqrt{2}", "\\sqrt2", "√2", "x^2", "x_2", "x²", "sqrt(2)", "sin 2", "f(2)", "log_2", "2^{2}", "3^2", "x_{2}"],
        ),
        "16": (["16"], ["2^4", "4²", "4^2", "2^{4}"]),
        "10": (["10"], ["0x10", "0b10", "1_0", "x10", "0o10", "2^10"]),
    },
    "units, currencies and words stand around a number": {
        "42": (
            [
                "$42",
                "$42.00",
                "\\$42",
                "€42",
                "42 €",
                "£42",
                "USD 42",
                "US$42",
                "42 dollars",
                "42 km",
                "42km",
                "42 km/h",
                "42 m^2",
                "42 cm²",
                "42 cm^{2}",
                "42 cm^2.",
                "42cm2",
                "40 were sold in 42",
                "42 m2",
                "42°",
                "42 °C",
                "42^\\circ",
                "42 years old",
                "a 42-year-old",
                "42 \\text{ cm}",
                "42\\,\\text{cm}^2",
                "42 per hour",
                "$42/hour",
                "about 42",
                "≈ 42",
                "~42",
                "\\approx 42",
                "42 or so",
            ],
            [
                "42k",
                "42 million",
                "42 thousand",
                "42M",
                "42x",
                "42 x",
                "42π",
                "42\\pi",
                "42i",
                "42 + x",
                "42 hundredths",
                "42 squared",
                "H42O",
                "$42k",
            ],
        ),
        "4200000": (["4.2 million", "$4.2 million", "4,200,000", "4.2e6"], ["4.2", "4.2 billion", "4.2m"]),
        "24": (["2 dozen", "24"], ["2", "2 dozens of 12"]),
        "2.5": (["2.5"], ["2"]),
        "2": (["2 cups"], ["2 and a half", "2 halves", "2 thirds"]),
    },
    "a percent sign may be left out or worked out": {
        "50": (["50%", "50 %", "50\\%", "50 percent", "50 per cent", "\\boxed{50\\%}", "50.0%"], ["0.5%", "5%", "5000", "0.5"]),
        "50%": (["50%", "50", "0.5", "1/2", "50 percent"], ["0.5%", "5", "5000", "5000%"]),
        "0.5": (["50%", "0.5"], ["5%", "500%"]),
    },
    "what is no number, or more than one, is no answer": {
        "42": (
            [
                "84 / 2",
                "They sold 48/2 = <<48/2=24>>24 in May and 18 in June.\nThat is 24+18 = <<24+18=42>>42 clips altogether.\n#### 42",
                "Therefore she makes $42 every day at the farmers' market.",
                "The final answer is $\\boxed{42}$.<|im_end|>",
                "Total = 40 + 2 = 42 apples",
                "$$\nx = 42\n$$",
            ],
            [
                "12:42",
                "1.2.42",
                "v1.42.1",
                "2024-01-42",
                "01/02/42",
                "192.168.1.42",
                "555-0042",
                "1:42",
                "41, 42",
                "41,42",
                "41; 42",
                "41 or 42",
                "41 (or 42)",
                "x = -42 or x = 42",
                "It is not 42",
                "It isn't 42.",
                "less than 42",
                "at least 42",
                "2 hours and 42 minutes",
                "41 to 42",
                "between 41 and 42",
                "41 / 42 / 43",
                "(1, 42)",
                "[1, 42]",
                "{41, 42}",
                "3 out of 42",
                "±42",
                "\\pm 42",
                "|-42|",
                "< 42",
                "> 42",
                "≤ 42",
                "x < 42",
                "\\neq 42",
                "42\\sqrt{2}",
                "42(x+1)",
                "5 + 37",
                "6 * 7",
                "6 × 7",
                "42 + 0",
                "42.4.2",
                "4\u200e2",
                "a42",
                "42_000",
                "42 = 42x + 3",
                "\\overline{42}",
                "0.\\overline{42}",
                "42.42...",
                "4 2",
                "inf",
                "NaN",
                "9" * 1000,
                "42e9999999",
                "1e999999999",
                "__import__('os')",
            ],
        ),
        "30": (["30"], ["12:30", "12.30.30", "7/30/24", "7-30", "quarter to 12:30"]),
    },
    "digits of other scripts are digits": {
        "42": (["４２", "٤٢", "४२", "＋４２", "４２．０"], ["４３", "²42", "4²", "④②", "一"]),
        "-42": (["－４２", "－４２．０"], ["４２"]),
    },
}
TABLE = [
    (why, answer, completion, passed)
    for why, by_answer in CASES.items()
    for answer, sides in by_answer.items()
    for passed, side in zip((True, False), sides, strict=True)
    for completion in side
]


def verdict(completion: str, answer: str):
    problem = Problem("row/1", "What is it?", answer, 0, verifier="numeric")
    return DatasetTask("rows", [problem]).verify(problem, completion, True)


def test_the_table_has_two_hundred_cases_and_more():
    assert len(TABLE) > 200 and len({case[1:3] for case in TABLE}) == len(TABLE)
    assert min(sum(case[3] for case in TABLE), sum(not case[3] for case in TABLE)) > 100


@pytest.mark.parametrize(("why", "answer", "completion", "passed"), TABLE, ids=lambda part: str(part)[:24])
def test_the_verdict_is_a_graders(why, answer, completion, passed):
    found = verdict(completion, answer)
    assert found.passed == passed, why
    assert found.reason in (
        {"correct"} if passed else {"wrong_answer", "empty", "no_verdict:no_number", "no_verdict:not_one_number"}
    )


REASONS = {
    "43": "wrong_answer",
    "forty-two": "no_verdict:no_number",
    "\\boxed{}, 42": "no_verdict:no_number",
    "41 or 42": "no_verdict:not_one_number",
    "10-42": "no_verdict:not_one_number",
    "12:42": "no_verdict:not_one_number",
    " ": "empty",
}


@pytest.mark.parametrize("completion", REASONS)
def test_what_is_not_plainly_a_number_is_said_to_be_no_ground_for_a_verdict(completion):
    found = verdict(completion, "42")
    assert not found.passed and found.reason == REASONS[completion]


AROUND = ["{}", "that makes {}.", "#### {}", "\\boxed{{{}}}", "x = {}", "${}$", "**{}**", "({})", "{} apples", "First 7, then {}!"]


@given(st.fractions(max_denominator=10**6), st.sampled_from(AROUND))
def test_a_number_is_the_one_that_was_written(number, around):
    assert plain_number(around.format(number)).value == number


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**12), max_value=10**12), st.sampled_from(AROUND))
def test_a_decimal_is_the_one_that_was_written_with_and_without_separators(number, around):
    for written in (str(number), f"{number:,}", f"{number:f}".replace("-", "−")):
        if "E" not in written:
            assert plain_number(around.format(written)).value == Fraction(str(number))


@given(st.text(), st.text(alphabet="0123456789.,-+/%$ \\{}^()=x*e:\n", max_size=40))
def test_any_text_gets_a_verdict(text, symbols):
    for completion in (text, symbols, text + symbols, "\\boxed{" + symbols + "}"):
        found = verdict(completion, "7")
        try:
            reason = "correct" if plain_number(completion).value in (7, 700) else "wrong_answer"
        except NoVerdict as why:
            reason = f"no_verdict:{why}"
        assert found.passed == (found.reason == "correct")
        assert found.reason in (reason, "empty", "wrong_answer" if "%" in completion else reason)


PIECES = [
    "1", "1,", "1,000", "1 ", "1 000 ", "1/", "1 / ", "a", " ", "\n", "{", "}", "\\boxed{", "#### ", "####", "#", "$", "\\$", "*", "**a", "_", "`",
    "\\frac{1}", "\\frac", "\\text{", "\\text{a", "<a", "<<1", "10^{", "10^", "10 ", "1e", "-", "- ", "minus ", "= -", "(", "(1", "[", "=", "cm", "cm^", "1 x ",
    "1 or ", "²", "½", "４", "٤", "\u2003", "\ud800", "%", " %", "per ", ".", "..", "1.", ":", "1:", "|", ";1", "&", "1&", "~", "\\!", "\\,", "a1", "°",
]  # fmt: skip


@pytest.mark.parametrize("length", [MAX_JUDGED, 10**6])
def test_nothing_repeated_takes_long(length):
    for piece in PIECES:
        for end in ("", "42", "\\boxed{42", "}"):
            text = piece * (length // len(piece)) + end
            for _attempt in range(4):  # the machine may be busy
                started = time.process_time()
                with contextlib.suppress(NoVerdict):
                    plain_number(text)
                if (seconds := time.process_time() - started) < 0.1:
                    break
            assert seconds < 0.1, (piece, end)


def test_a_number_that_is_cut_off_is_not_read():
    tail = " apples" * 1000
    for length in range(MAX_JUDGED - 10, MAX_JUDGED):
        with pytest.raises(NoVerdict, match="not_one_number"):
            plain_number("1" * 9 + "42" + tail[:length])
    assert plain_number("x" * 10**6 + " so 42").value == 42
    assert plain_number("x" * 10**6 + "\n42").value == 42
    assert plain_number("\\boxed{42}" + tail).value == 42
