"""Does what is absorbed follow what is offered? `python -m eval.studies.observation FOLDER...` makes the page of the runs in the folders.

Question, statistics and thresholds are in README.md. `python -m eval.studies.observation pack FOLDER... RECORD` writes the runs into the files of a record.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import number_text, over_seeds
from bitsample_llm.report.paths import pack_paths, path_factor, path_prices, read_paths
from bitsample_llm.report.prices import HALF, pack_prices, read_prices
from bitsample_llm.report.remedies import price_text
from bitsample_llm.report.remedy_runs import HOW_TO_READ, factors_picture, factors_table, narrow, settings_table
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.observation.claims import (
    MATCHED,
    PLAIN_OF,
    ROW,
    SPOKEN,
    Found,
    claims_of,
    end_gains,
    predicted_factor,
)
from eval.studies.observation.pictures import bits_figure, flops_figure, path_figure

OFFERED_FILE = "offered.jsonl"  # of make_offered.py, in one of the folders
NOTE = "Factor: FLOPs of plain GRPO over those of the arm."


def read(folders: Sequence[str]) -> Found:
    """The runs in the folders, and what is offered."""
    files = [file for folder in folders if (file := Path(folder) / OFFERED_FILE).is_file()]
    lines = [json.loads(line) for file in files[:1] for line in file.read_text().splitlines()]
    offered = {(line["rung"], line["model"]): line for line in lines}
    return Found(read_prices(folders), SPOKEN, PLAIN_OF, paths=read_paths(folders), offered=offered)


def offered_table(found: Found) -> Table:
    """What one rollout offers."""
    rows = [["start", "told", "bits, right answer given", "bits, by the policy's own belief"]]
    for rung in found.rungs:
        rows += [[rung, SPOKEN[arm], *(number_text(found.bits(rung, arm, how)) for how in ("essay", "belief"))] for arm in ROW]
    note = "Mean over 128 held-out problems and the models of a start, before training. By belief none tells more than the next; with the right answer given that need not be."
    return Table("What one rollout offers", rows, note)


def path_table(found: Found) -> Table:
    """How far the optimizer went, and what that predicts."""
    rows = [
        [
            "start",
            "told",
            "rate x live updates to half of the bits",
            "over the verdict's in groups of two",
            "factor if paths were equal",
            "factor",
            "KL to the start there, bits",
        ]
    ]
    for rung in found.rungs:
        for arm in found.arms(rung):
            prices, saved = path_prices(found, rung, arm), path_factor(found, rung, arm, MATCHED)
            inverse = 1 / saved.estimate.mean if saved.estimate.mean else None
            kept = [(run, run.kept_at(HALF)) for run in found.of(rung, arm)]
            kl = over_seeds([run.kl_bits[place] for run, place in kept if place is not None]).mean
            form = (
                ""
                if arm.startswith("verdict") or "reply" in arm or "same_rate" in arm or MATCHED not in found.arms(rung)
                else number_text(predicted_factor(found, rung, arm))
            )
            rows.append(
                [
                    rung,
                    SPOKEN[arm],
                    price_text(prices, 1.0),
                    number_text(inverse),
                    form,
                    found.factor(rung, arm, HALF, MATCHED).text(),
                    number_text(kl),
                ]
            )
    return Table(
        "Bits and the optimizer's path",
        rows,
        f"A live update is one that a forward pass was made for. Factors against {SPOKEN[MATCHED]}: the same batch and rate.",
    )


def ends_table(found: Found) -> Table:
    """What the whole budget gained."""
    rows = [["start", "told", "runs", "GFLOP", "p before", "p in the end", "bits gained", "live updates"]]
    for rung in found.rungs:
        for arm in found.arms(rung):
            runs = found.of(rung, arm)
            ends = [number_text(float(np.mean([run.flops[-1] for run in runs])) / 1e9), number_text(found.pass_rate(rung))]
            ends += [
                over_seeds([run.pass_rate[-1] for run in runs]).text(),
                over_seeds(list(end_gains(found, rung, arm, True).values())).text(),
            ]
            rows.append(
                [
                    rung,
                    SPOKEN[arm],
                    str(len(runs)),
                    *ends,
                    number_text(float(np.mean([found.path(run).live_updates[-1] for run in runs]))),
                ]
            )
    note = "Runs that had kept every target ended there, others at the budget. Brackets: t interval over runs. A run that diverged counts as 20 bits."
    return Table("The end of the runs", rows, note)


def observation_study(found: Found, command: str) -> Study:
    """The page of observations."""
    claims, table = claims_of(found), factors_table(found, "What ever more telling saves", "told", NOTE)
    rungs = found.latent.rungs
    said = [
        f"{SPOKEN[arm]} offers {number_text(found.bits(rung, arm) / found.bits(rung, 'verdict'))} times the verdict's bits and takes {found.factor(rung, arm, HALF).text()} times fewer FLOPs"
        for rung in rungs
        for arm in ROW[1:]
        if arm in found.arms(rung)
    ]
    return Study(
        title="Does what is absorbed follow what is offered?",
        question="The same rollouts, told ever more: how many FLOPs does a target take that is reached and kept?",
        answer=f"To half of the bits: {'; '.join(said)}.",
        main=Picture(
            "bits",
            "Do FLOPs fall as offered bits rise?",
            lambda: bits_figure(found),
            "On the line twice the bits halve the FLOPs. Dashes: if all arms took the same path of the optimizer.",
        ),
        table=table,
        terminal=[narrow(table)],
        how_to_read=HOW_TO_READ,
        provenance=f"{len(found.runs)} runs. Made by: {command}",
        headlines=[
            Headline(
                found.factor(rung, "place_and_digit", HALF).text(), f"factor of {SPOKEN['place_and_digit']}, {rung}", HALF.name
            )
            for rung in rungs
        ],
        sentences=[claim.sentence("pretraining seeds") for claim in claims if not claim.verdict.startswith("undecided")][:6],
        claims=claims,
        tables=[offered_table(found), path_table(found), ends_table(found), settings_table(found, "told")],
        pictures=[
            factors_picture(found.latent, "What does it save to be told more?"),
            Picture("flops", "The same gain against FLOPs", lambda: flops_figure(found), "Medians over runs."),
            Picture(
                "path",
                "The same gain against the optimizer's path",
                lambda: path_figure(found),
                "Where the curves lie on each other, it is the number of live updates that counts, and not what each of them was told.",
            ),
        ],
        results={
            "factors": found.factor_fields(),
            "offered": {f"{rung} {model}": told for (rung, model), told in found.offered.items()},
        },
    )


def pack(folders: Sequence[str], record: Path) -> None:
    """Write the runs and what is offered into a record."""
    found = read(folders)
    pack_prices(found.runs, record)
    pack_paths(found.paths, record)
    (record / OFFERED_FILE).write_text("".join(json.dumps(line) + "\n" for line in found.offered.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        pack(sys.argv[2:-1], Path(sys.argv[-1]))
    else:
        report(observation_study, prog="python -m eval.studies.observation", description=__doc__.splitlines()[0], read=read)
