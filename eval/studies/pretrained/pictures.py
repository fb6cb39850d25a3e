"""The pictures: learning curves of the real model, and what few samples teach at each of its starts."""

import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.report.prices import HALF
from bitsample_llm.report.style import COLOURS, DASHES, GREY, MARKERS, plt
from eval.studies.pretrained.claims import SPOKEN, Found, label_shares

TERA = 1e12
STRONG = ("sft", "grpo", "sft_wrong")  # what is compared first, and the control


def curves_figure(found: Found) -> Figure:
    """Mean log2 p of the held-out problems against FLOPs, a thin line per seed; half of the bits with the ratio of the prices, and what four lines show."""
    figure, axis = plt.subplots(figsize=(8.6, 5.4))
    for index, (arm, runs) in enumerate(found.arms.items()):
        look = {"color": COLOURS[index], "linestyle": DASHES[index], "alpha": 0.9 if arm in STRONG else 0.55}
        for number, run in enumerate(runs.values()):
            label = f"{SPOKEN[arm]} ({len(runs)} seeds)" if number == 0 else None
            axis.plot(np.array(run.flops[1:]) / TERA, run.log2_p[1:], linewidth=1.2, label=label, **look)
    any_run = next(iter(next(iter(found.arms.values())).values()))
    start, half = any_run.log2_p[0], any_run.log2_p[0] * (1 - HALF.share)
    axis.axhline(start, color=GREY, linewidth=0.8, linestyle=":")
    axis.text(
        0.995, start, "before training", transform=axis.get_yaxis_transform(), fontsize=8, ha="right", va="bottom", color=GREY
    )
    if (shown := found.shown_log2_p) is not None:
        axis.axhline(shown, color=GREY, linewidth=0.8, linestyle="--")
        axis.text(
            0.995,
            shown,
            "after four solved lines, untrained",
            transform=axis.get_yaxis_transform(),
            fontsize=8,
            ha="right",
            va="bottom",
            color=GREY,
        )
    prices = [found.price(arm, HALF) for arm in ("sft", "grpo") if arm in found.arms]
    if len(prices) == 2 and all(price.mean for price in prices):
        left, right = (price.mean / TERA for price in prices)
        axis.annotate("", (right, half), (left, half), arrowprops={"arrowstyle": "<->", "color": "black"})
        axis.text(
            np.sqrt(left * right),
            half,
            f"× {found.over_sft('grpo', HALF).text()}",
            ha="center",
            va="bottom",
            fontsize=10,
        )
    axis.set(xscale="log", xlabel="training TFLOP, rollouts and teacher included", ylabel="mean log2 p of held-out problems (bits)")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    return figure


def shares_figure(found: Found) -> Figure:
    """Share of the available bits against the number of labels (left) and of rollouts (right), a line per start."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.6), sharey=True)
    for index, (name, rung) in enumerate(found.rungs.items()):
        for axis, arm in zip(axes, ("labels", "passes"), strict=True):
            sizes = rung.sizes(arm)
            shares = [label_shares(rung, arm, n) for n in sizes]
            look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 5}
            label = f"{name}, p = {rung.mean_pass_rate:.2g}" if axis is axes[0] else None
            axis.plot(sizes, [share.mean for share in shares], label=label, **look)
            for n, share in zip(sizes, shares, strict=True):
                axis.plot([n] * len(share.values), share.values, linestyle="none", alpha=0.4, **look | {"markersize": 2.5})
    axes[0].set(xlabel="labels", ylabel="share of the available held-out bits")
    axes[1].set(xlabel="rollouts, of which the passes are learned")
    for axis in axes:
        axis.set_xscale("log", base=4)
        axis.xaxis.set_major_formatter(lambda n, _: f"{n:g}")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure
