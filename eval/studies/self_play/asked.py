"""How often was asked what passes about every other time, and who was proposed? Shares by update, and their pictures."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.report.asked import Asked
from bitsample_llm.report.estimates import Estimate, over_seeds
from bitsample_llm.report.style import COLOURS, DASHES, plt

NEAR_HALF = (0.3, 0.7)
WINDOWS = {"1 to 10": (1, 10), "11 to 30": (11, 30), "31 on": (31, 10**9)}  # updates
STATUSES = {"asked": "asked", "no_place": "no place", "invalid": "no problem", "repeated": "repeated", "held_out": "held out"}
GFLOP = 1e9


def share_near_half(rows: Sequence[Asked], arm: str, window: tuple[int, int]) -> Estimate:
    """Share of what an arm asked in a window of updates whose pass rate lay near a half: mean over runs, the t interval over them."""
    by_run: dict[tuple, list[bool]] = {}
    for row in rows:
        if row.arm == arm and row.pass_rate is not None and window[0] <= row.step <= window[1]:
            by_run.setdefault((row.model, row.seed), []).append(NEAR_HALF[0] <= row.pass_rate <= NEAR_HALF[1])
    return over_seeds([float(np.mean(near)) for near in by_run.values()])


def author_counts(rows: Sequence[Asked], arm: str, model: str, window: tuple[int, int]) -> dict[str, float]:
    """Share of each author among the problems that were proposed in a window."""
    authors = [
        row.author for row in rows if (row.arm, row.model) == (arm, model) and row.author and window[0] <= row.step <= window[1]
    ]
    return {author: authors.count(author) / len(authors) for author in sorted(set(authors))}


def pass_rates_figure(rows: Sequence[Asked], spoken: dict[str, str], bins: int = 14) -> Figure:
    """Mean exact pass rate of what each arm asked, against training FLOPs, a panel per pretraining seed."""
    models = sorted({row.model for row in rows})
    figure, axes = plt.subplots(1, len(models), figsize=(4.6 * len(models) + 1.0, 4.2), squeeze=False, sharey=True)
    for axis, model in zip(axes[0], models, strict=True):
        of_model = [row for row in rows if row.model == model and row.pass_rate is not None]
        edges = np.geomspace(2e8, max(row.flops for row in of_model), bins + 1)
        axis.axhspan(*NEAR_HALF, color="#dddddd", linewidth=0)
        for index, arm in enumerate(spoken):
            flops, rates = (np.array([getattr(row, name) for row in of_model if row.arm == arm]) for name in ("flops", "pass_rate"))
            places = np.digitize(flops, edges)
            shown = [place for place in range(1, bins + 1) if (places == place).sum() >= 4]
            centres = [np.sqrt(edges[place - 1] * edges[place]) / GFLOP for place in shown]
            look = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS)], "linewidth": 1.4}
            axis.plot(centres, [rates[places == place].mean() for place in shown], label=spoken[arm], **look)
        axis.set(xscale="log", xlabel="training GFLOP", title=f"start {model}", ylim=(0, 1))
    axes[0][0].set_ylabel("exact pass rate of what was asked")
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def authors_figure(rows: Sequence[Asked], spoken: dict[str, str]) -> Figure:
    """Who is proposed, window by window, a panel per pretraining seed and arm of self-play."""
    panels = sorted({(row.model, row.arm) for row in rows if row.text is not None})
    figure, axes = plt.subplots(1, len(panels), figsize=(2.9 * len(panels) + 0.8, 3.4), squeeze=False, sharey=True)
    for axis, (model, arm) in zip(axes[0], panels, strict=True):
        for index, (name, window) in enumerate(WINDOWS.items()):
            shares = author_counts(rows, arm, model, window)
            axis.bar(np.arange(len(shares)) + 0.27 * (index - 1), shares.values(), width=0.27, color=COLOURS[index], label=name)
        authors = author_counts(rows, arm, model, (1, 10**9))
        axis.set_xticks(range(len(authors)), authors)
        axis.set_title(f"{model}: {spoken[arm]}", fontsize=9)
    axes[0][0].set_ylabel("share of the proposals")
    figure.legend(*axes[0][0].get_legend_handles_labels(), title="updates", loc="outside lower center", ncols=3, fontsize=8)
    return figure
