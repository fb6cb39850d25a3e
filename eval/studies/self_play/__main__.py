"""Does self-play pay? `python -m eval.studies.self_play FOLDER...` makes the page of the runs in the folders.

Question, statistics and thresholds are in README.md. `python -m eval.studies.self_play pack FOLDER... RECORD` writes the runs, and what they asked, into the files of a record.
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitsample_llm.report.asked import Asked, pack_asked, read_asked
from bitsample_llm.report.command import report
from bitsample_llm.report.prices import HALF, pack_prices, read_prices
from bitsample_llm.report.remedy_runs import (
    HOW_TO_READ,
    RemedyRuns,
    curves_figure,
    factors_picture,
    factors_table,
    narrow,
    settings_table,
)
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.self_play.asked import (
    NEAR_HALF,
    STATUSES,
    WINDOWS,
    authors_figure,
    pass_rates_figure,
    share_near_half,
)
from eval.studies.self_play.claims import PLAIN_OF, SPOKEN, claims_of

NOTE = "Factor: FLOPs of the target alone over those of the arm."


@dataclass(frozen=True)
class Found:
    """The runs, and what they asked."""

    remedies: RemedyRuns
    asked: list[Asked]


def read(paths: Sequence[str]) -> Found:
    """The runs in the folders."""
    return Found(RemedyRuns(read_prices(paths), SPOKEN, PLAIN_OF), read_asked(paths))


def proposals_table(found: Found) -> Table:
    """What became of the proposals of each arm, window by window."""
    rows = [["arm", "updates", "proposals", *STATUSES.values(), "distinct", "by C, D or ?"]]
    for arm, (name, (first, last)) in itertools.product(("self_play", "self_play_untrained"), WINDOWS.items()):
        told = [row for row in found.asked if row.arm == arm and first <= row.step <= last]
        stated = [row for row in told if row.author]
        counts = [sum(row.status == status for row in told) for status in STATUSES]
        shares = [num / len(told) for num in counts] if told else []
        shares += (
            [len({row.text for row in stated}) / len(stated), np.mean([row.author in "CD?" for row in stated])] if stated else []
        )
        if stated:
            rows.append([SPOKEN[arm], name, str(len(told)), *(f"{share:.1%}" for share in shares)])
    note = "Distinct: different problems among those that were stated, over all runs. Held out: operands of a pool that is evaluated on. By C, D or ?: of the problems that were stated."
    return Table("What became of the proposals", rows, note)


def near_half_table(found: Found) -> Table:
    """How often each arm asked what passes about every other time."""
    rows = [["asked next", *(f"updates {name}" for name in WINDOWS)]]
    for arm in found.remedies.arms():
        rows.append([SPOKEN[arm], *(share_near_half(found.asked, arm, window).text() for window in WINDOWS.values())])
    shown = f"[{NEAR_HALF[0]:g}, {NEAR_HALF[1]:g}]"
    return Table(
        f"Share of what was asked with an exact pass rate in {shown}",
        rows,
        "Mean over runs, with the t interval over them. Updates of self-play hold several groups.",
    )


def self_play_study(found: Found, command: str) -> Study:
    """The page of self-play."""
    remedies, rungs = found.remedies, found.remedies.rungs
    claims, table = (
        claims_of(remedies, found.asked),
        factors_table(remedies, "What each choice of problems saves", "asked next", NOTE),
    )
    saved = {rung: remedies.factor(rung, "self_play", HALF).text() for rung in rungs}
    pool = {rung: remedies.factor(rung, "uniform", HALF).text() for rung in rungs}
    late = share_near_half(found.asked, "self_play", WINDOWS["31 on"])
    said = " and ".join(f"{saved[rung]} at {rung} (of the pool in turn: {pool[rung]})" for rung in rungs)
    return Study(
        title="Does self-play pay?",
        question="How many FLOPs does a model save that sets its own problems, until a hard target is reached and kept?",
        answer=f"To half of the bits the remedy factor of self-play is {said}; of what it asks from update 31 on, a share of {late.text()} has a pass rate near a half.",
        main=Picture(
            "pass_rates",
            "Does a proposer keep the pass rate near a half?",
            lambda: pass_rates_figure(found.asked, {arm: SPOKEN[arm] for arm in remedies.arms()}),
            "Means over runs of the exact pass rate of what was asked, before the update on it; the grey band is what a proposer is paid for.",
        ),
        table=table,
        terminal=[narrow(table)],
        how_to_read=HOW_TO_READ,
        provenance=f"{len(remedies.runs)} runs. Made by: {command}",
        headlines=[Headline(saved[rung], "times fewer FLOPs by self-play", rung) for rung in rungs][:3],
        sentences=[claim.sentence("pretraining seeds or runs") for claim in claims if not claim.verdict.startswith("undecided")][
            :5
        ],
        claims=claims,
        tables=[near_half_table(found), proposals_table(found), settings_table(remedies, "asked next")],
        pictures=[
            factors_picture(remedies, "What does each choice save?"),
            Picture(
                "authors",
                "Who is proposed?",
                lambda: authors_figure(found.asked, SPOKEN),
                "A is always right, G and H seldom; `?` is unnamed.",
            ),
            Picture(
                "learning_curves",
                "How does the target come?",
                lambda: curves_figure(remedies, list(SPOKEN), "training GFLOP, proposals included"),
                "Medians over runs; the shares of the bits that are targets are read off single runs.",
            ),
        ],
        results={
            "factors": remedies.factor_fields(),
            "near_half": {
                arm: {name: share_near_half(found.asked, arm, window).fields() for name, window in WINDOWS.items()}
                for arm in remedies.arms()
            },
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        *folders, record = sys.argv[2:]
        pack_prices(read_prices(folders), Path(record))
        pack_asked(read_asked(folders), Path(record))
    else:
        report(self_play_study, prog="python -m eval.studies.self_play", description=__doc__.splitlines()[0], read=read)
