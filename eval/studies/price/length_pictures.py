"""The picture of the second pass on length: prices and their ratio against the tokens of the answer, a column per pretraining seed."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from bitsample_llm.report.prices import Target
from bitsample_llm.report.style import COLOURS, GREY, MARKERS, plt
from eval.studies.price.length_slopes import Lengths

HIGHEST = 40.0  # of a ratio that is shown: an interval without an end goes to the edge


def prices_and_ratios_figure(found: Lengths, target: Target, spoken: dict[str, str], prompt: dict[int, int]) -> Figure:
    """GFLOP to a target above, over those of SFT below; a cell without a price is an open arrow at what it is above."""
    figure, axes = plt.subplots(
        2, len(found.models), figsize=(4.2 * len(found.models) + 0.6, 6.4), sharey="row", sharex="col", squeeze=False
    )
    for column, model in enumerate(found.models):
        price_axis, ratio_axis = axes[:, column]
        tokens = found.tokens(model)
        for index, arm in enumerate(spoken):
            look = {"color": COLOURS[index], "marker": MARKERS[index]}
            place = np.array(tokens) * 1.05 ** (index - 1)
            medians = [found.cells[model, length, arm].price(model, target) for length in tokens]
            for x, length, median in zip(place, tokens, medians, strict=True):
                runs = [run.price(target) for run in found.runs(model, length, arm)]
                for price, is_kept in runs:
                    marker = {} if is_kept else {"marker": "^", "fillstyle": "none"}
                    price_axis.plot([x], [price * 1e-9], linestyle="none", markersize=3.5, alpha=0.5, **look | marker)
                if median is not None:
                    price_axis.plot([x], [median * 1e-9], linestyle="none", markersize=8, **look)
            line = [math.nan if median is None else median * 1e-9 for median in medians]
            price_axis.plot(place, line, color=look["color"], linewidth=1, label=spoken[arm])
            if arm != "sft":
                _draw_ratios(ratio_axis, found, model, arm, target, look, prompt)
        price_axis.set(xscale="log", yscale="log", title=model)
        ratio_axis.set(xscale="log", yscale="log", ylim=(0.7, HIGHEST), xlabel="tokens of the answer")
        ratio_axis.axhline(1, color=GREY, linewidth=0.8)
        ratio_axis.set_xticks(tokens, [str(length) for length in tokens])
        ratio_axis.xaxis.set_minor_locator(NullLocator())
    axes[0, 0].set_ylabel(f"GFLOP to {target.name}, kept")
    axes[1, 0].set_ylabel("FLOPs over those of SFT")
    axes[1, 0].yaxis.set_major_locator(LogLocator(base=2))
    axes[1, 0].yaxis.set_minor_locator(NullLocator())
    axes[1, 0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    handles = [
        plt.Line2D([], [], color=COLOURS[index], marker=MARKERS[index], label=name) for index, name in enumerate(spoken.values())
    ]
    handles.append(plt.Line2D([], [], color=GREY, linestyle="--", label="only the rollout gets dearer"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=9)
    return figure


def _draw_ratios(axis, found: Lengths, model: str, arm: str, target: Target, look: dict, prompt: dict[int, int]) -> None:
    tokens = found.tokens(model)
    shift = 1.05 if arm == "grpo" else 1.1
    logs = {length: found.log_ratio(model, length, arm, target) for length in tokens}
    for length, value in logs.items():
        if value is not None:
            low, high = found.ratio_interval(model, length, arm, target)
            axis.plot([length * shift] * 2, [low, min(high, HIGHEST)], color=look["color"], linewidth=1)
            axis.plot([length * shift], [math.exp(value)], linestyle="none", markersize=7, **look)
    if (start := logs[tokens[0]]) is not None:
        grown = [math.exp(start) * (prompt[length] + length) / (prompt[tokens[0]] + tokens[0]) for length in tokens]
        axis.plot(np.array(tokens) * shift, grown, color=look["color"], linestyle="--", linewidth=0.8)
    known = [(length * shift, math.exp(value)) for length, value in logs.items() if value is not None]
    axis.plot(*zip(*known, strict=True), color=look["color"], linewidth=1) if known else None
