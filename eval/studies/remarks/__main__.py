"""What is told, or how it is learned? `python -m eval.studies.remarks FOLDER...` makes the page of the runs in the folders.

Question, statistics and thresholds are in README.md. `python -m eval.studies.remarks pack FOLDER... RECORD` writes the runs into the files of a record.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import UNMEASURED, number_text, over_seeds
from bitsample_llm.report.paths import pack_paths, path_factor, path_prices, read_paths
from bitsample_llm.report.prices import HALF, pack_prices, read_prices
from bitsample_llm.report.remedies import price_text
from bitsample_llm.report.remedy_runs import HOW_TO_READ, curves_figure, factors_picture, factors_table, narrow, settings_table
from bitsample_llm.report.study import Picture, Study, Table
from eval.studies.remarks.claims import BY_LABEL, IN_CONTEXT, KINDS, MATCHED, NOW, PLAIN_OF, SAID, SHOWN, SPOKEN, Found, claims_of

TOLD_FILE = "told.jsonl"  # of make_told.py, in one of the folders
PATH_SCALE = 1e12  # the curves' axis is in billions: thousandths of rate x updates
TARGETS = (HALF,)  # runs end once it was kept


def read(folders: Sequence[str]) -> Found:
    """The runs in the folders, and what remarks tell at their starts."""
    files = [file for folder in folders if (file := Path(folder) / TOLD_FILE).is_file()]
    told = [json.loads(line) for file in files[:1] for line in file.read_text().splitlines()]
    return Found(read_prices(folders), SPOKEN, PLAIN_OF, paths=read_paths(folders), told=told)


def told_table(found: Found) -> Table:
    """Whether the starts read remarks, and what they tell."""
    columns = ("offered", "ideal", "in_context", "at_error")
    rows = [
        [
            "start",
            "model",
            "remark",
            "p of the right answer, bare",
            "after a fail and the remark",
            "offered bits",
            "read by a perfect reader",
            "read by the model",
            "at the first error",
        ]
    ]
    for line in found.told:
        for kind in KINDS:
            of_kind = line["remarks"][kind] | {"offered": line["offered"][kind]}
            rows.append(
                [
                    line["rung"],
                    line["model"],
                    SAID[kind],
                    *map(number_text, (line["bare"], of_kind["p_right"], *(of_kind[name] for name in columns))),
                ]
            )
    return Table(
        "What a remark tells",
        rows,
        "Means over the starts' own rollouts, before training. Bits read: divergence of the prediction after the remark from the bare one, summed over the rollout's tokens.",
    )


def path_table(found: Found) -> Table:
    """How far the optimizer went until half of the bits, and where the run ended."""
    rows = [
        [
            "start",
            "told",
            "rate x live updates to half of the bits",
            f"path of {SPOKEN[MATCHED]} over that",
            "bits gained in the end",
        ]
    ]
    for rung in found.rungs:
        for arm in found.arms(rung):
            gained = over_seeds([max(run.log2_p[-1], -20.0) - run.log2_p[0] for run in found.of(rung, arm)])
            over = path_factor(found, rung, arm, MATCHED).text() if arm != MATCHED else "1"
            rows.append([rung, SPOKEN[arm], price_text(path_prices(found, rung, arm), 1.0), over, gained.text()])
    return Table("The optimizer's path", rows)


def ways_table(found: Found) -> Table:
    """The same told, learned in two ways, and ever more told, learned in one."""

    def ratio(rung: str, arm: str, other: str | None) -> str:
        return found.factor(rung, arm, HALF, other).text() if {arm, other} <= set(found.arms(rung)) else UNMEASURED

    rows = [
        ["start", "told", "bits read", "FLOPs of reward or label over those of reading", "FLOPs of reading one less over those"]
    ]
    for rung in found.rungs:
        for kind, less in zip(KINDS, (None, *KINDS), strict=False):
            for arm, of_less in (
                (IN_CONTEXT[kind], IN_CONTEXT.get(less)),
                (IN_CONTEXT[kind] + NOW, f"{IN_CONTEXT.get(less)}{NOW}"),
            ):
                rows.append(
                    [
                        rung,
                        SPOKEN[arm],
                        number_text(found.bits(rung, kind)),
                        ratio(rung, arm, BY_LABEL[kind]),
                        ratio(rung, arm, of_less),
                    ]
                )
    return Table("What is told, and how it is learned", rows)


def remarks_study(found: Found, command: str) -> Study:
    """The page of remarks."""
    claims, table = (
        claims_of(found),
        factors_table(found, "What remarks save", "told", "Factor: FLOPs of tuned plain GRPO over those of the arm.", TARGETS),
    )
    lengths = [[PATH_SCALE * run.settings["learning_rate"] * live for live in found.path(run).live_updates] for run in found.runs]
    along = replace(found, runs=[replace(run, flops=of_run) for run, of_run in zip(found.runs, lengths, strict=True)])
    said = [
        f"{SPOKEN[arm]}: {found.factor(rung, arm, HALF).text()}"
        for rung in found.rungs
        for arm in found.arms(rung)
        if not found.is_plain(arm)
    ]
    return Study(
        title="What is told, or how it is learned?",
        question="A remark on each rollout in the context of the policy as its own teacher: do FLOPs fall as the remark tells more?",
        answer=f"Times fewer FLOPs than plain GRPO to half of the bits: {'; '.join(said)}.",
        main=Picture(
            "flops",
            "The same gain against FLOPs",
            lambda: curves_figure(found, SHOWN, "training GFLOP"),
            "Medians over runs.",
        ),
        table=table,
        terminal=[narrow(table)],
        how_to_read=HOW_TO_READ,
        provenance=f"{len(found.runs)} runs. Made by: {command}",
        sentences=[claim.sentence("pretraining seeds") for claim in claims if not claim.verdict.startswith("undecided")][:6],
        claims=claims,
        tables=[told_table(found), ways_table(found), path_table(found), settings_table(found, "told")],
        pictures=[
            factors_picture(found, "What does it save to be told more?", TARGETS),
            Picture(
                "path",
                "The same gain against the optimizer's path",
                lambda: curves_figure(along, SHOWN, "learning rate x live updates (thousandths)"),
                "Medians over runs.",
            ),
        ],
        results={"factors": found.factor_fields(), "told": found.told},
    )


def pack(folders: Sequence[str], record: Path) -> None:
    """Write the runs and what remarks tell into a record."""
    found = read(folders)
    pack_prices(found.runs, record)
    pack_paths(found.paths, record)
    (record / TOLD_FILE).write_text("".join(json.dumps(line) + "\n" for line in found.told))


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        pack(sys.argv[2:-1], Path(sys.argv[-1]))
    else:
        report(remarks_study, prog="python -m eval.studies.remarks", description=__doc__.splitlines()[0], read=read)
