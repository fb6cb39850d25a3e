"""What do the essay's remedies save? `python -m eval.studies.remedies eval/records` makes one table and figure of all records that `remedies.yaml` names.

How verdicts are given is in README.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from bitsample_llm.records import RecordError
from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import UNMEASURED, number_text
from bitsample_llm.report.prices import HALF, NINE_TENTHS, PricedRun, Target, read_prices
from bitsample_llm.report.remedies import Factor, Prices, factor, prices_of
from bitsample_llm.report.remedy_runs import HOW_TO_READ, PALE, draw_factors
from bitsample_llm.report.study import Picture, Study, Table
from bitsample_llm.report.style import GREY, plt

LISTED = Path(__file__).with_name("remedies.yaml")
PAYS = 1.1
UNSPOKEN = "not spoken of"  # what the essay says of a way to train that it does not name
STARTS = ("rare", "middling", "unacquired", "pretrained")
SHOWN = (0.125, 50.0)


@dataclass(frozen=True)
class Cell:
    """One remedy at one start: the runs of the remedy and of plain training."""

    remedy: str
    essay: str
    is_bound: bool  # whether something that the remedy needs was free
    start: str
    rung: str
    pass_rate: float
    plain: tuple[Prices, Prices]  # to half, and to 90 % of the bits
    with_remedy: tuple[Prices, Prices]

    @cached_property
    def factors(self) -> tuple[Factor, Factor]:
        """To half, and to 90 % of the bits."""
        return tuple(map(factor, self.plain, self.with_remedy))

    @property
    def verdict(self) -> str:
        """Whether it pays, by half of the bits."""
        saved = self.factors[0]
        if saved.bound is not None:
            if saved.is_above and saved.bound > PAYS:
                return "pays, bounded"
            return "costs more, bounded" if not saved.is_above and saved.bound < 1 / PAYS else "undecided"
        if saved.estimate.mean is None:
            return "no price"
        low, high = saved.estimate.interval
        said = "pays" if low > PAYS else "costs more" if high < 1 / PAYS else "undecided"
        return said + " (1 model)" * (saved.estimate.n == 1 and said != "undecided")

    @property
    def seeds(self) -> str:
        """Pretraining seeds, and training seeds of the remedy in all."""
        prices = self.with_remedy[0].by_model
        return f"{len(prices)}, {sum(map(len, prices.values()))}"


def cell_of(remedy: str, listed: dict, cell: dict, runs: Sequence[PricedRun]) -> Cell:
    """A cell from the runs of its record; a RecordError if the record has none of an arm."""
    for arm in (cell["plain"], cell["arm"]):
        if not any((run.rung, run.arm) == (cell["rung"], arm) for run in runs):
            raise RecordError(f"{cell['record']} has no runs of {arm} at {cell['rung']}, which remedies.yaml names for {remedy!r}")
    of_rung = [run.pass_rate[0] for run in runs if run.rung == cell["rung"]]
    plain, with_remedy = (
        tuple(prices_of(runs, cell["rung"], arm, target) for target in (HALF, NINE_TENTHS)) for arm in (cell["plain"], cell["arm"])
    )
    about = (remedy, listed["essay"], listed["is_bound"], cell["start"], cell["rung"], sum(of_rung) / len(of_rung))
    return Cell(*about, plain, with_remedy)


def read(paths: Sequence[str]) -> list[Cell]:
    """All cells of remedies.yaml from the folder of records."""
    runs_of, cells = {}, []
    for remedy, listed in yaml.safe_load(LISTED.read_text()).items():
        for cell in listed["cells"]:
            if cell["start"] not in STARTS:
                raise ValueError(f"remedies.yaml: {remedy} names the unknown start {cell['start']!r}; known: {', '.join(STARTS)}")
            record = cell["record"]
            if record not in runs_of:
                runs_of[record] = read_prices([Path(paths[0]) / record / "runs"])
            cells.append(cell_of(remedy, listed, cell, runs_of[record]))
    return cells


def name_of(cell: Cell) -> str:
    """The remedy, and that a part of it was free."""
    return cell.remedy + " (bound)" * cell.is_bound


def remedies_table(cells: Sequence[Cell]) -> Table:
    """A row per remedy and start."""
    heading = ["remedy", "start", "p", *(f"factor, {target.name}" for target in (HALF, NINE_TENTHS)), "models, runs", "verdict"]
    rows = [
        [
            name_of(cell),
            cell.start,
            number_text(cell.pass_rate),
            *(saved.text() for saved in cell.factors),
            cell.seeds,
            cell.verdict,
        ]
        for cell in cells
    ]
    note = (
        "Factor: FLOPs of plain GRPO over those with the remedy. (bound): something that the remedy needs is free. After > or <: one of the two has no price. "
        "Models: pretraining seeds."
    )
    return Table("What the remedies save", [heading, *rows], note)


def essay_table(cells: Sequence[Cell]) -> Table:
    """What the essay says of each remedy, and the verdicts by start."""
    rows = [["remedy", "in the essay", *STARTS]]
    for remedy in dict.fromkeys(map(name_of, cells)):
        of_remedy = [cell for cell in cells if name_of(cell) == remedy]
        verdicts = ["; ".join(dict.fromkeys(cell.verdict for cell in of_remedy if cell.start == start)) for start in STARTS]
        rows.append([remedy, of_remedy[0].essay, *(verdict or UNMEASURED for verdict in verdicts)])
    return Table("Against the essay", rows, "A dash: not run there.")


def factors_figure(cells: Sequence[Cell], target: Target = HALF) -> Figure:
    """A row per remedy that the essay speaks of, a marker per start."""
    cells = [cell for cell in cells if cell.essay != UNSPOKEN]
    remedies = list(dict.fromkeys(map(name_of, cells)))[::-1]
    figure, axis = plt.subplots(figsize=(8.6, 1.4 + 0.34 * len(remedies)))
    for look, start in enumerate(STARTS):
        of_start = [cell for cell in cells if cell.start == start]
        most = max((sum(name_of(cell) == remedy for cell in of_start) for remedy in remedies), default=0)
        for place in range(most):
            at = [[cell for cell in of_start if name_of(cell) == remedy][place : place + 1] for remedy in remedies]
            factors = [found[0].factors[(HALF, NINE_TENTHS).index(target)] if found else None for found in at]
            draw_factors(axis, factors, look, 0.27 - 0.18 * look - 0.07 * place, start, SHOWN)
    axis.set_yticks(range(len(remedies)), remedies)
    axis.set_ylim(-0.6, len(remedies) - 0.4)
    handles = dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    shown = {"color": GREY, "linestyle": "none", "markersize": 5}
    handles |= {
        "one pretraining seed": plt.Line2D([], [], **shown, marker="o", alpha=PALE),
        "a bound: the factor lies on that side": plt.Line2D([], [], **shown, marker="<", fillstyle="none"),
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def remedies_study(cells: Sequence[Cell], command: str) -> Study:
    """The page of all remedies."""
    table = remedies_table(cells)
    had = [cell for cell in cells if not cell.is_bound and cell.essay != UNSPOKEN and "label" not in cell.remedy]
    paying = sum(cell.verdict.startswith("pays") for cell in had)
    costing = sum(cell.verdict.startswith("costs") for cell in had)
    return Study(
        title="What do the essay's remedies save?",
        question="How many FLOPs does each way to make reinforcement learning cheaper save, all that it costs included?",
        answer=f"Of {len(had)} tests of remedies that can be had, {paying} pay by the threshold and {costing} cost more.",
        main=Picture(
            "remedies",
            "What does each remedy save?",
            lambda: factors_figure(cells),
            "FLOPs to half of the bits. Right of the line the remedy saves FLOPs. Open marks: the factor lies on that side of the mark, since one of the two arms has no price. (bound): something that the remedy needs is free.",
        ),
        table=table,
        terminal=[
            Table(
                table.title,
                [["remedy", "start", "factor", "verdict"], *([row[0], row[1], row[3], row[6]] for row in table.rows[1:])],
            )
        ],
        how_to_read=HOW_TO_READ,
        provenance=f"{len(cells)} cells of {LISTED.name}. Made by: {command}",
        tables=[essay_table(cells)],
        results={
            "cells": [
                {
                    "remedy": cell.remedy,
                    "is_bound": cell.is_bound,
                    "start": cell.start,
                    "rung": cell.rung,
                    "pass_rate": cell.pass_rate,
                    "verdict": cell.verdict,
                    **{
                        target.name: {**saved.estimate.fields(), "text": saved.text()}
                        for target, saved in zip((HALF, NINE_TENTHS), cell.factors, strict=True)
                    },
                }
                for cell in cells
            ]
        },
    )


if __name__ == "__main__":
    report(remedies_study, prog="python -m eval.studies.remedies", description=__doc__.splitlines()[0], read=read)
