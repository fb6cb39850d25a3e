"""And on a really pretrained model? `python -m eval.studies.pretrained FOLDER` makes the page of the runs in FOLDER.

Question, statistics and thresholds are in README.md. `python -m eval.studies.pretrained pack FOLDER RECORD` writes the runs into Parquet files of a record, whose folder is then what the page is made of.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from bitsample_llm.records import RecordError
from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import number_text, over_seeds
from bitsample_llm.report.gains import pack_lines, read_lines, rungs_of
from bitsample_llm.report.prices import HALF, PACKED, pack_prices, read_prices
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.pretrained.claims import (
    SPOKEN,
    Found,
    best_gain_bits,
    claims_of,
    gain_bits,
    label_shares,
    text_loss,
    text_loss_per_bit,
)
from eval.studies.pretrained.pictures import curves_figure, shares_figure

COMPUTE_LIMITED, DATA_LIMITED = ("compute", "compute_more"), "samples"  # folders of runs
GIGA, TERA = 1e9, 1e12
HOW_TO_READ = "p is the exact probability of the right answer. A target counts once it is kept until three times its FLOPs were spent. Brackets: 95 % t interval over training seeds of one model; what another pretrained model would do they do not say."


def priced_parts(folder: Path) -> list[Path]:
    """Where the compute-limited runs are; of a record in the folder itself. A RecordError where there are none."""
    parts = [folder / name for name in COMPUTE_LIMITED if (folder / name).is_dir()]
    if not parts and not (folder / PACKED).is_file():
        raise RecordError(
            f"{folder} holds neither {' nor '.join(COMPUTE_LIMITED)}, the folders of runs: make pretrained makes them"
        )
    return parts or [folder]


def read(paths: Sequence[str]) -> Found:
    """The runs in one folder."""
    folder = Path(paths[0])
    rungs = rungs_of(read_lines([folder / DATA_LIMITED])) if (folder / DATA_LIMITED).is_dir() else []
    return Found.of(read_prices(priced_parts(folder)), rungs)


def pack(folder: Path, record: Path) -> None:
    """Write the runs of a folder for a record."""
    pack_prices(read_prices(priced_parts(folder)), record)
    if (folder / DATA_LIMITED).is_dir():
        pack_lines(folder / DATA_LIMITED, record / DATA_LIMITED)


def arms_table(found: Found) -> Table:
    """What each arm pays for each target."""
    rows = [["arm", *(f"TFLOP to {target.name}" for target in found.targets), f"over SFT, {HALF.name}", f"samples to {HALF.name}"]]
    for arm in found.arms:
        prices: list[str] = []
        for target in found.targets:
            text = found.price(arm, target).text(1 / TERA)
            prices.append(f"{text} ({found.num_reached(arm, target)})")
        ratio = "1" if arm == "sft" else found.over_sft(arm, HALF).text()
        rows.append([SPOKEN[arm], *prices, ratio, found.price(arm, HALF, "samples").text()])
    note = "From two digits under the bare prompt. Round brackets: runs that are known to have reached and kept it. A dash: not all of them are, so there is no price."
    return Table("What a kept target costs", rows, note)


def narrow(table: Table) -> Table:
    """The columns of the table of arms that fit a terminal."""
    return Table(table.title, [[row[0], row[1], row[-2]] for row in table.rows])


def amounts_table(found: Found) -> Table:
    """What half of the bits costs compared with SFT, by what is counted."""
    amounts = {"FLOPs that ran": "flops", "useful FLOPs": "useful_flops", "seconds here": "seconds", "samples": "samples"}
    rows = [["arm", *amounts]]
    for arm in found.arms:
        if not arm.startswith("sft"):
            rows.append([SPOKEN[arm], *(found.over_sft(arm, HALF, amount).text() for amount in amounts.values())])
    note = "Price over that of SFT with the same seed. Useful: without padding, and with a prompt put in once for its group. Two runs shared the machine."
    return Table("Times SFT, to half of the bits, by what is counted", rows, note)


def end_table(found: Found) -> Table:
    """Where the runs of each arm end, and what became of plain English."""
    rows = [
        [
            "arm",
            "TFLOP spent",
            "updates",
            "rate × updates",
            "bits gained, by the first update",
            "in the end",
            "at the best evaluation",
            "p at the end",
            "KL to the start (bits)",
            "plain English: bits per token lost",
            "the same per bit gained",
        ]
    ]
    for arm, runs in found.arms.items():

        def text(value_of, arm=arm) -> str:
            return found.by_seed(arm, value_of).text()

        rows.append(
            [
                SPOKEN[arm],
                number_text(over_seeds([run.flops[-1] for run in runs.values()]).mean / TERA),
                text(lambda run: run.updates[-1]),
                text(lambda run: run.updates[-1] * run.settings["learning_rate"]),
                text(lambda run: run.log2_p[1] - run.log2_p[0] if run.updates[1] == 1 else None),
                text(gain_bits),
                text(best_gain_bits),
                text(lambda run: run.pass_rate[-1]),
                text(lambda run: run.kl_bits[-1]),
                text(text_loss),
                text(text_loss_per_bit),
            ]
        )
    return Table("In the end", rows)


def samples_table(found: Found) -> Table:
    """What few samples teach at each start."""
    sizes = sorted({n for rung in found.rungs.values() for n in rung.sizes("labels")})
    rows = [
        ["start", "p", "bits available", *(f"{n} label{'s' * (n > 1)}" for n in sizes), "wrong labels", "passes among n rollouts"]
    ]
    for name, rung in found.rungs.items():
        shares = [label_shares(rung, "labels", n).text() for n in sizes]
        wrong = [f"{n}: {label_shares(rung, 'wrong_labels', n).text()}" for n in rung.sizes("wrong_labels")]
        passes = []
        for n in rung.sizes("passes"):
            num = number_text(over_seeds([run.num_trained for run in rung.runs["passes", n]]).mean)
            passes.append(f"{n} ({num} passes): {number_text(label_shares(rung, 'passes', n).mean)}")
        bits = number_text(sum(rung.available_bits.values()) / len(rung.available_bits))
        rows.append([name, number_text(rung.mean_pass_rate), bits, *shares, "; ".join(wrong) or "–", "; ".join(passes)])
    note = "Share of the available held-out bits, at the rate and number of updates that a tuning seed of that start chose; at most 8 updates."
    return Table("What few samples teach", rows, note)


def settings_table(found: Found) -> Table:
    """The setting of each arm."""
    shown = {"learning rate": "learning_rate", "samples per update": "per_device_train_batch_size", "group size": "num_generations"}
    rows = [["arm", *shown]]
    for arm, runs in found.arms.items():
        settings = next(iter(runs.values())).settings
        rows.append([SPOKEN[arm], *(f"{settings[key]:g}" if key in settings else "–" for key in shown.values())])
    return Table("Settings", rows)


def pretrained_study(found: Found, command: str) -> Study:
    """The page of the real model."""
    claims = claims_of(found)
    ratio = found.over_sft("grpo", HALF) if "grpo" in found.arms else None
    first = next(iter(next(iter(found.arms.values())).values()))
    answer = f"From p = {number_text(first.pass_rate[0])}, half of the {number_text(first.available_bits)} bits"
    if ratio is not None and ratio.mean is not None:
        answer += f" cost GRPO {ratio.text()} times the FLOPs of SFT"
    else:
        answer += (
            f" were reached and kept by {found.num_reached('grpo', HALF)} runs of GRPO and {found.num_reached('sft', HALF)} of SFT"
        )
    tables = [amounts_table(found), end_table(found), *([samples_table(found)] if found.rungs else []), settings_table(found)]
    rate = found.over_sft("grpo", HALF, "samples") if "grpo" in found.arms else None
    headlines = [
        Headline(
            found.price(arm, HALF).text(1 / GIGA),
            f"GFLOP to half of the bits by {SPOKEN[arm]}",
            f"n = {len(found.arms[arm])} seeds",
        )
        for arm in ("sft", "grpo")
        if arm in found.arms
    ]
    if rate is not None and rate.mean is not None:
        headlines.append(Headline(rate.text(), "rollouts of GRPO per label", f"1/p is {number_text(1 / first.pass_rate[0])}"))
    return Study(
        title="And on a really pretrained model?",
        question="SmolLM2-135M-Instruct on sums of two digits: what does a label buy, and what does a rollout?",
        answer=f"{answer}.",
        main=Picture(
            "learning_curves",
            "What does a FLOP buy on a real model?",
            lambda: curves_figure(found),
            "A line per seed. The arrow is the ratio of the prices of half of the bits, GRPO over SFT. Dashed grey: the same weights, untrained, after four solved problems.",
        ),
        table=arms_table(found),
        terminal=[narrow(arms_table(found))],
        how_to_read=HOW_TO_READ,
        provenance=f"{sum(map(len, found.arms.values()))} runs of the main start. Made by: {command}",
        headlines=headlines,
        sentences=[claim.sentence() for claim in claims if not claim.verdict.startswith("undecided")][:5],
        claims=claims,
        tables=tables,
        pictures=[
            Picture(
                "few_samples",
                "What do few samples teach?",
                lambda: shares_figure(found),
                "Small points are seeds, lines their means. Right: n rollouts drawn once from the start; SFT on those that passed.",
            )
        ]
        if found.rungs
        else [],
        results={
            "prices": {arm: {target.name: found.price(arm, target).fields() for target in found.targets} for arm in found.arms},
            "over_sft": {
                arm: {
                    target.name: {amount: found.over_sft(arm, target, amount).fields() for amount in ("flops", "samples")}
                    for target in found.targets
                }
                for arm in found.arms
                if arm != "sft"
            },
            "pass_rate": first.pass_rate[0],
            "available_bits": first.available_bits,
            "samples": {
                name: {
                    "pass_rate": rung.mean_pass_rate,
                    **{
                        arm: {str(n): label_shares(rung, arm, n).fields() for n in rung.sizes(arm)}
                        for arm in ("labels", "wrong_labels", "passes")
                    },
                }
                for name, rung in found.rungs.items()
            },
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        pack(*map(Path, sys.argv[2:4]))
    else:
        report(pretrained_study, prog="python -m eval.studies.pretrained", description=__doc__.splitlines()[0], read=read)
