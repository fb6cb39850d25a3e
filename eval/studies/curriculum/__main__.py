"""Does a curriculum pay? `python -m eval.studies.curriculum FOLDER...` makes the page of the runs in the folders.

Question, statistics and thresholds are in README.md. `python -m eval.studies.curriculum pack FOLDER... RECORD` writes the runs into one Parquet file of a record.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import number_text
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
from bitsample_llm.report.study import Headline, Picture, Study
from eval.studies.curriculum.claims import PLAIN_OF, SPOKEN, claims_of

NOTE = "Factor: FLOPs of the target alone, by RL or by SFT, over those of the arm."
SHOWN = (
    "target",
    "uniform",
    "only_C",
    "only_E",
    "easy_to_hard",
    "thompson",
    "probe",
    "exact_half",
    "sft",
)  # in the learning curves


def read(paths: Sequence[str]) -> RemedyRuns:
    """The runs in the folders."""
    return RemedyRuns(read_prices(paths), SPOKEN, PLAIN_OF)


def curriculum_study(found: RemedyRuns, command: str) -> Study:
    """The page of the curricula."""
    rungs, claims = found.rungs, claims_of(found)
    table = factors_table(found, "What a choice of problems saves", "asked next", NOTE)
    factors = {arm: {rung: found.factor(rung, arm, HALF) for rung in rungs} for arm in ("exact_half", "thompson")}
    priced = [rung for rung in rungs if factors["exact_half"][rung].estimate.mean is not None]
    oracle, online = ({rung: factors[arm][rung].text() for rung in priced} for arm in factors)
    said = " and ".join(f"{oracle[rung]} times fewer FLOPs at {rung}" for rung in priced)
    sampled = " and ".join(online.values())
    return Study(
        title="Does a curriculum pay?",
        question="How many FLOPs does a choice of problems save until a hard target is reached and kept?",
        answer=f"To half of the bits, asking for a pass rate of .5 takes RL {said}; Thompson sampling {sampled}.",
        main=factors_picture(found, "What does a choice of problems save?"),
        table=table,
        terminal=[narrow(table)],
        how_to_read=HOW_TO_READ,
        provenance=f"{len(found.runs)} runs. Made by: {command}",
        headlines=[
            Headline(
                oracle[rung],
                f"times fewer FLOPs by the exact choice, {rung}",
                f"p = {number_text(found.pass_rate(rung))}",
            )
            for rung in priced
        ][:3],
        sentences=[claim.sentence("pretraining seeds") for claim in claims if not claim.verdict.startswith("undecided")][:5],
        claims=claims,
        tables=[settings_table(found, "asked next")],
        pictures=[
            Picture(
                "learning_curves",
                "How does the target come?",
                lambda: curves_figure(found, SHOWN, "training GFLOP, probing rollouts included"),
                "Medians over runs; the shares of the bits that are targets are read off single runs.",
            )
        ],
        results={"factors": found.factor_fields()},
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        pack_prices(read_prices(sys.argv[2:-1]), Path(sys.argv[-1]))
    else:
        report(curriculum_study, prog="python -m eval.studies.curriculum", description=__doc__.splitlines()[0], read=read)
