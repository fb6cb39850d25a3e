"""Does a value function pay? `python -m eval.studies.value_function FOLDER...` makes the page of the runs in the folders.

Question, statistics and thresholds are in README.md. `python -m eval.studies.value_function pack FOLDER... RECORD` writes the runs into the files of a record.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import UNMEASURED, number_text, over_seeds
from bitsample_llm.report.prices import HALF, pack_prices, read_prices
from bitsample_llm.report.remedy_runs import (
    HOW_TO_READ,
    curves_figure,
    factors_picture,
    factors_table,
    narrow,
    settings_table,
)
from bitsample_llm.report.stops import PLACES, calibration, lost_passes, pack_stops, read_stops
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.value_function.claims import (
    PLAIN_OF,
    SPOKEN,
    Found,
    claims_of,
    has_enough,
    predicted_factors,
    samples_per_flop,
)
from eval.studies.value_function.pictures import reliability_figure

NOTE = "Factor: FLOPs of plain GRPO over those of the arm."


def read(paths: Sequence[str]) -> Found:
    """The runs in the folders."""
    return Found(read_prices(paths), SPOKEN, PLAIN_OF, stops=read_stops(paths))


def ends_table(found: Found) -> Table:
    """What the ends of each arm save and lose."""
    rows = [["start", "arm", "tokens per rollout", "ended (%)", "rollouts per FLOP", "head (% of FLOPs)", "passes lost (%)"]]
    for rung in found.rungs:
        for arm in found.arms(rung):
            runs = found.stops_of(rung, arm)
            head = np.mean([run.flops["reward_model"] / run.flops["total"] for run in runs])
            rows.append(
                [
                    *(rung, SPOKEN[arm], number_text(float(np.mean([run.mean_tokens for run in runs])))),
                    number_text(100 * float(np.mean([run.share_ended for run in runs]))),
                    "1" if arm == "plain" else samples_per_flop(found, rung, arm).text(),
                    number_text(100 * float(head)) if head else UNMEASURED,
                    lost_passes(runs).text(100),
                ]
            )
    note = "Rollouts per FLOP: over those of plain GRPO, first 50 GFLOP, t interval over runs of the same seeds. Passes lost: of those that ran on, the share that the threshold would have ended."
    return Table("What the ends save", rows, note)


def calibration_table(found: Found) -> Table:
    """Whether the head is right, on rollouts none of which was ended."""
    rows = [["start", "at", "generations", "rollouts", "passed", "squared error", "gap", "variance explained"]]
    for rung in found.rungs:
        for place, name in enumerate(PLACES):
            for half, spoken in enumerate(("first half", "second half")):
                if (of_place := calibration(found.stops_of(rung, "run_on"), place, half)) is not None:
                    numbers = (of_place.pass_rate, of_place.squared, of_place.gap)
                    rows.append([rung, name, spoken, f"{of_place.num:,}", *map(number_text, numbers), of_place.explained.text()])
    note = "Values before the head was told of the rollout. Gap: between value and share that passed, mean over ten bins. Variance explained: t interval over runs."
    return Table("Is the head right?", rows, note)


def forms_table(found: Found) -> Table:
    """Closed forms beside what was measured."""
    rows = [["start", "arm", "closed form", "measured"]]
    for rung in found.rungs:
        forms = [predicted_factors(run, HALF) for run in found.stops_of(rung, "plain")]
        for arm in ("first_error", "low_value", "baseline"):
            if arm in found.arms(rung):
                expected = over_seeds([form[arm] for form in forms]).mean
                rows.append([rung, SPOKEN[arm], number_text(expected), found.factor(rung, arm, HALF).text()])
    return Table("What the closed forms say", rows, f"{HALF.name[0].upper()}{HALF.name[1:]}. Of the low value: at best.")


def value_study(found: Found, command: str) -> Study:
    """The page of the value function."""
    claims, table = claims_of(found), factors_table(found, "What a value function saves", "arm", NOTE)
    rungs = [rung for rung in found.rungs if has_enough(found, rung, "plain", "low_value", "first_error")]
    said = {arm: " and ".join(f"{found.factor(rung, arm, HALF).text()} at {rung}" for rung in rungs) for arm in SPOKEN}
    return Study(
        title="Does a value function pay?",
        question="How many FLOPs does it save to end rollouts that will not pass, until a held-out target is reached and kept?",
        answer=f"FLOPs of plain GRPO over those with an end, half of the bits: by the learned value {said['low_value']}; at the first error, by the verifier, {said['first_error']}.",
        main=factors_picture(found, "What does a value function save?"),
        table=table,
        terminal=[narrow(table)],
        how_to_read=HOW_TO_READ,
        provenance=f"{len(found.runs)} runs. Made by: {command}",
        headlines=[
            Headline(
                found.factor(rung, "low_value", HALF).text(),
                f"times the FLOPs saved, {rung}",
                f"p = {number_text(found.pass_rate(rung))}",
            )
            for rung in rungs
        ],
        sentences=[
            claim.sentence("pretraining seeds")
            for claim in claims
            if "FLOPs of" in claim.statistic and not claim.verdict.startswith("undecided")
        ],
        claims=claims,
        tables=[forms_table(found), ends_table(found), calibration_table(found), settings_table(found, "arm")],
        pictures=[
            Picture(
                "reliability",
                "Is the head right?",
                lambda: reliability_figure(found),
                "Rollouts of runs in which nothing was ended; the head had not been told of them. A mark's area is its share of the rollouts.",
            ),
            Picture(
                "learning_curves",
                "How does the target come?",
                lambda: curves_figure(found, list(SPOKEN), "training GFLOP"),
                "Medians over runs; the shares of the bits that are targets are read off single runs.",
            ),
        ],
        results={"factors": found.factor_fields()},
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        pack_prices(read_prices(sys.argv[2:-1]), Path(sys.argv[-1]))
        pack_stops(read_stops(sys.argv[2:-1]), Path(sys.argv[-1]))
    else:
        report(value_study, prog="python -m eval.studies.value_function", description=__doc__.splitlines()[0], read=read)
