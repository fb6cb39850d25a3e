"""Does raising the pass rate before the reward pay? `python -m eval.studies.inference_scaling FOLDER...` makes the page of the runs in the folders; plain runs are those of the record of prices.

Question, statistics and thresholds are in README.md. A folder may hold `ages.jsonl`, `votes.jsonl` and `worked.jsonl` too. `python -m eval.studies.inference_scaling pack FOLDER... RECORD` writes the runs that the page
is of into a Parquet file of a record, those from ages of pretraining into one in its folder `ages`; `pack_worked FOLDER FILE` those of part D into a file of curves.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitsample_llm.information import binary_entropy_bits
from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import UNMEASURED, number_text
from bitsample_llm.report.prices import HALF, pack_prices, read_prices
from bitsample_llm.report.remedy_runs import HOW_TO_READ, RemedyRuns, factors_picture, factors_table, narrow, settings_table
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.inference_scaling.claims import (
    AGE_TARGETS,
    PLAIN_OF,
    SPOKEN,
    SPOKEN_AT_AGES,
    STARTS,
    VOTES,
    Found,
    age_rows,
    bits_per_flop,
    pays,
    read_lines,
    remedy_claims,
)
from eval.studies.inference_scaling.pictures import ages_figure
from eval.studies.inference_scaling.worked import FILE, pack, worked_claims, worked_table

NOTE = "Factor: FLOPs of plain GRPO over those of the arm. Plain GRPO, SFT on passes and on labels: runs of the record of prices."


def read(paths: Sequence[str]) -> Found:
    """The runs in the folders, and what the folders hold beside them."""
    folders = list(map(Path, paths))
    beside = [[row for folder in folders for row in read_lines(folder / name)] for name in ("ages.jsonl", "votes.jsonl", FILE)]
    runs = read_prices(folders)
    remedies = [run for run in runs if run.model in STARTS.get(run.rung, ()) and run.arm in SPOKEN]
    of_ages = [run for run in runs if run.rung.startswith("unacquired") and run.arm in SPOKEN_AT_AGES]
    return Found(RemedyRuns(remedies, SPOKEN, PLAIN_OF), of_ages, *beside)


def votes_table(found: Found) -> Table:
    """What a vote offers: closed form, and the model's own answers."""
    rows = [["start", "model", "vote", "P of a vote", "by own answers", "bits per rollout", "bits per rollout, plain"]]
    for line in found.votes:
        exact = np.array(line["exact"])
        for vote, form in VOTES.items():
            of_vote = form(exact)
            offered = [number_text(float(np.mean(binary_entropy_bits(p)) / n)) for p, n in ((of_vote, 4), (exact, 1))]
            measured = [number_text(float(of_vote.mean())), number_text(line[vote.partition("_")[0]])]
            rows.append([line["rung"], line["model"], SPOKEN[vote], *measured, *offered])
    note = "Exact pass rates of 64 held-out problems; own answers: 1,024 votes of four."
    return Table("What votes offer before training", rows, note)


def ages_table(found: Found) -> Table:
    """What each age pays for a target."""
    rows = [["target", "age", "arm", "GFLOP from there, by pretraining seed", "kept", "going on", "verdict"]]
    for target in AGE_TARGETS:
        of_target = age_rows(found, target)
        cells = sorted({(float(row["age"]), list(SPOKEN_AT_AGES).index(row["arm"]), row["age"], row["arm"]) for row in of_target})
        for *_, age, arm in cells:
            chosen = sorted((row for row in of_target if (row["age"], row["arm"]) == (age, arm)), key=lambda row: row["model"])
            paid = ", ".join(f"{'' if row['reached'] else '> '}{number_text(row['price'] / 1e9)}" for row in chosen)
            on = ", ".join(UNMEASURED if row["on"] is None else number_text(row["on"] / 1e9) for row in chosen)
            kept = f"{sum(row['kept'] for row in chosen)} of {len(chosen)}"
            verdict = pays([row for row in chosen if row["on"] is not None])
            rows.append([target.name, age, SPOKEN_AT_AGES[arm], paid, kept, on, verdict])
    note = "In the order of the pretraining seeds. Not lost again until the run ends; after > it is not there at the end. Kept: for three times its FLOPs. The verdict is of those seeds whose going on was measured."
    return Table("From which age is training cheaper than going on with pretraining?", rows, note)


def bits_table(found: Found) -> Table:
    """What GRPO absorbs per FLOP at each age."""
    eta, heading = (
        bits_per_flop(found),
        ["pretraining seed", "age", "pretraining TFLOP", "bits per PFLOP, pretraining charged", "without"],
    )
    starts = {(row["model"], row["age"]): row["flops"] for row in found.checkpoints}
    rows = [
        [model, age, number_text(starts[model, age] / 1e12), *(number_text(value * 1e15) for value in eta[model, age])]
        for model, age in sorted(eta, key=lambda key: (key[0], float(key[1])))
    ]
    return Table("What GRPO absorbs in 300 GFLOP at each age", [heading, *rows])


def inference_scaling_study(found: Found, command: str) -> Study:
    """The page."""
    remedies = found.remedies
    claims = [*remedy_claims(remedies), *worked_claims(found.worked)]
    saved = {(rung, arm): remedies.factor(rung, arm, HALF).text() for rung in remedies.rungs for arm in remedies.arms(rung)}
    said = [f"{SPOKEN[arm]} {text} ({rung})" for (rung, arm), text in saved.items() if arm in (*VOTES, "distil_A", "better_C")]
    table = factors_table(remedies, "What raising the pass rate by inference saves", "arm", NOTE)
    made = [(found.votes, votes_table), (found.checkpoints, ages_table), (found.checkpoints, bits_table)]
    worked = [worked_table(found.worked)] if found.worked else []
    of_ages = Picture(
        "ages",
        "Is there an age from which training is cheaper than going on with pretraining?",
        lambda: ages_figure(found),
        "Open marks: not there at the end of the run, the price lies above. A point is a pretraining seed.",
    )
    return Study(
        title="Does raising the pass rate before the reward make RL cheaper?",
        question="How many FLOPs do a better prompt, votes, worked steps and more pretraining save until a target is reached and kept?",
        answer=f"FLOPs of plain GRPO over those of the arm, to half of the bits: {'; '.join(said)}.",
        main=factors_picture(remedies, "What do a better prompt and votes save?"),
        table=table,
        terminal=[narrow(table)],
        how_to_read=HOW_TO_READ,
        provenance=f"{len(remedies.runs)} runs of remedies, {len(found.of_ages)} from ages of pretraining. Made by: {command}",
        headlines=[
            Headline(text, f"times fewer FLOPs, {SPOKEN[arm]}", rung)
            for (rung, arm), text in saved.items()
            if arm in ("distil_A", "best_of_4")
        ][:3],
        sentences=[claim.sentence("pretraining seeds") for claim in claims if not claim.verdict.startswith("undecided")][:6],
        claims=claims,
        tables=[*(table_of(found) for rows, table_of in made if rows), *worked, settings_table(remedies, "arm")],
        pictures=[of_ages] if found.checkpoints else [],
        results={
            "factors": remedies.factor_fields(),
            "ages": {target.name: age_rows(found, target) for target in AGE_TARGETS},
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        found = read(sys.argv[2:-1])
        pack_prices(found.remedies.runs, Path(sys.argv[-1]))
        pack_prices(found.of_ages, Path(sys.argv[-1]) / "ages")
    elif sys.argv[1:2] == ["pack_worked"]:
        pack(*map(Path, sys.argv[2:]))
    else:
        report(
            inference_scaling_study, prog="python -m eval.studies.inference_scaling", description=__doc__.splitlines()[0], read=read
        )
