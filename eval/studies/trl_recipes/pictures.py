"""The pictures of this study: the ranking, and what each choice does to the price."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from bitsample_llm.report.prices import HALF, Target
from bitsample_llm.report.remedies import prices_of
from bitsample_llm.report.remedy_runs import GIGA, RemedyRuns, draw_factors
from bitsample_llm.report.style import COLOURS, GREY, MARKERS, plt
from eval.studies.trl_recipes.claims import BASE, CHOICES, SPOKEN

SHOWN = (0.08, 8.0)


def ranking(found: RemedyRuns, rung: str, target: Target = HALF) -> list[str]:
    """The recipes, the cheapest first; bounds in the place of factors that are not known."""

    def place(arm: str) -> float:
        saved = found.factor(rung, arm, target)
        return -(saved.estimate.mean or saved.bound or 0)

    return sorted((arm for arm in found.arms(rung) if arm != BASE), key=place)


def ranking_figure(found: RemedyRuns, target: Target = HALF) -> Figure:
    """A row per recipe, a panel per start: the factor with its interval, and each pretraining seed."""
    rungs = found.rungs
    most = max(len(found.arms(rung)) for rung in rungs)
    figure, axes = plt.subplots(1, len(rungs), figsize=(6.4 * len(rungs), 1.4 + 0.24 * most), squeeze=False)
    for axis, rung in zip(axes[0], rungs, strict=True):
        arms = ranking(found, rung, target)[::-1]
        factors = [found.factor(rung, arm, target) for arm in arms]
        draw_factors(axis, factors, 0, 0.0, "factor", SHOWN)
        models = sorted({run.model for run in found.runs if run.rung == rung})
        for number, model in enumerate(models):
            points = [(saved.estimate.values[number], row) for row, saved in enumerate(factors) if saved.estimate.values]
            if points:
                look = {
                    "color": COLOURS[number + 1],
                    "marker": MARKERS[number + 1],
                    "markersize": 4,
                    "linestyle": "none",
                    "alpha": 0.8,
                }
                axis.plot(
                    *zip(*[(np.clip(x, *SHOWN), y) for x, y in points], strict=True), **look, label=f"pretraining seed {model}"
                )
        axis.set_yticks(range(len(arms)), [SPOKEN[arm] for arm in arms], fontsize=8)
        axis.set(
            title=f"{rung}, p = {found.pass_rate(rung):.2g}", xlabel=f"FLOPs of the base setting over those with it, {target.name}"
        )
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def choices_figure(found: RemedyRuns, target: Target = HALF) -> Figure:
    """GFLOP to the target of each level, a row per choice and start; open where it has no price and stands for more."""
    rows = [
        (rung, choice) for rung in found.rungs for choice in CHOICES if sum(arm in found.arms(rung) for arm in CHOICES[choice]) > 1
    ]
    figure, axis = plt.subplots(figsize=(8.2, 1.2 + 0.34 * len(rows)))
    for place, (rung, choice) in enumerate(reversed(rows)):
        shown = []
        for arm, level in CHOICES[choice].items():
            if arm not in found.arms(rung):
                continue
            prices = prices_of(found.runs, rung, arm, target)
            price = GIGA * float(np.exp(np.mean([np.log(prices.least(model)) for model in prices.by_model])))
            is_known = None not in [prices.median(model) for model in prices.by_model]
            axis.plot([price], [place], color=COLOURS[0], marker="o" if is_known else ">", fillstyle="full" if is_known else "none")
            shown.append((price, level))
        axis.plot([min(shown)[0], max(shown)[0]], [place, place], color=GREY, linewidth=1)
        for (price, level), align in ((min(shown), "right"), (max(shown), "left")):
            axis.annotate(level, (price, place), ha=align, va="bottom", fontsize=7)
    axis.set_yticks(range(len(rows)), [f"{rung}, {choice}" for rung, choice in reversed(rows)], fontsize=8)
    axis.set(xscale="log", xlabel=f"GFLOP to {target.name}")
    axis.xaxis.set_major_locator(LogLocator(base=2))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return figure
