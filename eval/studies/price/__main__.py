"""What does a held-out target cost in FLOPs? `python -m eval.studies.price FOLDER...` makes the page of the runs in the folders.

Question, statistics and thresholds are in README.md. `python -m eval.studies.price pack FOLDER... RECORD` writes the runs into one Parquet file of a
record.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import UNMEASURED, number_text
from bitsample_llm.report.prices import HALF, NINE_TENTHS, TARGETS, PricedRun, Target, pack_prices, read_prices
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.price.cells import OTHER, RL, SGD, Cell, cells_of, form_errors, points_of, ratio
from eval.studies.price.claims import SPOKEN, claims_of
from eval.studies.price.pictures import exchange_figure, prices_figure

HOW_TO_READ = (
    "A target counts once it is kept until three times its FLOPs were spent. A price is the median over training seeds of one pretraining seed, runs that never got there "
    "included; the mean and its interval are over pretraining seeds. Every arm runs at the setting whose worst tuning seed was best."
)


def prices_table(cells: dict[tuple[str, str], Cell]) -> Table:
    """What each arm pays for each target."""
    rows = [["start", "p", "arm", "runs", *(f"{target.name} (GFLOP)" for target in TARGETS)]]
    for (rung, arm), cell in cells.items():
        prices = [cell.price_text(target, scale=1e-9) for target in TARGETS]
        rows.append([rung, number_text(cell.mean_pass_rate), arm, str(cell.num_runs), *prices])
    note = "Brackets: 95 % t interval over pretraining seeds. After >: not measured, since at a pretraining seed fewer than half of the runs got there; what they are known to have spent."
    return Table("What a kept target costs", rows, note)


def beside_table(cells: dict[tuple[str, str], Cell], target: Target) -> Table:
    """What stands beside each price: samples, updates, how far the optimizer and the policy went, and how prices scatter."""
    rows = [
        [
            "start",
            "arm",
            "got there",
            "samples",
            "updates",
            "rate × updates",
            "KL to the start (bits)",
            "variance of ln FLOPs, between / within pretraining seeds",
        ]
    ]
    for (rung, arm), cell in cells.items():
        if cell.has_before(target):
            continue
        reached = [(run, at) for runs in cell.runs.values() for run in runs if (at := run.kept_at(target)) is not None]
        kl = [run.kl_bits[at] for run, at in reached if run.kl_bits[at] is not None]
        updates = cell.prices(target, "updates")
        path = UNMEASURED if updates.mean is None else number_text(updates.mean * cell.first.settings["learning_rate"])
        between, within = (UNMEASURED if np.isnan(value) else number_text(value) for value in cell.variances(target))
        counts = [f"{len(reached)} of {cell.num_runs}", *(cell.price_text(target, amount) for amount in ("samples", "updates"))]
        rows.append([rung, arm, *counts, path, number_text(float(np.mean(kl))) if kl else UNMEASURED, f"{between} / {within}"])
    return Table(f"Beside the price of {target.name}", rows)


def settings_table(cells: dict[tuple[str, str], Cell]) -> Table:
    """The setting of each cell."""
    shown = {"learning rate": "learning_rate", "samples per update": "per_device_train_batch_size", "group size": "num_generations"}
    shown |= {"uses of a rollout": "num_iterations"}
    rows = [["start", "arm", *shown]]
    for (rung, arm), cell in cells.items():
        settings = cell.first.settings
        rows.append([rung, arm, *(f"{settings[key]:g}" if key in settings else UNMEASURED for key in shown.values())])
    return Table("Settings", rows)


def spread_table(cells: dict[tuple[str, str], Cell]) -> Table:
    """How pass rates are spread over problems, by start."""
    rows = [
        [
            "start",
            "pretraining seed",
            "mean p",
            "mean -log2 p (bits)",
            "standard deviation of log2 p (bits)",
            "quantiles of p: 10, 50, 90 %",
        ]
    ]
    for rung in dict.fromkeys(rung for rung, _ in cells):
        cell = next(cell for (other, _), cell in cells.items() if other == rung)
        for model in cell.runs:
            p = cell.p(model)
            quantiles = ", ".join(map(number_text, np.quantile(p, [0.1, 0.5, 0.9])))
            rows.append(
                [rung, model, *map(number_text, (float(p.mean()), float(-np.log2(p).mean()), float(np.log2(p).std()))), quantiles]
            )
    return Table("The starts", rows)


def ratios_table(
    cells: dict[tuple[str, str], Cell], targets: Sequence[Target] = (NINE_TENTHS, HALF), arms: Sequence[str] = RL
) -> Table:
    """FLOPs and samples of RL over those of SFT, of plain SGD over those of SFT by plain SGD."""
    rows = [
        [
            "start",
            "p",
            "arm",
            *(f"{what}, {target.name}" for target in targets for what in ("FLOPs over SFT's", "rollouts per label")),
        ]
    ]
    for (rung, arm), cell in cells.items():
        if arm in arms and (sft := cells.get((rung, "sft_sgd" if arm in SGD else "sft"))) is not None:
            found = [ratio(cell, sft, target, amount).text() for target in targets for amount in ("flops", "samples")]
            rows.append([rung, number_text(cell.mean_pass_rate), arm, *found])
    return Table(
        "RL compared with SFT",
        rows,
        "A dash: at a pretraining seed fewer than half of the runs of an arm reached and kept the target.",
    )


def errors_table(found: dict[str, dict[str, tuple[float, int]]]) -> Table:
    """Which form predicts rollouts per label, by target."""
    names = list(dict.fromkeys(name for errors in found.values() for name in errors))
    rows = [["form", *(f"rms error in ln, {name} (n)" for name in found)]]
    for name in sorted(names, key=lambda name: next(iter(found.values())).get(name, (9e9, 0))[0]):
        rows.append(
            [
                name,
                *(
                    f"{number_text(errors[name][0])} ({errors[name][1]})" if name in errors else UNMEASURED
                    for errors in found.values()
                ),
            ]
        )
    note = "One point per start, pretraining seed and arm of RL. Nothing is fitted to the forms; null models are fitted to the other pretraining seeds."
    return Table("Which form predicts rollouts per label?", rows, note)


def short_tables(cells: dict[tuple[str, str], Cell]) -> list[Table]:
    """What RL pays compared with SFT by other arms, at other settings, and in the two short cells: by the length of the rollout and by the size of the vocabulary."""
    titles = {
        "rate": "At a third of the learning rates",
        "settings": "Latent starts at the settings of an unacquired one",
        "length": "One skill in answers of any length",
        "vocabulary": "An untrained model, and one token out of a vocabulary",
    }
    others = [
        replace(ratios_table(cells, arms=arms), title=title)
        for arms, title in ((OTHER, "Other arms"), (SGD, "Plain SGD in place of AdamW"))
    ]
    of_part = {part: {place: cell for place, cell in cells.items() if cell.first.tags.get("part") == part} for part in titles}
    tables = others + [replace(ratios_table(found), title=titles[part]) for part, found in of_part.items()]
    return [table for table in tables if len(table.rows) > 1]


def price_study(runs: Sequence[PricedRun], command: str) -> Study:
    """The page of the prices."""
    every = cells_of(runs)
    cells = {place: cell for place, cell in every.items() if "part" not in cell.first.tags}  # the short cells have tables only
    claims, ratios = claims_of(cells), ratios_table(cells)
    errors = {target.name: form_errors(points_of(cells, target)) for target in (NINE_TENTHS, HALF)}
    best = {
        rung: min(
            (cell for (other, arm), cell in cells.items() if other == rung and arm in RL and cell.prices(NINE_TENTHS).mean),
            key=lambda cell: cell.prices(NINE_TENTHS).mean,
            default=None,
        )
        for rung, _ in cells
    }
    told = [
        (cell, ratio(cell, cells[rung, "sft"], NINE_TENTHS))
        for rung, cell in best.items()
        if cell is not None and (rung, "sft") in cells
    ]
    told = [(cell, found) for cell, found in told if found.mean is not None]
    ends = [told[0], told[-1]] if len(told) > 1 else told
    answer = "; ".join(
        f"from p = {number_text(cell.mean_pass_rate)} {SPOKEN[cell.arm]} took {found.text()} times the FLOPs of SFT"
        for cell, found in ends
    )
    return Study(
        title="What does a held-out target cost in FLOPs?",
        question="How many FLOPs does it take until a held-out target is reached and kept, by SFT and by reinforcement learning?",
        answer=f"To gain and keep 90 % of the bits, {answer}: the cheapest arm of RL there."
        if answer
        else "No arm of RL reached and kept 90 % of the bits.",
        main=Picture(
            "prices",
            "What does a kept target cost?",
            lambda: prices_figure(cells, NINE_TENTHS),
            "GFLOP until 90 % of the available held-out bits were reached and kept, rollouts included. Small points are pretraining seeds, large ones their mean with its 95 % interval; "
            "an arrow begins at what the mean is known to be above.",
        ),
        table=ratios,
        how_to_read=HOW_TO_READ,
        provenance=f"{len(runs)} runs. Made by: {command}",
        headlines=[
            Headline(
                found.text(),
                f"FLOPs of {SPOKEN[cell.arm]} over those of SFT",
                f"90 % of the bits, {cell.rung}, n = {found.n} pretraining seeds",
            )
            for cell, found in told[:3]
        ],
        sentences=[claim.sentence("pretraining seeds") for claim in claims if not claim.verdict.startswith("undecided")][:4],
        claims=claims,
        tables=[
            prices_table(cells),
            *short_tables(every),
            beside_table(cells, NINE_TENTHS),
            beside_table(cells, HALF),
            errors_table(errors),
            settings_table(every),
            spread_table(cells),
        ],
        pictures=[
            Picture(
                f"rollouts_per_label_{name}",
                f"How many rollouts buy what one label buys, to {target.name}?",
                lambda target=target: exchange_figure(points_of(cells, target), target),
                "One point per pretraining seed and arm. Lines, with nothing fitted: 1/p before training, its mean on the way to the target, in equal steps of log p, and the essay's ratio.",
            )
            for name, target in (("90", NINE_TENTHS), ("half", HALF))
        ],
        terminal=[ratios_table(cells, [NINE_TENTHS])],
        results={
            "prices": {
                f"{rung}, {arm}": {t.name: cell.prices(t).fields() for t in TARGETS if not cell.has_before(t)}
                for (rung, arm), cell in cells.items()
            },
            "rollouts_per_label": {
                target.name: {
                    f"{rung}, {arm}": ratio(cell, cells[rung, "sft"], target, "samples").fields()
                    for (rung, arm), cell in cells.items()
                    if arm in RL and (rung, "sft") in cells and not cell.has_before(target)
                }
                for target in (NINE_TENTHS, HALF)
            },
            "starts": {cell.rung: {"reason": cell.reason, "mean_pass_rate": cell.mean_pass_rate} for cell in cells.values()},
            "form_errors": errors,
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        *folders, record = sys.argv[2:]
        pack_prices(read_prices(folders), Path(record))
    else:
        report(price_study, prog="python -m eval.studies.price", description=__doc__.splitlines()[0], read=read_prices)
