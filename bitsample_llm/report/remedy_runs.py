"""What does each arm of a study of remedies save? Its runs, with the factors, tables and figures that all such studies show."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from bitsample_llm.report.estimates import UNMEASURED
from bitsample_llm.report.prices import HALF, NINE_TENTHS, PricedRun, Target
from bitsample_llm.report.remedies import Factor, factor, price_text, prices_of
from bitsample_llm.report.study import Picture, Table
from bitsample_llm.report.style import COLOURS, DASHES, GREY, MARKERS, plt

GIGA = 1e-9
SHOWN_FACTORS = (0.125, 12.0)  # an interval without an end goes to the edge
PALE = 0.45
SHOWN_SETTINGS = {
    "learning rate": "learning_rate",
    "samples per update": "per_device_train_batch_size",
    "group size": "num_generations",
}
HOW_TO_READ = (
    "A remedy factor above 1 says that the remedy saves FLOPs, all that it costs included where nothing else is said. A target counts once it is kept until three times its FLOPs were spent. "
    "Brackets: 95 % bootstrap over pretraining seeds and training seeds."
)


@dataclass(frozen=True)
class RemedyRuns:
    """Runs, and what was made of them: a bootstrap takes a second, and is asked for by table, claims and figure."""

    runs: Sequence[PricedRun]
    spoken: dict[str, str]  # arms in the order in which they are shown, and what they are called
    plain_of: dict[str, str]  # of each arm, the one that it is held against; a plain one names itself
    _factors: dict[tuple, Factor] = field(default_factory=dict)

    @property
    def rungs(self) -> list[str]:
        """The starts, in the order of their names."""
        return sorted({run.rung for run in self.runs})

    def of(self, rung: str, arm: str) -> list[PricedRun]:
        """The runs of an arm at a start."""
        return [run for run in self.runs if (run.rung, run.arm) == (rung, arm)]

    def arms(self, rung: str | None = None) -> list[str]:
        """The arms that were run at a start, or at any."""
        return [arm for arm in self.spoken if any(run.arm == arm and rung in (None, run.rung) for run in self.runs)]

    def is_plain(self, arm: str) -> bool:
        """Whether others are held against it."""
        return self.plain_of[arm] == arm

    def pass_rate(self, rung: str) -> float:
        """Mean held-out pass rate of a start before training."""
        return float(np.mean([run.pass_rate[0] for run in self.runs if run.rung == rung]))

    def factor(self, rung: str, arm: str, target: Target, plain: str | None = None) -> Factor:
        """What an arm saves compared with the plain one."""
        plain = plain or self.plain_of[arm]
        key = (rung, arm, target.name, plain)
        if key not in self._factors:
            self._factors[key] = factor(*(prices_of(self.runs, rung, name, target) for name in (plain, arm)))
        return self._factors[key]

    def factor_fields(self, targets: Sequence[Target] = (HALF, NINE_TENTHS)) -> dict:
        """What results.json says of all factors."""
        return {
            rung: {
                arm: {
                    target.name: {
                        **self.factor(rung, arm, target).estimate.fields(),
                        "text": self.factor(rung, arm, target).text(),
                    }
                    for target in targets
                }
                for arm in self.arms(rung)
                if not self.is_plain(arm)
            }
            for rung in self.rungs
        }


def factors_table(found: RemedyRuns, title: str, heading: str, note: str, targets: Sequence[Target] = (HALF, NINE_TENTHS)) -> Table:
    """What each arm pays and saves, a row per start and arm."""
    rows = [["start", heading, *(text for target in targets for text in (f"GFLOP to {target.name}", "kept", "factor"))]]
    for rung in found.rungs:
        for arm in found.arms(rung):
            row = [rung, found.spoken[arm]]
            for target in targets:
                prices = prices_of(found.runs, rung, arm, target)
                saved = "1" if found.is_plain(arm) else found.factor(rung, arm, target).text()
                row += [price_text(prices, GIGA), prices.kept_text(), saved]
            rows.append(row)
    return Table(title, rows, f"{note} Kept: runs known to have reached and kept it. After > or <: one of the two has no price.")


def narrow(table: Table) -> Table:
    """The columns of `factors_table` that fit a terminal: start, arm, price and factor of the first target."""
    return Table(table.title, [[row[0], row[1], row[2], row[4]] for row in table.rows])


def settings_table(found: RemedyRuns, heading: str) -> Table:
    """The setting of each arm."""
    rows = [["start", heading, *SHOWN_SETTINGS]]
    for rung in found.rungs:
        for arm in found.arms(rung):
            settings = found.of(rung, arm)[0].settings
            shown = (f"{settings[key]:g}" if key in settings else UNMEASURED for key in SHOWN_SETTINGS.values())
            rows.append([rung, found.spoken[arm], *shown])
    return Table("Settings", rows)


def factors_figure(found: RemedyRuns, targets: Sequence[Target] = (HALF, NINE_TENTHS)) -> Figure:
    """Remedy factors with intervals, a panel per start and a row per arm; an arrow where there is only a bound."""
    cells = {
        (rung, arm): [found.factor(rung, arm, target) for target in targets]
        for rung in found.rungs
        for arm in found.arms(rung)
        if not found.is_plain(arm)
    }
    shown = {cell: saved for cell, saved in cells.items() if any(one.is_known for one in saved)}  # no empty panel, no empty row
    rungs = [rung for rung in found.rungs if any(cell[0] == rung for cell in shown)]
    arms = [arm for arm in found.arms() if any(cell[1] == arm for cell in shown)]
    size = (4.6 * len(rungs) + 1.6, 1.2 + 0.32 * len(arms))
    figure, axes = plt.subplots(1, len(rungs), figsize=size, sharey=True, squeeze=False)
    for axis, rung in zip(axes[0], rungs, strict=True):
        for index, target in enumerate(targets):
            saved = [shown[rung, arm][index] if (rung, arm) in shown else None for arm in reversed(arms)]
            draw_factors(axis, saved, index, 0.12 - 0.24 * index, target.name)
        axis.set(title=f"{rung}, p = {found.pass_rate(rung):.2g}")
        axis.set_yticks(range(len(arms)), [found.spoken[arm] for arm in reversed(arms)])
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def factors_picture(found: RemedyRuns, title: str, targets: Sequence[Target] = (HALF, NINE_TENTHS)) -> Picture:
    """`factors_figure` on a page."""
    caption = "Right of the line an arm saves FLOPs. Open marks: a bound, since one of the two was not kept by half of the runs. What lies beyond the axis is drawn at its edge."
    return Picture("factors", title, lambda: factors_figure(found, targets), caption)


def draw_factors(
    axis, factors: Sequence[Factor | None], look: int, offset: float, label: str, shown: tuple[float, float] = SHOWN_FACTORS
) -> None:
    """Factors in rows from below, with intervals (pale where there is one pretraining seed) or, where there is only a bound, an open arrow; `look` is the number of a colour and a marker."""
    style = {"color": COLOURS[look], "marker": MARKERS[look], "markersize": 5, "linestyle": "none"}
    axis.axvline(1, color=GREY, linewidth=0.8)
    for row, saved in enumerate(factors):
        place = row + offset
        if saved is None:
            continue
        if saved.bound is not None:
            arrow = {"marker": ">" if saved.is_above else "<", "fillstyle": "none"}
            axis.plot([np.clip(saved.bound, *shown)], [place], **style | arrow)
            axis.plot([], [], **style, label=label)  # the legend shows no arrow
        elif saved.estimate.mean is not None:
            low, high = np.clip(saved.estimate.interval, *shown)
            alpha = PALE if saved.estimate.n == 1 else 1.0
            axis.plot([low, high], [place, place], color=COLOURS[look], linewidth=1, alpha=alpha)
            axis.plot([np.clip(saved.estimate.mean, *shown)], [place], **style, alpha=alpha)
            axis.plot([], [], **style, label=label)
    axis.set(xscale="log", xlim=shown, xlabel="costs more  ←  FLOPs without the remedy over FLOPs with it  →  saves")
    axis.xaxis.set_major_locator(LogLocator(base=2))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def curves_figure(found: RemedyRuns, arms: Sequence[str], xlabel: str) -> Figure:
    """Mean log2 p of the held-out problems against FLOPs, the median over the runs of an arm, a panel per start."""
    rungs, shown = found.rungs, [arm for arm in arms if arm in found.arms()]
    figure, axes = plt.subplots(1, len(rungs), figsize=(4.6 * len(rungs) + 1.0, 4.4), squeeze=False)
    for axis, rung in zip(axes[0], rungs, strict=True):
        for index, arm in enumerate(shown):
            if not (of_arm := found.of(rung, arm)):
                continue
            first = max(next(flops for flops in run.flops if flops > 0) for run in of_arm)  # a scale of logarithms has no start
            grid = np.geomspace(first, max(run.flops[-1] for run in of_arm), 60)
            # a run that ended early had kept every target: its last value stands
            values = [np.interp(np.log(grid), np.log(np.maximum(run.flops, 1)), run.log2_p) for run in of_arm]
            look = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS)], "linewidth": 1.4}
            axis.plot(grid * GIGA, np.median(values, axis=0), label=found.spoken[arm], **look)
        axis.set(xscale="log", xlabel=xlabel, title=rung)
    axes[0][0].set_ylabel("mean log2 p of the held-out problems (bits)")
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure
