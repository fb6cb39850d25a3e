"""The pictures: what each choice of problems saves, and learning curves."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from bitsample_llm.report.prices import HALF, NINE_TENTHS
from bitsample_llm.report.style import COLOURS, GREY, MARKERS, plt
from eval.studies.curriculum.claims import SPOKEN, Found

SHOWN_FACTORS = (0.2, 12.0)  # an interval without an end goes to the edge


def factors_figure(found: Found) -> Figure:
    """Remedy factors with intervals, a panel per start and a row per arm; an arrow where there is only a bound."""
    rungs = found.rungs
    figure, axes = plt.subplots(1, len(rungs), figsize=(4.6 * len(rungs) + 1.6, 4.4), sharey=True, squeeze=False)
    arms = [arm for arm in SPOKEN if arm not in ("target", "sft") and any(run.arm == arm for run in found.runs)]
    for axis, rung in zip(axes[0], rungs, strict=True):
        axis.axvline(1, color=GREY, linewidth=0.8)
        for index, target in enumerate((HALF, NINE_TENTHS)):
            for row, arm in enumerate(reversed(arms)):
                saved = found.factor(rung, arm, target)
                look = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 5, "linestyle": "none"}
                place = row + 0.12 - 0.24 * index
                if saved.bound is not None:
                    axis.plot([saved.bound], [place], **look | {"marker": ">" if saved.is_above else "<", "fillstyle": "none"})
                elif saved.estimate.mean is not None:
                    low, high = np.clip(saved.estimate.interval, *SHOWN_FACTORS)
                    axis.plot([low, high], [place, place], color=COLOURS[index], linewidth=1)
                    axis.plot([saved.estimate.mean], [place], **look, label=target.name if row == 0 else None)
        p = np.mean([run.pass_rate[0] for run in found.runs if run.rung == rung])
        axis.set(
            xscale="log", xlim=SHOWN_FACTORS, title=f"{rung}, p = {p:.2g}", xlabel="FLOPs without the remedy over FLOPs with it"
        )
        axis.set_yticks(range(len(arms)), [SPOKEN[arm] for arm in reversed(arms)])
        axis.xaxis.set_major_locator(LogLocator(base=2))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    handles = dict(zip(*reversed(axes[0][0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def curves_figure(found: Found) -> Figure:
    """Mean log2 p of the target's held-out problems against FLOPs, the median over the runs of an arm of RL, a panel per start."""
    shown = ("target", "uniform", "easy_to_hard", "thompson", "probe", "exact_half", "sft")
    rungs = found.rungs
    figure, axes = plt.subplots(1, len(rungs), figsize=(4.6 * len(rungs) + 1.0, 4.4), squeeze=False)
    for axis, rung in zip(axes[0], rungs, strict=True):
        for index, arm in enumerate(name for name in shown if any(run.arm == name for run in found.runs)):
            of_arm = found.of(rung, arm)
            if not of_arm:
                continue
            grid = np.geomspace(1e8, max(run.flops[-1] for run in of_arm), 60)
            # a run that ended early had kept every target: its last value stands
            values = [np.interp(np.log(grid), np.log(np.maximum(run.flops, 1)), run.log2_p) for run in of_arm]
            axis.plot(grid / 1e9, np.median(values, axis=0), color=COLOURS[index], label=SPOKEN[arm], linewidth=1.4)
        axis.set(xscale="log", xlabel="training GFLOP, probing rollouts included", title=rung)
    axes[0][0].set_ylabel("mean log2 p of the target (bits)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure
