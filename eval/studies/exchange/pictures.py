"""The two pictures: what n samples teach, and what one label is worth in rollouts."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.report.gains import Rung, gain_curve
from bitsample_llm.report.style import COLOURS, GREY, MARKERS, draw_laws, plt

SHOWN = (
    "latent G",
    "latent E",
    "latent C",
    "nine gates",
    "nine gates first digit",
    "unacquired 0.03",
    "unacquired 0.1",
    "unacquired 0.3",
)
PANELS = {"latent": "latent: shown rarely", "gates": "latent, behind nine gates", "unacquired": "unacquired: not there"}


def gains_figure(rungs: Sequence[Rung], observer: dict[str, dict[str, list[tuple[int, float]]]]) -> Figure:
    """Share of the available bits against n, a panel per reason; labels solid, rollouts dashed."""
    shown = [rung for rung in rungs if rung.name in SHOWN]
    reasons = [reason for reason in PANELS if any(rung.reason == reason for rung in shown)]
    figure, axes = plt.subplots(1, len(reasons), figsize=(3.4 * len(reasons), 5.4), squeeze=False, sharey=True)
    for axis, reason in zip(axes[0], reasons, strict=True):
        for index, rung in enumerate(rung for rung in shown if rung.reason == reason):
            for arm, dash, fill in (("labels", "-", "full"), ("passes", "--", "none")):
                _draw_curve(axis, rung, arm, color=COLOURS[index], marker=MARKERS[index], linestyle=dash, fillstyle=fill)
        for (label, curve), dots in zip(observer.get(reason, {}).items(), (":", "-."), strict=False):
            axis.plot(
                *zip(*[(n, share) for n, share in curve if n > 0], strict=True),
                color=GREY,
                linewidth=1,
                linestyle=dots,
                label=label,
            )
        axis.set_xscale("log", base=4)
        axis.xaxis.set_major_formatter(lambda n, _: f"{n:g}")
        axis.set_title(PANELS[reason], loc="left")
        axis.set_xlabel("n labels (solid),\nor passes among n rollouts (dashed)")
        axis.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    axes[0, 0].set_ylabel("share of the available held-out bits")
    return figure


def _draw_curve(axis, rung: Rung, arm: str, **look) -> None:
    curves = []
    for model in rung.pass_rate:
        n, gain_bits = gain_curve(rung, arm, model)
        if len(n):
            share = gain_bits / rung.available_bits[model]
            curves.append((n, share))
            axis.plot(n, share, **look | {"linestyle": "none", "markersize": 3, "alpha": 0.6})
    if not curves:
        return
    sizes = sorted({size for n, _ in curves for size in n})
    means = [np.mean([share[list(n).index(size)] for n, share in curves if size in n]) for size in sizes]
    label = f"p = {rung.mean_pass_rate:.2g}, {arm}"
    axis.plot(sizes, means, **look | {"markersize": 0, "linewidth": 1.5}, label=label)


def rates_figure(points: Sequence[tuple[Rung, str, float | None]]) -> Figure:
    """Rollouts per label against the pass rate on logarithmic axes, with the two lines."""
    figure, axis = plt.subplots(figsize=(6, 4.2))
    draw_laws(axis, lowest=0.01)
    for index, reason in enumerate(PANELS):
        found = [(rung.pass_rate[model], rate) for rung, model, rate in points if rung.reason == reason and rate]
        if found:
            axis.plot(*zip(*found, strict=True), MARKERS[index], color=COLOURS[index], label=reason, markersize=5, alpha=0.8)
    axis.set(ylabel="rollouts that teach what one label teaches")
    axis.legend(fontsize=9)
    return figure
