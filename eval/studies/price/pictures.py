"""The pictures: what a kept target costs against the pass rate, and what a label costs in rollouts."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.report.estimates import number_text
from bitsample_llm.report.prices import Target
from bitsample_llm.report.style import COLOURS, GREY, MARKERS, TIP, beside, draw_laws, plt
from eval.studies.price.cells import RL, Cell, Point

SHOWN = ("sft", *RL)
NAMES = {"sft": "SFT", "grpo": "GRPO", "rloo": "RLOO", "reinforce": "no baseline"}
LOOKS = {arm: {"color": COLOURS[index], "marker": MARKERS[index]} for index, arm in enumerate(SHOWN)}
PANELS = {"latent": "latent: shown rarely", "unacquired": "unacquired: not there"}


def prices_figure(cells: dict[tuple[str, str], Cell], target: Target) -> Figure:
    """GFLOP to the target against the pass rate, a panel per reason: pretraining seeds as points, means with intervals; a price that is not
    known is an arrow up from what it is above.
    """
    reasons = [reason for reason in PANELS if any(cell.reason == reason for cell in cells.values())]
    widths = [len({cell.rung for cell in cells.values() if cell.reason == reason}) + 1.5 for reason in reasons]
    size = {"figsize": (8.6, 4.6), "gridspec_kw": {"width_ratios": widths}}
    figure, axes = plt.subplots(1, len(reasons), squeeze=False, sharey=True, **size)
    for axis, reason in zip(axes[0], reasons, strict=True):
        for cell in cells.values():
            if cell.reason == reason and cell.arm in LOOKS and not cell.has_before(target):
                _draw_price(axis, cell, target)
        axis.set(xscale="logit", yscale="log")
        axis.xaxis.set_major_formatter(lambda p, _: f"{p:.3g}")
        axis.xaxis.set_minor_formatter(lambda p, _: "")
        axis.set_title(PANELS[reason], loc="left")
    figure.supxlabel("exact pass rate p before training", fontsize="medium")
    axes[0, 0].set_ylabel(f"GFLOP to {target.name}, kept")
    handles = [plt.Line2D([], [], linestyle="none", label=NAMES[arm], **LOOKS[arm]) for arm in SHOWN]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=9)
    return figure


def _draw_price(axis, cell: Cell, target: Target) -> None:
    look, index = LOOKS[cell.arm], SHOWN.index(cell.arm)
    at = beside(cell.mean_pass_rate, 3 * index - 4)
    settings = cell.first.settings
    setting = f"learning rate {settings['learning_rate']:g}, batch {settings['per_device_train_batch_size']}"
    for model in cell.runs:
        if (price := cell.price(model, target)) is not None:
            gid = f"{TIP}{NAMES[cell.arm]} from {cell.rung} {model}, {setting}: {number_text(price * 1e-9)} GFLOP"
            axis.plot([at], [price * 1e-9], gid=gid, alpha=0.5, markersize=4, linestyle="none", **look)
    estimate = cell.prices(target)
    if estimate.mean is None:
        bound = cell.bound(target) * 1e-9
        axis.annotate("", (at, bound * 2.5), (at, bound), arrowprops={"arrowstyle": "->", "color": look["color"]})
    else:
        low, high = (bound * 1e-9 for bound in estimate.interval or (estimate.mean, estimate.mean))
        axis.plot([at, at], [low, high], color=look["color"], linewidth=1.2)
        axis.plot([at], [estimate.mean * 1e-9], markersize=8, linestyle="none", **look)


def exchange_figure(points: Sequence[Point], target: Target) -> Figure:
    """Rollouts per label against the pass rate, one point per pretraining seed and arm, with 1/p, its mean on the way to the target, and the
    essay's line.
    """
    figure, axis = plt.subplots(figsize=(7, 4.6))
    lowest = min([0.01, *(point.rl.p(point.model).mean() for point in points)]) * 0.8
    draw_laws(axis, lowest)
    p = np.geomspace(lowest, 0.985, 200)
    way = (1 / p - p ** (target.share - 1)) / (target.share * np.log(1 / p))
    axis.plot(p, way, color="black", linewidth=1, linestyle=":", label="1/p, mean on the way to the target")
    for point in points:
        look = LOOKS[point.rl.arm] | {"fillstyle": "full" if point.rl.reason == "latent" else "none"}
        gid = f"{TIP}{NAMES[point.rl.arm]} from {point.rl.rung} {point.model}: {number_text(point.rollouts_per_label)} rollouts per label"
        axis.plot([point.rl.p(point.model).mean()], [point.rollouts_per_label], gid=gid, linestyle="none", alpha=0.8, **look)
    handles = [plt.Line2D([], [], linestyle="none", label=NAMES[arm], **LOOKS[arm]) for arm in RL]
    handles += [
        plt.Line2D([], [], linestyle="none", marker="o", color=GREY, fillstyle=f, label=n)
        for f, n in (("full", "latent"), ("none", "unacquired"))
    ]
    axis.legend(handles=[*axis.get_lines()[:3], *handles], fontsize=9, ncols=2)
    axis.set(ylabel=f"rollouts per label, to {target.name}")
    return figure
