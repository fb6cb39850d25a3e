"""Heuristic or general? `python -m eval.studies.jaggedness FOLDER` makes the page of the measured starts and the runs in a folder.

Question, statistics and thresholds are in README.md. `python -m eval.studies.jaggedness pack FOLDER... RECORD` writes the runs into one file of a record, beside the slopes.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import UNMEASURED, number_text
from bitsample_llm.report.remedies import price_text
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.jaggedness.bandit import WEIGHTS
from eval.studies.jaggedness.claims import (
    BRIDGE,
    FIXED,
    FORETELLERS,
    KIN,
    LONGER,
    OBJECTIVE_OF,
    SHARES,
    SPOKEN,
    Found,
    bridge,
    claims_of,
    foretold,
    horizon,
    lowest_of_bandit,
)
from eval.studies.jaggedness.courses import pack_courses, read_courses
from eval.studies.jaggedness.pictures import courses_figure, phase_figure
from eval.studies.jaggedness.slopes import Start, odds_at_crossing, read_slopes

HOW_TO_READ = (
    "Right: the right answer, on problems on which the rule is wrong. Slopes are exact, without training. FLOPs include rollouts."
)


def read(paths: Sequence[str]) -> Found:
    """The measured starts and the runs in the folders."""
    return Found([start for path in paths for start in read_slopes(Path(path))], read_courses(paths))


def ends_text(ends: tuple[float, float]) -> str:
    """A number, or what it is known to lie below or above."""
    low, high = ends
    return number_text(low) if low == high else f"< {number_text(high)}" if low == 0 else f"> {number_text(low)}"


def crossings_text(found: Found, start: str, of: Callable[[Start, str, float], float], objective: str, share: float) -> str:
    """The odds at the crossing, a number per model."""
    models = found.authors(start).values()
    return ", ".join(ends_text(odds_at_crossing(authors, lambda author: of(author, objective, share))) for authors in models)


def crossings_table(found: Found) -> Table:
    """Where the slope turns, by the closed form and measured."""
    rows = [["start", "objective", "s", "closed form", "measured", "over closed form", "over kinship"]]
    for start in dict.fromkeys(author.start for author in found.starts):
        for objective in WEIGHTS:
            for share in SHARES:
                sides = [crossings_text(found, start, of, objective, share) for of in (Start.predicted, Start.slope)]
                ratios = [found.ratios(start, objective, share, kin).values() for kin in (0.0, KIN)]
                rows.append([start, objective, f"{share:g}", *sides, *("; ".join(map(ratio_text, of_kin)) for of_kin in ratios)])
    note = "Odds general : rule, by model; after < or >: beyond all authors. Brackets: 95 % bootstrap over eighths of the training problems."
    return Table("At which odds does the general strategy stop to recede?", rows, note)


def ratio_text(ratio) -> str:
    """A ratio, with its interval alone where a crossing lies beyond the authors."""
    if ratio.mean is not None or ratio.interval is None:
        return ratio.text()
    low, high = map(number_text, ratio.interval)
    return f"[{low}, {high}]"


def starts_table(found: Found) -> Table:
    """What each author's start holds, and how near its wrong answers are to the rule."""
    rows = [
        ["start", "model", "author", "right", "rule", *(f"k, {name}" for name in WEIGHTS), "share at the crossing", "K at s = .95"]
    ]
    for author in found.starts:
        at_crossing = author.share_at_crossing("group of 8")
        kin = [number_text(author.kinship(name)) for name in WEIGHTS]
        shown = map(number_text, (at_crossing, horizon(0.95, at_crossing)))
        rows.append([author.start, author.model, author.mark, number_text(author.right), number_text(author.rule), *kin, *shown])
    note = "k: kinship of wrong answers, 0 in a bandit, -1 the rule's. Share at the crossing, of GRPO with groups of 8: above it the general strategy recedes. K: problems in an episode that bring s^K below it."
    return Table("The starts", rows, note)


def courses_table(found: Found) -> Table:
    """What the runs did, a row per cell, arm and model."""
    rows = [
        [
            "start",
            "author",
            "s",
            "arm",
            "model",
            "runs",
            "rose first",
            "fell first",
            "lowest",
            "the bandit's",
            "right in the end",
            "rule in the end",
        ]
    ]
    for cell, model, arm in itertools.product(
        sorted({course.cell for course in found.courses}), sorted({course.model for course in found.courses}), SPOKEN
    ):
        if courses := [course for course in found.of(cell, arm) if course.model == model]:
            moves = [course.first_move for course in courses]
            means = [
                np.mean(values)
                for values in zip(*((course.lowest, course.right[-1], course.rule[-1]) for course in courses), strict=True)
            ]
            lowest, *ends = (f"{mean:.2f}" for mean in means)
            of_bandit = f"{lowest_of_bandit(courses[0]):.2f}" if arm in OBJECTIVE_OF else UNMEASURED
            start, mark, share = cell
            rows.append(
                [
                    start,
                    mark,
                    f"{share:g}",
                    SPOKEN[arm],
                    model,
                    str(len(courses)),
                    str(moves.count(1)),
                    str(moves.count(-1)),
                    lowest,
                    of_bandit,
                    *ends,
                ]
            )
    note = "First: a move of ln(right/rule) by .1. Lowest: how far it fell below its start; the bandit's: from the same start, however long it takes (added after the runs). Means over runs."
    return Table("The runs", rows, note)


def foretold_table(found: Found) -> Table:
    """Who foretells the first move of a run?"""
    rows = [["start", "model", "runs that moved", *FORETELLERS]]
    for start, model in sorted({(course.start, course.model) for course in found.courses}):
        shares = foretold(found, start, model)
        rows.append([start, model, str(next(iter(shares.values())).n), *(share.text() for share in shares.values())])
    return Table(
        "Which way does a run go first?",
        rows,
        "Share of the runs with plain SGD whose first move was foretold; Wilson intervals. Added after the runs.",
    )


def bridge_table(found: Found) -> Table:
    """What brings the general strategy back, and its price."""
    rows = [["from F", "GFLOP to p right = .5", "kept", "factor"]]
    for arms in (BRIDGE, LONGER):
        for place, (name, (prices, saved)) in enumerate(bridge(found, arms).items()):
            rows.append([name, price_text(prices, 1e-9), prices.kept_text(), saved.text() if place else "1"])
    note = "Factor over GRPO with SGD at s = .95, of runs of that length."
    return Table("What brings the general strategy back?", rows, note)


def right_in_the_end(found: Found, arm: str, model: str) -> float | None:
    """Mean p right after training at the cell where SGD fixes; None without runs."""
    ends = [course.right[-1] for course in found.of(FIXED, arm) if course.model == model]
    return float(np.mean(ends)) if ends else None


def jaggedness_study(found: Found, command: str) -> Study:
    """The page of the two strategies."""
    claims = claims_of(found)
    ratios = found.ratios("named", "pass_rate", 0.8)
    said = ", ".join(f"{ratio_text(ratio)} ({model})" for model, ratio in ratios.items())
    ends = {arm: [f"{number_text(right_in_the_end(found, arm, model))} ({model})" for model in ratios] for arm in ("sgd", "adamw")}
    return Study(
        title="Heuristic or general?",
        question="Where a cheap rule passes most problems, does RL fix on it, although the policy knows the general way?",
        answer=f"The general strategy begins to gain at {said} times the closed form's odds (s = .8, policy gradient). From the rarest, at s = .95, p right ends at {', '.join(ends['sgd'])} with SGD and at {', '.join(ends['adamw'])} with AdamW.",
        main=Picture(
            "courses", "What becomes of the general strategy?", lambda: courses_figure(found), "A line per run, author F."
        ),
        table=crossings_table(found),
        how_to_read=HOW_TO_READ,
        provenance=f"{len(found.starts)} starts, {len(found.courses)} runs. Made by: {command}",
        headlines=[
            Headline(ratio_text(ratio), f"times the closed form's odds at the crossing, {model}", "named, policy gradient, s = .8")
            for model, ratio in ratios.items()
        ],
        sentences=[claim.sentence("models or runs") for claim in claims if not claim.verdict.startswith("undecided")][:5],
        claims=claims,
        tables=[starts_table(found), foretold_table(found), courses_table(found), bridge_table(found)],
        terminal=[foretold_table(found), bridge_table(found)],
        pictures=[
            Picture(
                "phases",
                "Where does the general strategy recede?",
                lambda: phase_figure(found),
                "Policy gradient. Above a boundary it recedes. Triangles: GRPO (named) and the exact gradient (silent), with SGD.",
            )
        ],
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        pack_courses(read_courses(sys.argv[2:-1]), Path(sys.argv[-1]))
    else:
        report(jaggedness_study, prog="python -m eval.studies.jaggedness", description=__doc__.splitlines()[0], read=read)
