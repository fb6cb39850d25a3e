"""The pictures: what is saved against what is offered, and the same gain against FLOPs and against the optimizer's path."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from bitsample_llm.report.prices import HALF
from bitsample_llm.report.remedy_runs import curves_figure
from bitsample_llm.report.style import COLOURS, GREY, MARKERS, plt
from eval.studies.observation.claims import MATCHED, ROW, SPOKEN, Found, predicted_factor

PATH_SCALE = 1e12  # the curves' axis is in billions: thousandths of rate x updates


def bits_figure(found: Found) -> Figure:
    """Remedy factor against offered bits over the verdict's, an arm of the row per mark; what bits and what the path predict."""
    rungs = [rung for rung in found.rungs if found.factor(rung, "answer", HALF, MATCHED).estimate.mean is not None] or found.rungs[
        :1
    ]
    figure, axes = plt.subplots(1, len(rungs), figsize=(5.2 * len(rungs), 4.2), squeeze=False)
    for axis, rung in zip(axes[0], rungs, strict=True):
        ratios = [found.bits(rung, arm) / found.bits(rung, "verdict") for arm in ROW]
        axis.plot(
            [1, max(ratios)], [1, max(ratios)], color=GREY, linewidth=0.9, label="as many times fewer FLOPs as bits are offered"
        )
        for index, (arm, ratio) in enumerate(zip((MATCHED, *ROW[1:]), ratios, strict=True)):
            estimate = found.factor(rung, arm, HALF, MATCHED).estimate
            if arm in found.arms(rung) and estimate.mean is not None:
                low, high = np.clip(estimate.interval, 0.1, 1e3)
                axis.plot([ratio, ratio], [low, high], color=COLOURS[index], linewidth=1)
                axis.plot(
                    [ratio], [estimate.mean], color=COLOURS[index], marker=MARKERS[index], linestyle="none", label=SPOKEN[arm]
                )
                form = predicted_factor(found, rung, arm)
                axis.plot([ratio * 1.06], [form], color=COLOURS[index], marker="_", markersize=14, linestyle="none")
        axis.plot([], [], color=GREY, marker="_", markersize=14, linestyle="none", label="predicted by an equal path")
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="offered bits over the verdict's",
            ylabel="times fewer FLOPs than the verdict",
            title=rung,
        )
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_locator(LogLocator(base=2))
            scale.set_minor_locator(NullLocator())
            scale.set_major_formatter(lambda value, _: f"{value:g}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def along_the_path(found: Found) -> Found:
    """The runs with rate times live updates in the place of FLOPs."""
    runs = []
    for run in found.runs:
        lengths = [PATH_SCALE * run.settings["learning_rate"] * live for live in found.path(run).live_updates]
        runs.append(replace(run, flops=lengths))
    return replace(found, runs=runs)


def flops_figure(found: Found) -> Figure:
    """Mean log2 p against FLOPs."""
    return curves_figure(found, list(SPOKEN), "training GFLOP")


def path_figure(found: Found) -> Figure:
    """Mean log2 p against the path."""
    return curves_figure(along_the_path(found), list(SPOKEN), "learning rate x live updates (thousandths)")
