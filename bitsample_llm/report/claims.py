"""What a number says of a sentence: a verdict only where the whole interval lies on one side of a threshold."""

from dataclasses import dataclass

from bitsample_llm.report.estimates import Estimate

UNDECIDED = "undecided: the interval holds more than one answer"


@dataclass(frozen=True)
class Answers:
    """What the question is answered with: above the margins, between them, and below.

    >>> Answers("more", "the same", "less").verdict(Estimate(2.0, (1.0, 3.0), 5), (-0.5, 0.5))
    'more'
    >>> Answers("more", "the same", "less").verdict(Estimate(0.6, (0.0, 1.2), 5), (-0.5, 0.5))
    'undecided: the interval holds more than one answer'
    """

    above: str
    between: str
    below: str

    def verdict(self, estimate: Estimate, margins: tuple[float, float]) -> str:
        """Where the whole interval of an estimate that has one lies."""
        (low, high), (start, end) = margins, estimate.interval
        if start > high:
            return self.above
        if end < low:
            return self.below
        return self.between if low < start and end < high else UNDECIDED


@dataclass(frozen=True)
class Claim:
    """A sentence or a question, the statistic that decides it, and what came out."""

    text: str
    statistic: str  # what the estimate is of, with its threshold
    estimate: Estimate
    verdict: str
    number: int | None = None  # of the essay's claim; None for a question of the study's own

    def sentence(self, unit: str = "seeds") -> str:
        """The claim with its verdict and numbers, in one sentence."""
        verdict = self.verdict[0].upper() + self.verdict[1:]
        return f"{self.text} {verdict} ({self.statistic}: {self.estimate.text()}, n = {self.estimate.n} {unit})."

    def fields(self) -> dict:
        """What a JSON file says of it."""
        numbered = {} if self.number is None else {"claim": self.number}
        return {**numbered, "text": self.text, "statistic": self.statistic, **self.estimate.fields(), "verdict": self.verdict}


def judged(
    text: str,
    statistic: str,
    estimate: Estimate,
    margins: tuple[float, float],
    answers: Answers,
    num_needed: int,
    unmeasured: str,
    number: int | None = None,
) -> Claim:
    """The claim with the verdict of its interval; undecided where fewer than `num_needed` values were measured, because those
    that were are not a fair sample of all. `unmeasured` says what is missing then.
    """
    if estimate.interval is None or estimate.n < num_needed:
        return Claim(text, statistic, estimate, f"undecided: {unmeasured}", number)
    return Claim(text, statistic, estimate, answers.verdict(estimate, margins), number)
