"""The pictures: pass rates and shares over training, and what a judge's probability is worth."""

import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.report.style import COLOURS, GREY, MARKERS, plt
from eval.studies.learned_reward.claims import JUDGES, REMEDIES, SPOKEN, Found
from eval.studies.learned_reward.courses import PARTS

LEARNED = (*JUDGES, *REMEDIES)


def training_figure(found: Found) -> Figure:
    """True and judged share of right steps by fifths of the updates (means over runs), and the held-out pass rate of each run, a column per judge and a row per start."""
    rungs, shown = found.rungs, ("exact", *LEARNED)
    figure, axes = plt.subplots(
        len(rungs), len(shown), figsize=(2.5 * len(shown) + 0.8, 2.6 * len(rungs) + 0.6), sharey=True, squeeze=False
    )
    for row, rung in enumerate(rungs):
        for axis, arm in zip(axes[row], shown, strict=True):
            pairs = found.pairs(rung, arm)
            for run, _ in pairs:
                axis.plot(
                    np.array(run.flops[1:]) / 1e9,
                    run.pass_rate[1:],
                    color=GREY,
                    linewidth=0.6,
                    alpha=0.6,
                    label="held-out pass rate of a run",
                )
            for values, look, name in (("true_share", "-", "true share of steps"), ("judged_share", "--", "judged share of steps")):
                if pairs:
                    at, means = (
                        [np.mean([course.part(getattr(course, of), n).mean() for _, course in pairs]) for n in range(PARTS)]
                        for of in ("flops", values)
                    )
                    axis.plot(
                        np.array(at) / 1e9,
                        means,
                        look,
                        color=COLOURS[0 if look == "-" else 1],
                        marker="o",
                        markersize=3,
                        label=name,
                    )
            axis.set(xscale="log", xlim=(1, None), ylim=(0, 1), title=f"{SPOKEN[arm]}\n{rung}")
            axis.title.set_fontsize(8.5)
    for axis in axes[-1]:
        axis.set_xlabel("training GFLOP")
    handles = dict(zip(*reversed(axes[0][1].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def reliability_figure(found: Found) -> Figure:
    """Share of right steps against the judge's probability, in bins, in the first and in the last fifth of the updates; all runs of a judge together."""
    rungs = found.rungs
    figure, axes = plt.subplots(
        len(rungs),
        len(LEARNED),
        figsize=(2.6 * len(LEARNED) + 0.8, 2.6 * len(rungs) + 0.6),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for row, rung in enumerate(rungs):
        for axis, arm in zip(axes[row], LEARNED, strict=True):
            axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
            courses = [course for _, course in found.pairs(rung, arm)]
            for index, (number, name) in enumerate(((0, "first fifth of the updates"), (-1, "last fifth"))):
                if not courses:
                    continue
                steps, right, total = (
                    sum(course.part(getattr(course, of), number).sum(axis=0) for course in courses)
                    for of in ("steps", "right", "probability")
                )
                full = steps >= 20
                axis.plot(
                    total[full] / steps[full],
                    right[full] / steps[full],
                    color=COLOURS[index],
                    marker=MARKERS[index],
                    markersize=4,
                    label=name,
                )
            axis.set(xlim=(0, 1), ylim=(0, 1), title=f"{SPOKEN[arm]}\n{rung}")
            axis.title.set_fontsize(8.5)
    for axis in axes[-1]:
        axis.set_xlabel("judged probability")
    for axis in axes[:, 0]:
        axis.set_ylabel("share that is right")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure
