"""What the measured starts and the runs say of the questions of README.md."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bitsample_llm.estimators import first_kept, wilson_interval
from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import Estimate
from bitsample_llm.report.prices import KEEP_FOR
from bitsample_llm.report.remedies import Factor, Prices, factor
from eval.studies.jaggedness.bandit import WEIGHTS, path
from eval.studies.jaggedness.courses import Course
from eval.studies.jaggedness.slopes import Start, crossing_ratio

SPOKEN = {
    "sgd": "GRPO, SGD",
    "adamw": "GRPO, AdamW",
    "rloo": "RLOO, SGD",
    "reinforce": "REINFORCE, SGD",
    "rejection": "rejection SFT, SGD",
    "entropy": "GRPO with entropy bonus, SGD",
    "sft": "SFT, SGD",
    "exact": "exact gradient, SGD",
    "sgd_long": "GRPO, SGD, longer",
    "adamw_long": "GRPO, AdamW, longer",
}
SHARES = (0.5, 0.8, 0.95)
FACTOR, CLOSE = 2.0, 1.5  # within which a crossing is as predicted: by the bandit, with the kinship of the first model
KIN, KIN_RANGE = -0.45, (-0.6, -0.3)
DIGITS = 1 / 3  # of the bandit's slope, below which digits are chosen by themselves
FIXED = ("named", "F", 0.95)
BRIDGED = (0.95, 0.8, 0.5, 0.0)  # the first is what the others are held against
BRIDGE = {arm: name for arm, name in SPOKEN.items() if arm in ("sgd", "adamw", "rloo", "reinforce", "rejection", "entropy", "sft")}
LONGER = {arm: name for arm, name in SPOKEN.items() if arm.endswith("_long")}
HALF_RIGHT = 0.5
YES = Answers("yes", "undecided", "no")


@dataclass(frozen=True)
class Found:
    """The measured starts, and the courses of the runs."""

    starts: Sequence[Start]
    courses: Sequence[Course]
    _ratios: dict = field(default_factory=dict)

    def authors(self, start: str) -> dict[str, list[Start]]:
        """Model -> the authors of a start."""
        models = dict.fromkeys(found.model for found in self.starts if found.start == start)
        return {model: [found for found in self.starts if (found.start, found.model) == (start, model)] for model in models}

    def ratios(self, start: str, objective: str, share: float, kin: float = 0.0) -> dict[str, Estimate]:
        """Model -> measured odds at the crossing over the predicted."""
        key = (start, objective, share, kin)
        if key not in self._ratios:
            self._ratios[key] = {
                model: crossing_ratio(authors, objective, share, kin) for model, authors in self.authors(start).items()
            }
        return self._ratios[key]

    def ratio(self, start: str, objective: str, share: float, kin: float = 0.0) -> Estimate:
        """The same of all models: geometric mean, and the union of their intervals."""
        each = list(self.ratios(start, objective, share, kin).values())
        means = [of_model.mean for of_model in each]
        lows, highs = zip(*(of_model.interval for of_model in each), strict=True)
        mean = None if None in means else float(np.exp(np.mean(np.log(means))))
        return Estimate(mean, (min(lows), max(highs)), len(each), tuple(means))

    def of(self, cell: tuple[str, str, float], arm: str) -> list[Course]:
        """The runs of an arm in a cell."""
        return [course for course in self.courses if (course.cell, course.arm) == (cell, arm)]

    def share_of(self, courses: Sequence[Course], holds: Callable[[Course], bool]) -> Estimate:
        """Of runs, those of which something holds; Wilson interval."""
        if not courses:
            return Estimate(None, None, 0)
        num = sum(map(holds, courses))
        return Estimate(num / len(courses), wilson_interval(num, len(courses)), len(courses))


# What says which way a run goes first, of its start and share, with the objective whose expected gradient the runs follow.
FORETELLERS = {
    "measured slope": lambda author, objective, share: author.slope(objective, share),
    "bandit": lambda author, objective, share: author.predicted(objective, share),
    f"kinship {KIN:g}": lambda author, objective, share: author.predicted(objective, share, KIN),
}
OBJECTIVE_OF = {"sgd": "group of 8", "exact": "pass_rate"}


def foretold(found: Found, start: str, model: str) -> dict[str, Estimate]:
    """Of the runs with plain SGD that moved, the share whose first move each of `FORETELLERS` foretold."""
    authors = {author.mark: author for author in found.authors(start).get(model, ())}
    moved = [
        run for run in found.courses if (run.start, run.model) == (start, model) and run.arm in OBJECTIVE_OF and run.first_move
    ]
    return {
        name: found.share_of(moved, lambda run, of=of: of(authors[run.mark], OBJECTIVE_OF[run.arm], run.share) * run.first_move > 0)
        for name, of in FORETELLERS.items()
    }


def lowest_of_bandit(course: Course) -> float:
    """How far ln(g/h) of a bandit falls below its start, from where a run with plain SGD started, however long it takes."""
    g_h = path(course.right[0], course.rule[0], course.share, WEIGHTS[OBJECTIVE_OF[course.arm]], np.geomspace(1e-3, 1e4, 400))
    return min(0.0, float(np.log(g_h[:, 0] / g_h[:, 1]).min() - math.log(course.right[0] / course.rule[0])))


def prices_at(courses: Sequence[Course]) -> Prices:
    """FLOPs of each run until p right is a half and kept, or what is known that they exceed."""
    by_model: dict[str, list[tuple[float, bool]]] = {}
    for course in courses:
        kept = first_kept(course.flops, course.right, HALF_RIGHT, KEEP_FOR)
        by_model.setdefault(course.model, []).append((course.flops[-1] / KEEP_FOR, False) if kept is None else (kept, True))
    return Prices(by_model)


def bridge(found: Found, arms: dict[str, str] = BRIDGE) -> dict[str, tuple[Prices, Factor]]:
    """What brings the general strategy back, by name: price, and factor over GRPO with SGD at s = .95."""
    start, mark, _ = FIXED
    sides = {f"{name}, s = {share:g}": found.of((start, mark, share), arm) for arm, name in arms.items() for share in BRIDGED}
    prices = {name: prices_at(courses) for name, courses in sides.items() if courses}
    plain = next(iter(prices), None)
    return {name: (of_side, factor(prices[plain], of_side)) for name, of_side in prices.items()}


def horizon(share: float, at_crossing: float) -> float:
    """Problems that all must pass, from which on the share s^K lies below the crossing's."""
    return math.log(at_crossing) / math.log(share) if 0 < at_crossing < 1 else 1.0


def _of_slopes(found: Found) -> list[Claim]:
    claims = []
    within = Answers(
        "no, the general strategy recedes more easily",
        f"yes, within a factor of {FACTOR:g}",
        "contradicted: the general strategy recedes less easily",
    )
    for start in ("named", "silent", "leaning"):
        for objective in ("pass_rate", "group of 8", "log_likelihood"):
            for share in SHARES:
                if not found.authors(start):
                    continue
                statistic = f"{start}, {objective}, s = {share:g}: odds at the crossing over the closed form's; thresholds {1 / FACTOR:g} and {FACTOR:g}"
                text = "Is the crossing where the closed form says?"
                claims.append(
                    judged(
                        text,
                        statistic,
                        found.ratio(start, objective, share),
                        (1 / FACTOR, FACTOR),
                        within,
                        1,
                        "nothing measured",
                        10,
                    )
                )
    named = [author for authors in found.authors("named").values() for author in authors]
    if named:
        kin = [author.kinship("group of 8") for author in named]
        statistic = (
            f"named: k by author and model, group of 8; lowest and highest; thresholds {KIN_RANGE[0]:g} and {KIN_RANGE[1]:g}"
        )
        answers = Answers("no, nearer to 0", "yes", "no, below")
        claims.append(
            judged(
                "Is one kinship true of all authors and both models?",
                statistic,
                Estimate(float(np.mean(kin)), (min(kin), max(kin)), len(kin)),
                KIN_RANGE,
                answers,
                1,
                "",
                10,
            )
        )
        for objective in ("pass_rate", "group of 8"):
            for share in SHARES[1:]:
                statistic = f"named, {objective}, s = {share:g}: odds at the crossing over those with k = {KIN:g}; thresholds {1 / CLOSE:.3g} and {CLOSE:g}"
                claims.append(
                    judged(
                        "Is the crossing where kinship says?",
                        statistic,
                        found.ratio("named", objective, share, KIN),
                        (1 / CLOSE, CLOSE),
                        Answers("no, above", "yes", "no, below"),
                        1,
                        "",
                        10,
                    )
                )
    rare = [author for authors in found.authors("silent").values() for author in authors if author.mark in "EF"]
    if rare:
        ratios = [
            abs(_easy_over_hard(author) / (author.predicted("pass_rate", 1.0) / author.predicted("pass_rate", 0.0)))
            for author in rare
        ]
        statistic = (
            f"silent, E and F: slope without a carry over the bandit's, policy gradient; lowest and highest; threshold {DIGITS:.2g}"
        )
        claims.append(
            judged(
                "Do problems without a carry say little where no sign names the strategy?",
                statistic,
                Estimate(float(np.mean(ratios)), (min(ratios), max(ratios)), len(ratios)),
                (DIGITS, DIGITS),
                Answers("no", "undecided", "yes"),
                1,
                "",
                10,
            )
        )
    return claims


def _easy_over_hard(author: Start) -> float:
    return author.slope("pass_rate", 1.0) / author.slope("pass_rate", 0.0)


def _of_runs(found: Found) -> list[Claim]:
    claims = []

    def ask(text, arm, cells, holds, what):
        estimate = found.share_of([course for cell in cells for course in found.of(cell, arm)], holds)
        shown = ", ".join(f"{mark} at {share:g}" for _, mark, share in cells)
        claims.append(
            judged(
                text,
                f"{SPOKEN[arm]}, {shown}: share of runs {what}; threshold .5; n counts runs",
                estimate,
                (0.5, 0.5),
                YES,
                1,
                "no run",
                10,
            )
        )

    ask(
        "Do runs move as kinship says where the bandit says otherwise?",
        "sgd",
        [("named", "E", 0.8), ("named", "D", 0.95)],
        lambda course: course.first_move > 0,
        "whose first move is up",
    )
    ask(
        "Does GRPO with SGD fix on the rule?",
        "sgd",
        [FIXED],
        _is_fixed,
        "that end with more rule than right and less than .2 right",
    )
    for share in (0.95, 0.99):
        ask(
            "Does the general strategy win with AdamW?",
            "adamw",
            [("named", "F", share)],
            lambda course: course.right[-1] > 0.8,
            "that end with more than .8 right",
        )
    for arm in ("rloo", "reinforce", "rejection"):
        ask(
            "Does it end with the rule ahead?",
            arm,
            [FIXED],
            lambda course: course.rule[-1] > course.right[-1],
            "that end with more rule than right",
        )
    ask(
        "Does it end with the general strategy ahead?",
        "sft",
        [FIXED],
        lambda course: course.right[-1] > course.rule[-1],
        "that end with more right than rule",
    )
    for name, (prices, saved) in [*list(bridge(found).items())[1:], *list(bridge(found, LONGER).items())[1:]]:
        if prices.by_model:
            statistic = f"F: FLOPs of GRPO with SGD at s = .95 over those of {name}, to p right = .5; threshold 1"
            claims.append(
                judged(
                    f"Does it bring the general strategy back sooner: {name}?",
                    statistic,
                    saved.estimate,
                    (1.0, 1.0),
                    YES,
                    1,
                    f"no price ({saved.text()}; kept by {prices.kept_text()})",
                    10,
                )
            )
    return claims


def _is_fixed(course: Course) -> bool:
    return course.rule[-1] > course.right[-1] and course.right[-1] < 0.2


def claims_of(found: Found) -> list[Claim]:
    """Every question of README.md that is answered by what is there."""
    return _of_slopes(found) * bool(found.starts) + _of_runs(found) * bool(found.courses)
