"""The pictures: in which cells does the general strategy recede, and what becomes of it?"""

import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.report.style import COLOURS, DASHES, GREY, MARKERS, plt
from eval.studies.jaggedness.bandit import slope_of_kin
from eval.studies.jaggedness.claims import BRIDGE, BRIDGED, FIXED, KIN, SPOKEN, Found
from eval.studies.jaggedness.slopes import WEIGHTS

TITLES = {
    "named": "named (the strategy is one choice)",
    "silent": "silent (digit by digit)",
    "leaning": "named, leaning authors",
    "bysilent": "named, by way of silent",
}
MOVES = {
    1: ("^", COLOURS[0], "runs that rose first"),
    -1: ("v", COLOURS[1], "runs that fell first"),
    0: ("_", GREY, "runs that did neither"),
}


def boundary(objective: str, kin: float, wrong: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Odds, and the share at which a closed form's slope is 0; 1 where it is positive for every share."""
    odds = np.geomspace(0.05, 1.5, 120)
    h = (1 - wrong) / (1 + odds)
    ends = [[slope_of_kin(g, rule, s, WEIGHTS[objective], kin) for s in (0.0, 1.0)] for g, rule in zip(odds * h, h, strict=True)]
    return odds, np.array([1.0 if easy >= 0 else hard / (hard - easy) for hard, easy in ends])


def phase_figure(found: Found, objective: str = "pass_rate") -> Figure:
    """Odds across, share up: the boundary of the bandit and that of kinship, measured crossings of each author, and what runs with SGD did first."""
    starts = [start for start in TITLES if found.authors(start)]
    figure, axes = plt.subplots(1, len(starts), figsize=(4.2 * len(starts) + 0.6, 4.6), sharey=True, squeeze=False)
    for axis, start in zip(axes[0], starts, strict=True):
        for look, (kin, name) in enumerate(((0.0, "bandit"), (KIN, f"kinship {KIN:g}"))):
            axis.plot(*boundary(objective, kin), color="black", linestyle=DASHES[look], linewidth=1.2, label=f"closed form, {name}")
        for place, (model, authors) in enumerate(found.authors(start).items()):
            odds = [np.exp(author.log_odds) for author in authors]
            look = {
                "color": COLOURS[2 + place],
                "marker": MARKERS[place],
                "linestyle": "none",
                "markersize": 7,
                "fillstyle": "none",
            }
            axis.plot(
                odds, [author.share_at_crossing(objective) for author in authors], **look, label=f"measured crossing, {model}"
            )
        for course in found.courses:
            if course.start == start and course.arm in ("sgd", "exact") and course.share:
                marker, colour, label = MOVES[course.first_move]
                axis.plot(
                    [np.exp(course.log_odds[0])],
                    [course.share],
                    marker=marker,
                    color=colour,
                    linestyle="none",
                    markersize=5,
                    alpha=0.7,
                    label=label,
                )
        axis.set(
            xscale="log",
            xlim=(0.07, 1.5),
            ylim=(0.35, 1.02),
            title=TITLES[start],
            xlabel="odds of the general strategy over the rule",
        )
        axis.set_xticks([0.1, 0.2, 0.5, 1], ["0.1", "0.2", "0.5", "1"])
        axis.set_xticks([], minor=True)
    axes[0][0].set_ylabel("share of problems on which the rule is right")
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def courses_figure(found: Found) -> Figure:
    """ln(right / rule) against training FLOPs at author F, a row per model: learners on the left, mixes of problems on the right; a line per run."""
    start, mark, share = FIXED
    models = list(found.authors(start))
    figure, axes = plt.subplots(len(models), 2, figsize=(9.6, 3.6 * len(models)), sharex=True, squeeze=False)
    learners = [(SPOKEN[arm], found.of(FIXED, arm)) for arm in BRIDGE]
    mixes = [(f"GRPO, SGD, s = {other:g}", found.of((start, mark, other), "sgd")) for other in (0.99, *BRIDGED)]
    for row, model in zip(axes, models, strict=True):
        for axis, side, what in zip(row, (learners, mixes), (f"s = {share:g}", "mixes of problems"), strict=True):
            for look, (name, courses) in enumerate(side):
                style = {"color": COLOURS[look], "linestyle": DASHES[look], "linewidth": 1.1}
                for number, course in enumerate(course for course in courses if course.model == model):
                    axis.plot(np.array(course.flops) / 1e9, course.log_odds, **style, label=name if number == 0 else None)
            axis.axhline(0, color=GREY, linewidth=0.8)
            axis.set(xlim=(0, 260), title=f"{start} {mark}, {model}: {what}")
        row[0].set_ylabel("mean ln(p right / p rule)")
    for axis in axes[-1]:
        axis.set_xlabel("training GFLOP")
        axis.legend(fontsize=7)
    return figure
