"""Does a curriculum pay? `python -m eval.studies.curriculum FOLDER...` makes the page of the runs in the folders.

Question, statistics and thresholds are in README.md. `python -m eval.studies.curriculum pack FOLDER... RECORD` writes the runs into one Parquet file of a record.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import UNMEASURED, number_text
from bitsample_llm.report.prices import HALF, NINE_TENTHS, pack_prices, read_prices
from bitsample_llm.report.remedies import price_text, prices_of
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.curriculum.claims import PLAINS, SPOKEN, Found, claims_of
from eval.studies.curriculum.pictures import curves_figure, factors_figure

HOW_TO_READ = (
    "A remedy factor above 1 says that the remedy saves FLOPs, all that it costs included. A target counts once it is kept until three times its FLOPs were spent. "
    "Brackets: 95 % bootstrap over pretraining seeds and training seeds."
)
GIGA = 1e-9


def read(paths: Sequence[str]) -> Found:
    """The runs in the folders."""
    return Found(read_prices(paths))


def factors_table(found: Found) -> Table:
    """What each arm pays and saves."""
    rows = [
        ["start", "asked next", *(text for target in (HALF, NINE_TENTHS) for text in (f"GFLOP to {target.name}", "kept", "factor"))]
    ]
    for rung in found.rungs:
        for arm in found.arms(rung):
            row = [rung, SPOKEN[arm]]
            for target in (HALF, NINE_TENTHS):
                prices = prices_of(found.runs, rung, arm, target)
                is_plain = arm in PLAINS
                row += [
                    price_text(prices, GIGA),
                    prices.kept_text(),
                    "1" if is_plain else found.factor(rung, arm, target).text(),
                ]
            rows.append(row)
    note = "Factor: FLOPs of the target alone, by RL or by SFT, over those of the arm. Kept: runs known to have reached and kept it. After > or <: one of the two has no price."
    return Table("What a choice of problems saves", rows, note)


def narrow(table: Table) -> Table:
    """The columns that fit a terminal."""
    return Table(table.title, [[row[0], row[1], row[2], row[4]] for row in table.rows])


def settings_table(found: Found) -> Table:
    """The setting of each arm."""
    shown = {"learning rate": "learning_rate", "samples per update": "per_device_train_batch_size", "group size": "num_generations"}
    rows, seen = [["start", "asked next", *shown]], set()
    for run in found.runs:
        if (run.rung, run.arm) not in seen:
            seen.add((run.rung, run.arm))
            rows.append(
                [
                    run.rung,
                    SPOKEN[run.arm],
                    *(f"{run.settings[key]:g}" if key in run.settings else UNMEASURED for key in shown.values()),
                ]
            )
    return Table("Settings", rows)


def curriculum_study(found: Found, command: str) -> Study:
    """The page of the curricula."""
    rungs, claims, table = found.rungs, claims_of(found), factors_table(found)
    oracle = {rung: found.factor(rung, "exact_half", HALF).text() for rung in rungs}
    online = {rung: found.factor(rung, "thompson", HALF).text() for rung in rungs}
    said = " and ".join(f"{oracle[rung]} times fewer FLOPs at {rung}" for rung in rungs)
    sampled = " and ".join(f"{online[rung]}" for rung in rungs)
    return Study(
        title="Does a curriculum pay?",
        question="How many FLOPs does a choice of problems save until a hard target is reached and kept?",
        answer=f"To half of the bits, asking for a pass rate of .5 takes RL {said}; Thompson sampling {sampled}.",
        main=Picture(
            "factors",
            "What does a choice of problems save?",
            lambda: factors_figure(found),
            "Right of the line the choice saves FLOPs. Open marks: a bound, since one of the two was not kept by half of the runs.",
        ),
        table=table,
        terminal=[narrow(table)],
        how_to_read=HOW_TO_READ,
        provenance=f"{len(found.runs)} runs. Made by: {command}",
        headlines=[
            Headline(
                oracle[rung],
                f"times fewer FLOPs by the exact choice, {rung}",
                f"p = {number_text(next(run.pass_rate[0] for run in found.runs if run.rung == rung))}",
            )
            for rung in rungs
        ][:3],
        sentences=[claim.sentence("pretraining seeds") for claim in claims if not claim.verdict.startswith("undecided")][:5],
        claims=claims,
        tables=[settings_table(found)],
        pictures=[
            Picture(
                "learning_curves",
                "How does the target come?",
                lambda: curves_figure(found),
                "Medians over runs; the shares of the bits that are targets are read off single runs.",
            )
        ],
        results={
            "factors": {
                rung: {
                    arm: {
                        target.name: {
                            **found.factor(rung, arm, target).estimate.fields(),
                            "text": found.factor(rung, arm, target).text(),
                        }
                        for target in (HALF, NINE_TENTHS)
                    }
                    for arm in found.arms(rung)
                    if arm not in PLAINS
                }
                for rung in rungs
            }
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        pack_prices(read_prices(sys.argv[2:-1]), Path(sys.argv[-1]))
    else:
        report(curriculum_study, prog="python -m eval.studies.curriculum", description=__doc__.splitlines()[0], read=read)
