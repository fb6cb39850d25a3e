"""Which TRL recipe buys the most held-out bits per FLOP? `python -m eval.studies.trl_recipes FOLDER...` makes the page of the runs in the folders.

Question, statistics and thresholds are in README.md. `python -m eval.studies.trl_recipes pack FOLDER... RECORD` writes the runs into a Parquet file of a record.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from bitsample_llm.report.command import report
from bitsample_llm.report.prices import HALF, PACKED, pack_prices, read_prices
from bitsample_llm.report.remedy_runs import HOW_TO_READ, RemedyRuns, factors_table, narrow, settings_table
from bitsample_llm.report.study import Headline, Picture, Study
from eval.studies.trl_recipes.claims import BASE, SPOKEN, claims_of, excluded, pairs_table, predicted_factor, spread_table, winners
from eval.studies.trl_recipes.pictures import choices_figure, ranking_figure

NOTE = "Factor: FLOPs of the base setting (GRPO, dapo, one group of 8 per update, one pass, no KL penalty, the rate of the search) over those of the recipe, to the same target."


def read(paths: Sequence[str]) -> RemedyRuns:
    """The runs in the folders; those of make_unmetered.py are packed, a folder each."""
    packed = [path.parent for folder in map(Path, paths) for path in sorted(folder.glob(f"*/{PACKED}"))]
    others = [path for path in paths if not list(Path(path).glob(f"*/{PACKED}"))]
    return RemedyRuns(read_prices([*others, *packed]), SPOKEN, dict.fromkeys(SPOKEN, BASE))


def recipes_study(found: RemedyRuns, command: str) -> Study:
    """The page of TRL's recipes."""
    rungs, claims = found.rungs, claims_of(found)
    table = factors_table(found, "What a recipe costs", "recipe", NOTE)
    counted = {rung: excluded(found, rung, [arm for arm in found.arms(rung) if arm != BASE]) for rung in rungs}
    best = {rung: winners(found, rung) for rung in rungs}

    def held(rung: str, arm: str) -> str:
        runs = found.of(rung, arm)
        return f"{SPOKEN[arm]} ({found.factor(rung, arm, HALF).text()}; {sum(run.has_at_end(HALF) for run in runs)} of {len(runs)} runs have it in the end)"

    said = "; ".join(f"at {rung} {', '.join(held(rung, arm) for arm in best[rung][:3]) or 'none'}" for rung in rungs)
    sentences = [
        f"At {rung} {len(above)} of {num} intervals lie above 1 and {len(below)} below it, to half of the bits; {len(best[rung])} recipes are ahead at every pretraining seed too."
        for rung, (above, below, num) in counted.items()
    ]
    return Study(
        title="Which TRL recipe buys the most held-out bits per FLOP?",
        question="One thing changed at a time from one GRPO setting: what does half of the held-out bits cost, reached and kept?",
        answer=f"Cheaper than the base setting to half of the bits, at every pretraining seed: {said}.",
        main=Picture(
            "ranking",
            "What does a recipe save?",
            lambda: ranking_figure(found),
            "Right of the line a recipe is cheaper than the base setting. Open arrows: a bound, since one of the two was not kept by half of the runs of a pretraining seed.",
        ),
        table=table,
        terminal=[narrow(table)],
        how_to_read=HOW_TO_READ,
        provenance=f"{len(found.runs)} runs. Made by: {command}",
        headlines=[
            Headline(found.factor(rung, arm, HALF).text(), f"{SPOKEN[arm]}, {rung}", HALF.name)
            for rung in rungs
            for arm in best[rung][:1]
        ],
        sentences=sentences,
        claims=claims,
        tables=[spread_table(found), pairs_table(found), settings_table(found, "recipe")],
        pictures=[
            Picture(
                "choices",
                "How much does each choice move the price?",
                lambda: choices_figure(found),
                "A point per level, the cheapest and the dearest named. Open: no price, since a target was not kept by half of the runs of a pretraining seed; the price lies above.",
            )
        ],
        results={
            "factors": found.factor_fields(),
            "predicted": {
                rung: {arm: predicted_factor(found.pass_rate(rung), arm) for arm in found.arms(rung) if arm != BASE}
                for rung in rungs
            },
            "intervals": {rung: {"above 1": above, "below 1": below, "of": num} for rung, (above, below, num) in counted.items()},
            "winners": best,
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        *folders, record = sys.argv[2:]
        pack_prices(read(folders).runs, Path(record))
    else:
        report(recipes_study, prog="python -m eval.studies.trl_recipes", description=__doc__.splitlines()[0], read=read)
