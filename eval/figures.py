"""The pictures of the report, from runs in numbers. Every seed is drawn; colours are told apart by the colour-blind."""

import math
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.glossary import TRAINING_PHASES
from bitsample_llm.information import binary_entropy_bits, surprisal_bits
from eval.arms import Arm, draws_rollouts
from eval.sampled import rate_bounds

# Okabe and Ito's palette; markers and dashes say the same once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-", "--")

BLOCK = 64  # samples averaged into one point before binning: a mean of two labels says little about either

plt.rcParams.update(
    {
        "font.size": 11,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "svg.fonttype": "path",
        "svg.hashsalt": "bitsample_llm",
    }
)


def plain(name: str) -> str:
    """A name as matplotlib shows it letter by letter: a $ begins no formula, and a leading _ does not hide it from legends."""
    return (" " * name.startswith("_") + name).replace("$", r"\$")


def styles(arms: Sequence[Arm]) -> dict[str, dict]:
    """One look an arm's name, the same in every figure."""
    names = list(dict.fromkeys(arm.name for arm in arms))
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": DASHES[i % len(DASHES)]}
        for i, name in enumerate(names)
    }


def _offered_points(arm: Arm) -> np.ndarray:
    """(mean exact pass rate, mean offered bits a sample) of every block of `BLOCK` consecutive samples of every seed.

    A label is the accepted answer, so its surprisal is its problem's exact pass rate. Where several answers pass, rollouts are at
    the share that passed and labels have no point.
    """
    points = [np.empty((0, 2))]
    for result in arm.results:
        table = result.run.table("prompts")
        if not table.num_rows or (result.curve.is_sampled and arm.regime != "rl"):
            continue
        bits = table["offered_bits"].to_numpy()
        pass_rates = table["pass_rate"].to_numpy() if arm.regime == "rl" else np.exp2(-bits)
        if result.curve.is_sampled:
            pass_rates = table["num_passed"].to_numpy() / table["group_size"].to_numpy()
        size = BLOCK // (table["group_size"][0].as_py() or 1)
        blocks = max(len(bits) // size, 1)
        means = [[part.mean() for part in np.array_split(values, blocks)] for values in (pass_rates, bits)]
        points.append(np.array(means).T)
    return np.concatenate(points)


def _believed_points(arm: Arm, key: str) -> np.ndarray:
    """(mean exact pass rate, mean believed bits a sample) of every step of every seed."""
    lines = [line for result in arm.results for line in result.run.steps]
    found = [(line["group/pass_rate"], line[key]) for line in lines if line.get("group/pass_rate") and line.get(key) is not None]
    return np.array(found).reshape(-1, 2)


def _binned(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points averaged in bins of the log of the pass rate, six a decade."""
    points = points[~np.isnan(points).any(axis=1)]
    keys = np.round(np.log10(np.maximum(points[:, 0], 1e-9)) * 6)
    means = np.array([points[keys == key].mean(axis=0) for key in np.unique(keys)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def essay_figure(arms: Sequence[Arm]) -> Figure:
    """Offered bits a sample against pass rate on a linear and a log axis, and the consistent pair beside them, which exists where
    one answer passes.
    """
    look = styles(arms)
    has_belief = not draws_rollouts(arms)
    starts = list(dict.fromkeys(arm.start for arm in arms))
    figure, axes = plt.subplots(1, 2 + has_belief, figsize=(13 if has_belief else 9, 4.4))
    p_linear = np.linspace(1e-4, 1 - 1e-6, 500)
    p_log = np.geomspace(1e-4, 1 - 1e-6, 500)
    for axis, p in ((axes[0], p_linear), (axes[1], p_log)):
        axis.plot(p, surprisal_bits(p), color="#444444", label="label: $-\\log_2 p$")
        axis.plot(p, binary_entropy_bits(p), color="#444444", linestyle=":", label="verdict: $H(p)$")
        for arm in arms:
            x, y = _binned(_offered_points(arm))
            if not x.size:  # a coin offers nothing that is measured
                continue
            face = look[arm.name]["color"] if arm.start == starts[0] else "white"
            options = {
                "marker": look[arm.name]["marker"],
                "color": look[arm.name]["color"],
                "markerfacecolor": face,
                "markersize": 6,
            }
            axis.plot(x, y, linestyle="none", label=plain(f"{arm.name}, {arm.start}"), **options)
        axis.set_xlabel("pass rate p")
        axis.set_ylabel("offered bits per sample")
    axes[0].set_ylim(0, 8)
    axes[0].set_title("The essay's pair, linear axis")
    axes[1].set_title("The essay's pair, log axes")
    axes[1].set_xscale("log")
    axes[1].set_yscale("log")
    axes[1].set_xlim(1e-4, 1.5)
    axes[1].set_ylim(1e-3, 20)
    figure.legend(*axes[1].get_legend_handles_labels(), fontsize=9, loc="outside lower left", ncols=3)
    if not has_belief:
        return figure
    axes[2].set_title("One convention for both: believed bits")
    for arm in arms:
        if arm.regime != "rl" or arm.name.endswith("_random"):
            continue
        face = look[arm.name]["color"] if arm.start == starts[0] else "white"
        for key, marker, what in (("bits/surprisal_per_sample", "v", "label"), ("bits/believed_per_sample", "^", "verdict")):
            x, y = _binned(_believed_points(arm, key))
            options = {"marker": marker, "color": look[arm.name]["color"], "markerfacecolor": face}
            axes[2].plot(x, y, linestyle="none", label=plain(f"{what}, policy of {arm.name}, {arm.start}"), **options)
    axes[2].set_xscale("log")
    axes[2].set_xlim(1e-4, 1.5)
    axes[2].set_ylim(bottom=0)
    axes[2].set_xlabel("pass rate p")
    axes[2].set_ylabel("expected bits per sample")
    figure.legend(*axes[2].get_legend_handles_labels(), fontsize=9, loc="outside lower right")
    return figure


def learning_figure(arms: Sequence[Arm]) -> Figure:
    """Held-out surprisal (above) and pass rate (below) against cumulative training FLOPs, one column a start."""
    look = styles(arms)
    starts = list(dict.fromkeys(arm.start for arm in arms))
    figure, axes = plt.subplots(2, len(starts), figsize=(5.2 * len(starts) + 1.2, 7), squeeze=False, sharex=True, sharey="row")
    left_edge = min(result.curve.flops[result.curve.flops > 0].min() for arm in arms for result in arm.results) / 2
    for column, start in enumerate(starts):
        for arm in (arm for arm in arms if arm.start == start):
            style = look[arm.name]
            for index, result in enumerate(arm.results):
                x = np.maximum(result.curve.flops, left_edge)
                options = {"color": style["color"], "linestyle": style["linestyle"], "marker": style["marker"], "markersize": 3}
                options |= {"linewidth": 1.1, "alpha": 0.8, "label": plain(arm.name) if index == 0 else None}
                axes[0][column].plot(x, result.curve.surprisal_bits, **options)
                axes[1][column].plot(x, result.curve.pass_rate, **options)
                if result.curve.is_sampled:
                    band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
                    axes[1][column].fill_between(x, *rate_bounds(result.curve), **band)
        axes[0][column].set_title(plain(f"{start} start"))
        axes[0][column].set_xscale("log")
        if all(result.curve.pass_rate.all() for arm in arms for result in arm.results):
            axes[1][column].set_yscale("log")
        else:  # a mean of rollouts may be 0
            lowest = min(1 / result.curve.num_rollouts_P.sum() for arm in arms for result in arm.results)
            axes[1][column].set_yscale("symlog", linthresh=lowest)
        axes[1][column].set_xlabel("training FLOPs, rollouts included\n(leftmost points: before training)")
    whose = "the\nreference answer" if draws_rollouts(arms) else "the answer"
    axes[0][0].set_ylabel(f"held-out surprisal of {whose} (bits)")
    axes[1][0].set_ylabel("mean held-out pass rate")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="every seed a line")
    return figure


def rate_figure(arms: Sequence[Arm]) -> Figure:
    """Absorbed bits a petaFLOP by arm and start: every seed a point, mean and 95 % t interval beside it."""
    look = styles(arms)
    figure, axis = plt.subplots(figsize=(8.5, 0.55 * len(arms) + 1.6))
    key = "unsaturated_bits_per_petaflop"
    for row, arm in enumerate(reversed(arms)):
        summary = arm.summary(key)
        values = arm.measured(key)
        style = look[arm.name]
        axis.plot(values, [row] * len(values), linestyle="none", marker=style["marker"], color=style["color"], alpha=0.6)
        if summary["interval"]:
            low, high = summary["interval"]
            axis.errorbar(
                [summary["mean"]],
                [row - 0.25],
                xerr=[[summary["mean"] - low], [high - summary["mean"]]],
                color=style["color"],
                marker="|",
                capsize=4,
            )
    axis.set_yticks(range(len(arms)), [plain(f"{arm.name}, {arm.start} (n = {len(arm.results)})") for arm in reversed(arms)])
    axis.axvline(0, color="#444444", linewidth=0.8)
    largest = max((abs(value) for arm in arms for value in arm.measured(key)), default=1.0)
    axis.set_xscale("symlog", linthresh=10 ** math.floor(math.log10(max(largest, 1.0)) - 2), linscale=0.6)
    axis.margins(x=0.08)
    axis.set_xlabel("absorbed bits per held-out problem per petaFLOP, before saturation")
    return figure


def phase_figure(arms: Sequence[Arm]) -> Figure:
    """Where the FLOPs went: share of each phase by arm, means over seeds."""
    figure, axis = plt.subplots(figsize=(8.5, 0.45 * len(arms) + 1.8))
    left = np.zeros(len(arms))
    hatches = ("", "//", "..", "xx", "\\\\", "++", "oo")
    for index, phase in enumerate(TRAINING_PHASES):
        shares = np.array(
            [np.mean([r.values[f"flops_{phase}"] / r.values["total_flops"] for r in arm.results]) for arm in reversed(arms)]
        )
        if shares.any():
            axis.barh(
                range(len(arms)),
                shares * 100,
                left=left,
                color=COLOURS[index],
                hatch=hatches[index],
                edgecolor="white",
                label=phase,
            )
            left += shares * 100
    axis.set_yticks(range(len(arms)), [plain(f"{arm.name}, {arm.start}") for arm in reversed(arms)])
    axis.set_xlabel("share of training FLOPs (%)")
    axis.set_xlim(0, 100)
    axis.set_axisbelow(True)
    axis.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.4, 1.0), fontsize=9)
    return figure
