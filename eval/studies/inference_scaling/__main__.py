"""Does raising the pass rate before the reward pay? `python -m eval.studies.inference_scaling FOLDER...` makes the page of the runs in the folders; the record of prices is one of them.

Question, statistics and thresholds are in README.md. A folder may hold `ages.jsonl`, `votes.jsonl` and `worked.jsonl` too. `python -m eval.studies.inference_scaling pack FOLDER... RECORD` writes the runs into one Parquet
file of a record, `pack_worked FOLDER FILE` those of part D into a file of curves.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitsample_llm.information import binary_entropy_bits
from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import UNMEASURED, number_text
from bitsample_llm.report.prices import HALF, NINE_TENTHS, pack_prices, read_prices
from bitsample_llm.report.remedies import price_text, prices_of
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.inference_scaling.claims import (
    AGE_TARGETS,
    RL,
    SPOKEN,
    VOTES,
    Found,
    age_rows,
    bits_per_flop,
    pays,
    read_lines,
    remedy_claims,
)
from eval.studies.inference_scaling.pictures import ages_figure, factors_figure
from eval.studies.inference_scaling.worked import FILE, pack, worked_claims, worked_table

GIGA = 1e-9
HOW_TO_READ = (
    "A remedy factor above 1 says that the remedy saves FLOPs, all that it costs included. A target counts once it is kept until three times its FLOPs were spent. "
    "Brackets: 95 % bootstrap over pretraining seeds and training seeds. Plain GRPO, rejection and labels: runs of the record of prices."
)


def read(paths: Sequence[str]) -> Found:
    """The runs in the folders, and what the folders hold beside them."""
    folders = list(map(Path, paths))
    beside = [[row for folder in folders for row in read_lines(folder / name)] for name in ("ages.jsonl", "votes.jsonl", FILE)]
    return Found(read_prices(folders), *beside)


def factors_table(found: Found) -> Table:
    """What each arm pays and saves."""
    rows = [["start", "arm", *(text for target in (HALF, NINE_TENTHS) for text in (f"GFLOP to {target.name}", "kept", "factor"))]]
    for rung in found.rungs:
        for arm in (arm for arm in found.arms(rung) if arm not in RL[1:]):
            row = [rung, SPOKEN[arm]]
            for target in (HALF, NINE_TENTHS):
                prices = prices_of(found.runs, rung, arm, target)
                saved = "1" if arm == "grpo" else found.factor(rung, arm, target).text()
                row += [price_text(prices, GIGA), prices.kept_text(), saved]
            rows.append(row)
    return Table(
        "What raising the pass rate by inference saves",
        rows,
        "Factor: FLOPs of plain GRPO over those of the arm. After > or <: one of the two has no price.",
    )


def votes_table(found: Found) -> Table:
    """What a vote offers: closed form, and the model's own answers."""
    rows = [["start", "model", "vote", "P of a vote", "by own answers", "bits per rollout", "bits per rollout, plain"]]
    for line in found.votes:
        exact = np.array(line["exact"])
        for vote, form in VOTES.items():
            of_vote = form(exact)
            offered = [number_text(float(np.mean(binary_entropy_bits(p)) / n)) for p, n in ((of_vote, 4), (exact, 1))]
            rows.append(
                [
                    line["rung"],
                    line["model"],
                    SPOKEN[vote],
                    number_text(float(of_vote.mean())),
                    number_text(line[vote.partition("_")[0]]),
                    *offered,
                ]
            )
    return Table(
        "What votes offer before training", rows, "Exact pass rates of 64 held-out problems; own answers: 1,024 votes of four."
    )


def ages_table(found: Found) -> Table:
    """What each age pays for a target."""
    rows = [["target", "age", "arm", "GFLOP from there, by pretraining seed", "kept", "going on", "verdict"]]
    for target in AGE_TARGETS:
        of_target = age_rows(found, target)
        for age, arm in sorted(
            {(row["age"], row["arm"]) for row in of_target}, key=lambda key: (float(key[0]), key[1] != "sft", key[1])
        ):
            chosen = sorted((row for row in of_target if (row["age"], row["arm"]) == (age, arm)), key=lambda row: row["model"])
            paid = ", ".join(f"{'' if row['reached'] else '> '}{number_text(row['price'] * GIGA)}" for row in chosen)
            on = ", ".join(UNMEASURED if row["on"] is None else number_text(row["on"] * GIGA) for row in chosen)
            kept = f"{sum(row['kept'] for row in chosen)} of {len(chosen)}"
            rows.append([target.name, age, SPOKEN[arm], paid, kept, on, pays([row for row in chosen if row["on"] is not None])])
    return Table(
        "From which age does training pay, compared with going on with pretraining?",
        rows,
        "In the order of the pretraining seeds. Not lost again until the run ends; after > it is not there at the end. Kept: for three times its FLOPs. The verdict is of those seeds whose going on was measured.",
    )


def totals_table(found: Found) -> Table:
    """Pretraining and training together, and what GRPO absorbs per FLOP."""
    eta, rows = (
        bits_per_flop(found),
        [["pretraining seed", "age", "pretraining TFLOP", "bits per PFLOP of GRPO, pretraining charged", "without"]],
    )
    starts = {(row["model"], row["age"]): row["flops"] for row in found.checkpoints}
    for model, age in sorted(eta, key=lambda key: (key[0], float(key[1]))):
        rows.append([model, age, number_text(starts[model, age] / 1e12), *(number_text(value * 1e15) for value in eta[model, age])])
    return Table("What GRPO absorbs in 300 GFLOP at each age", rows)


def inference_scaling_study(found: Found, command: str) -> Study:
    """The page."""
    claims, rungs = [*remedy_claims(found), *worked_claims(found.worked)], found.rungs
    saved = {(rung, arm): found.factor(rung, arm, HALF).text() for rung in rungs for arm in found.arms(rung) if arm != "grpo"}
    said = [f"{SPOKEN[arm]} {text} ({rung})" for (rung, arm), text in saved.items() if arm in (*VOTES, "distil_A", "better_C")]
    tables = [(found.votes, votes_table), (found.checkpoints, ages_table), (found.checkpoints, totals_table)]
    pictures = [
        Picture(
            "ages",
            "Is there an age from which training is cheaper than going on with pretraining?",
            lambda: ages_figure(found),
            "Open triangles: not there at the end of the run, the price lies above. A point is a pretraining seed.",
        )
    ]
    return Study(
        title="Does raising the pass rate before the reward make RL cheaper?",
        question="How many FLOPs do a better prompt, votes, worked steps and more pretraining save until a target is reached and kept?",
        answer=f"FLOPs of plain GRPO over those of the arm, to half of the bits: {'; '.join(said)}.",
        main=Picture(
            "factors",
            "What do a better prompt and votes save?",
            lambda: factors_figure(found),
            "Right of the line the arm saves FLOPs. Open marks: a bound.",
        ),
        table=factors_table(found),
        how_to_read=HOW_TO_READ,
        provenance=f"{len(found.runs)} runs. Made by: {command}",
        headlines=[
            Headline(saved[key], f"times fewer FLOPs, {SPOKEN[key[1]]}", key[0])
            for key in saved
            if key[1] in ("distil_A", "best_of_4")
        ][:3],
        sentences=[claim.sentence("pretraining seeds") for claim in claims if not claim.verdict.startswith("undecided")][:6],
        claims=claims,
        tables=[*(table(found) for rows, table in tables if rows), *([worked_table(found.worked)] if found.worked else [])],
        pictures=pictures if found.checkpoints else [],
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
                    if arm != "grpo"
                }
                for rung in rungs
            },
            "ages": {target.name: age_rows(found, target) for target in AGE_TARGETS} if found.checkpoints else {},
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        pack_prices(read_prices(sys.argv[2:-1]), Path(sys.argv[-1]))
    elif sys.argv[1:2] == ["pack_worked"]:
        pack(*map(Path, sys.argv[2:]))
    else:
        report(
            inference_scaling_study, prog="python -m eval.studies.inference_scaling", description=__doc__.splitlines()[0], read=read
        )
