r"""Which number does a text give as its answer? The last one, if it is plainly one number: one that a grader reads without asking.

    place     what the last `\boxed{}` or `####` marks, else the last line with a digit, and its last number
    plain     42, −42, 1,234.50, 3/4, 2 1/2, 2.5e3, 10^{3}, \frac{1}{2}, 50%, 4.2 million, $42, 42 km/h, x = 42
    not       10-42, 12:30, 1.2.3, 0x10, 2x, \sqrt{2}, 5 + 37, 41 or 42, (1, 2), 3,5: these are no ground for a verdict

Numbers are rational and exact. The words and units around them are not compared; a percent sign may be left out or worked out. A
marked place holds one number, or an equation that ends in one. All expressions take time in proportion to the text.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from bitsample_llm.tasks.judge import NoVerdict

MAX_JUDGED = 4096  # characters, from the end, where answers stand
MAX_SEARCHED = 2**16  # characters, for a mark
MAX_DIGITS = 64  # of a number, and three for its power of ten
DIGIT = re.compile("[0-9]")
MARK = re.compile(r"\\boxed ?\{|####(?!\s*[^\W\d_]{2})")  # four hashes before words are a heading

# Other notations of the same, rewritten in this order. What is taken away leaves two spaces: one may join thousands.
_POWER = r"10 ?(?:\^|\*\*) ?(?:\{ ?([-+]?\d{1,3}) ?\}|([-+]?\d{1,3}))(?![\w{^]|\.\d)"
REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"<<[^<>]*>>|</?[a-zA-Z|][^<>]{0,40}>", "  "),  # GSM8K's sums, tags
        (r"\\(?:left|right|displaystyle)(?![a-zA-Z])", " "),
        (r"\\!", ""),
        (r"\\(?:text|mathrm|mathbf|textbf|mbox) ?\{([^{}]*)\}", r"  \1  "),
        (r"\\[\\()\[\],;: ]|\\q?quad(?![a-zA-Z])|~", " "),
        (r"\{,\}", ","),
        (r"\\%| ?%| per ?cent\b", "%"),
        (r"\\(?:times|cdot)(?![a-zA-Z])|[×·⋅∙]", "*"),
        (r"\\(?:approx|simeq|Rightarrow|implies|to)(?![a-zA-Z])|[≈→⇒]|[-=]>", "="),
        (r"\^ ?(?:\\circ|\{ ?\\circ ?\})|°", " degrees "),
        (
            r"(?<![^\W\d_])(mm|cm|dm|km|m|in|ft|yd|mi|units?|inches|feet|met(?:er|re)s)(?: *\^ ?(?:\{ ?[23] ?\}|[23])|[23])(?!\w|\.\d)",
            r"\1",
        ),
        (r"(?<=\d) ?\\[dtc]?frac ?(?=[\d{])", r" \\frac"),  # a mixed number
        (r"\\[dtc]?frac ?(?:\{ ?(\d+) ?\}|(\d)) ?(?:\{ ?(\d+) ?\}|(\d))(?!\d|\.\d)", r"\1\2/\3\4"),
        (r"(?<![\w*])(\*{1,3}|_{1,2}|`)(?=[^\s*_`])([^*_`]*)\1(?![\w*]|[.,]\d)", r"\2"),  # emphasis
        (r"^ *[*•] +", ""),  # a bullet; "- 42" may be one or not
        (r"\\\$|[€£¥₹]", "$"),
        (r"\b(?:[Mm]inus|[Nn]egative) (?=\$?\.?\d)", "-"),
        (r"(?<=[-+])\$ ?(?=\.?\d)", ""),
        (r"\$", "  "),
        (r"([=:] *[-+]) (?=\.?\d)", r"\1"),
        (r"(?<=\d) ?/ ?(?=\d)", "/"),
        (r"(?<![\w.,])[1-9]\d{0,2}(?: \d{3})+(?!\w|[,/]\d)", lambda found: found[0].replace(" ", ",")),
        (r"(?<![\w./,])(\d+) (?=\d+/\d)", r"\1&"),  # a mixed number
        (rf"(?<=\d) ?[*xX] ?{_POWER}", r"e\1\2"),
        (rf"(?<![\w.,^*/&]){_POWER}", r"1e\1\2"),
    )
]
UNIT = r"(?:[^\W\d_]{2,}|[mgshlLAVWJNCF])"
NUMBER = re.compile(
    r"([-+]?)(?:(?:(\d+)&)?(\d+)/(\d+)|((?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE]([-+]?\d{1,3}))?)"
    rf"(%?)(?:-?({UNIT})(?:[-/]{UNIT})*|/{UNIT})?"
)
TOKEN = re.compile(r"""[^\s=()\[\]{}"'“”‘’«»`|;]+|\S""")
OPERATORS = "+-*/^_\\<>≤≥≠±√÷∓&@∈"
# Words after a number, or glued to it, that make another of it, and words before it that do.
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "bn": 10**9, "trillion": 10**12, "dozen": 12}
CHANGED_AFTER = re.compile(
    r"(?:[b-zB-Z](?<![mgshlLAVWJNCFI])|π|pi|sqrt|xy|ab|ln|log|sin|cos|tan|mod|squared|cubed|factorial|choose|plus|minus|half|halves|quarters?|"
    r"(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth)s|and (?:a|one|two|three) [a-z]*(?:half|third|quarter|th)s?)"
    r"(?![^\W\d_])"
)
CHANGED_BEFORE = re.compile(
    r"(?:\b(?:sqrt|root|log|ln|sin|cos|tan|not|(?:less|more|fewer|greater|other) than|at least|at most)|n['’]t|"
    r"\d\S*(?: ?[^\W\d]{1,20})?,?[ (]{1,2}(?:or|to|and|by|x|X|plus|minus|times|over|of|through|vs)(?: [a-zA-Z] *=)?) *$"
)
# What may stand before the last equals sign of a marked place: a sum, or the name of an unknown.
LEFT_SIDE = re.compile(r"(?:[\d\s.+\-*/^()%&=]|,(?=\d{3}))*|\s*\\?[a-zA-Z]{1,8}(?:_(?:\w|\{\w{1,8}\}))?(?:\(\w\))?\s*")
LOOKALIKES = dict.fromkeys("−–‐‑﹣－", "-") | {"⁄": "/", "∕": "/", "\u200b": "", "\ufeff": "", "\n": "\n"}


@dataclass(frozen=True)
class PlainNumber:
    """A number, and whether it is followed by a percent sign: 50 in 50%."""

    value: Fraction
    is_percent: bool = False

    def is_same(self, other: "PlainNumber") -> bool:
        """Whether a grader who sees both takes one for the other: 50% for 50, and for 1/2."""
        if self.is_percent == other.is_percent:
            return self.value == other.value
        percent, plain = (self, other) if self.is_percent else (other, self)
        return plain.value in (percent.value, percent.value / 100)


def marked_place(text: str) -> str | None:
    """What the last mark of a text marks as its answer; None without a mark.

    >>> marked_place("6 * 12 = 72\\n#### 72"), marked_place("so \\\\boxed{1/2} it is"), marked_place("72")
    (' 72', '1/2', None)
    """
    *_, mark = [None, *MARK.finditer(text, max(0, len(text) - MAX_SEARCHED))]
    if mark is None:
        return None
    inner = text[mark.end() : mark.end() + MAX_JUDGED]
    if mark[0] == "####":
        return next((line for line in inner.split("\n") if line.strip()), "")
    depth = 1
    for index, character in enumerate(inner):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return inner[:index]
    return None


def plain_number(text: str) -> PlainNumber:
    """The number that a text gives as its answer.

    >>> [str(plain_number(text).value) for text in ("that makes $1,234.50.", "#### -3/4", "so \\\\boxed{\\\\frac{1}{2}}, not 3")]
    ['2469/2', '-3/4', '1/2']

    Raises:
        NoVerdict: `no_number`, or `not_one_number` where what stands there is not plainly one.
    """
    marked = marked_place(text)
    place = _in_ascii(text[-MAX_JUDGED:] if marked is None else marked)
    if marked is None:
        lines = place.split("\n")
        line = next((number for number in reversed(range(len(lines))) if DIGIT.search(lines[number])), None)
        if line is None:
            raise NoVerdict("no_number")
        if line == 0 and len(text) > MAX_JUDGED and not DIGIT.search(lines[0][MAX_DIGITS * 2 :]):
            raise NoVerdict("not_one_number")  # its beginning may be cut off
        place = lines[line]
    else:
        place = re.sub(r"^ *([-+]) +", r"\1", place.replace("\n", "  "))
    for pattern, replacement in REWRITES:
        place = pattern.sub(replacement, place)
    tokens = list(TOKEN.finditer(place))
    numbered = [index for index, token in enumerate(tokens) if DIGIT.search(token[0])]
    if not numbered:
        raise NoVerdict("no_number")
    if marked is not None and not _is_alone(place, tokens, numbered):
        raise NoVerdict("not_one_number")
    number = _read(tokens[numbered[-1]][0], is_marked=marked is not None)
    scale = _scale(place, tokens, numbered[-1], is_marked=marked is not None) if number else None
    if scale is None:
        raise NoVerdict("not_one_number")
    return PlainNumber(number.value * scale, number.is_percent)


def _in_ascii(text: str) -> str:
    """The text with digits, signs, spaces and fractions of other scripts in ASCII; superscripts are powers."""
    if text.isascii():
        return text.replace("\t", " ")
    text = re.sub("[⁰¹²³⁴-⁹⁺⁻]+", lambda found: "^{" + unicodedata.normalize("NFKC", found[0]).replace("−", "-") + "}", text)
    text = re.sub("(?<=[0-9])(?=[¼-¾⅐-⅞])", " ", text)
    return "".join(character if character.isascii() else _ascii_of(character) for character in text)


def _ascii_of(character: str) -> str:
    if character in LOOKALIKES:
        return LOOKALIKES[character]
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Zs":
        return " "
    if "¼" <= character <= "¾" or "⅐" <= character <= "⅞":
        return unicodedata.normalize("NFKC", character).replace("⁄", "/")
    return chr(ord(character) - 0xFEE0) if "！" <= character <= "～" else character


def _is_alone(place: str, tokens: list[re.Match], numbered: list[int]) -> bool:
    """Whether a marked place holds its last number and nothing to work out."""
    last = numbered[-1]
    equals = [index for index, token in enumerate(tokens[:last]) if token[0] == "="]
    start = 0
    if equals and LEFT_SIDE.fullmatch(place, 0, tokens[equals[-1]].start()):
        start = equals[-1] + 1
    rest = [token[0] for token in tokens[start:]]
    is_sum = any(token[0] in OPERATORS or token[-1] in OPERATORS for index, token in enumerate(rest, start) if index != last)
    return not is_sum and all(index < start for index in numbered[:-1])


def _read(token: str, is_marked: bool) -> PlainNumber | None:
    """The number that a token is, without what may stand at its ends."""
    core = re.sub(r"^[a-zA-Z]*[:,#*]+(?=[-+.\d])", "", token)
    end = core[len(core.rstrip(".,:!?…*")) :]
    core = core.removesuffix(end)
    found = NUMBER.fullmatch(core)
    if found is None or sum(map(str.isdigit, core)) > MAX_DIGITS or (is_marked and "!" in end):
        return None
    sign, whole, numerator, denominator, decimal, exponent, percent, unit = found.groups()
    if ("." in core and ("…" in end or ".." in end)) or (unit and (unit in SCALES or CHANGED_AFTER.fullmatch(unit))):
        return None
    if denominator is not None and not int(denominator):
        return None
    if decimal is None:
        value = int(whole or 0) + Fraction(int(numerator), int(denominator))
    else:
        value = Fraction(decimal.replace(",", "")) * Fraction(10) ** int(exponent or 0)
    return PlainNumber(-value if sign == "-" else value, percent == "%")


def _scale(place: str, tokens: list[re.Match], index: int, is_marked: bool) -> int | None:
    """What the words after a number multiply it by; None if what stands around it makes something else of it."""
    token = tokens[index]
    before, glued, after = (
        place[max(0, token.start() - 60) : token.start()],
        place[token.end() :][:1],
        place[token.end() :][:60].lstrip(),
    )
    if CHANGED_BEFORE.search(before) or CHANGED_AFTER.match(after) or not _may_stand_before(tokens, index):
        return None
    is_dash = not is_marked and re.match(r"- [^\W\d_]{2}", after)
    if after and (glued in ("(", "[", "{") or (after[0] in OPERATORS and not is_dash)):
        return None
    return SCALES.get(re.match(r"[a-z]*", after)[0], 1)


def _may_stand_before(tokens: list[re.Match], index: int) -> bool:
    """Whether what stands before a number leaves it as it is, and it is no member of a pair or list in brackets."""
    if index == 0:
        return True
    left, is_glued = tokens[index - 1], tokens[index - 1].end() == tokens[index].start()
    if left[0] == "=":
        return True
    if left[0] in "()[]{}\"'“”‘’«»`|;":
        reaches_on = is_glued and index > 1 and tokens[index - 2].end() == left.start()
        if left[0] == "{" or (is_glued and left[0] == "|") or reaches_on:
            return False
        if left[0] == ";" and DIGIT.search(tokens[index - 2][0]):
            return False
    elif left[0][-1] in OPERATORS or "\\" in left[0] or (DIGIT.search(left[0]) and left[0][-1] not in ".:!?"):
        return False
    return not _is_in_list(tokens[:index])


def _is_in_list(before: list[re.Match]) -> bool:
    """Whether a bracket is open that holds another number."""
    depth, has_number = 0, False
    for token in reversed(before):
        if token[0] in ")]}":
            depth += 1
        elif token[0] in "([{":
            if depth == 0:
                return has_number
            depth -= 1
        has_number = has_number or bool(DIGIT.search(token[0]))
    return False
