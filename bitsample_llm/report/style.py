"""One look for all pictures: colours told apart by the colour-blind, a marker and a dash for each, error bars, hover texts."""

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from bitsample_llm.information import binary_entropy_bits, surprisal_bits
from bitsample_llm.report.estimates import Estimate
from bitsample_llm.report.page import TIP
from bitsample_llm.report.runs import Arm, MeasuredRun

# Okabe and Ito's palette; markers and dashes say the same once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-", "--")
GREY = "#444444"

plt.rcParams.update(
    {
        "font.size": 10,
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


def beside(p: float, place: int) -> float:
    """A pass rate near p, so that arms of one start are drawn beside each other: `place` steps of 6 % in its odds."""
    odds = p / (1 - p) * 1.06**place
    return odds / (1 + odds)


def draw_laws(axis, lowest: float) -> None:
    """1/p and the essay's -log2 p / H(p), rollouts per label against a pass rate from `lowest` on, both axes logarithmic; nothing is fitted."""
    p = np.geomspace(lowest, 0.985, 200)
    axis.plot(p, 1 / p, color="black", linewidth=1, label="1/p")
    essay = surprisal_bits(p) / binary_entropy_bits(p)
    axis.plot(p, essay, color="black", linewidth=1, linestyle="--", label="essay: -log2 p / H(p)")
    axis.set(xscale="log", yscale="log", xlabel="exact pass rate p before training")


def plain(name: str) -> str:
    """A name as a figure shows it letter by letter: a $ begins no formula, and a leading _ does not hide it from legends."""
    return (" " * name.startswith("_") + name).replace("$", r"\$")


def looks(arms: Sequence[Arm]) -> dict[str, dict]:
    """One look for each name of an arm, the same in every figure."""
    names = list(dict.fromkeys(arm.name for arm in arms))
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": DASHES[i % len(DASHES)]}
        for i, name in enumerate(names)
    }


def tip(run: MeasuredRun, text: str) -> str:
    """What a reader sees on hover over a point of a run."""
    training = run.run.manifest.get("config", {}).get("training", {})
    setting = ", ".join(
        f"{word} {training[key]:g}"
        for word, key in (("learning rate", "learning_rate"), ("batch", "per_device_train_batch_size"))
        if training.get(key) is not None
    )
    return f"{TIP}{run.arm} from {run.start}, seed {run.seed}{', ' * bool(setting)}{setting}: {text}"


def error_bars(axis, at: Sequence[float], estimates: Sequence[Estimate], horizontal: bool = False, **look) -> None:
    """Means with their intervals; without an interval the mean alone, without a mean nothing."""
    shown = [(place, estimate) for place, estimate in zip(at, estimates, strict=True) if estimate.mean is not None]
    if not shown:
        return
    means = [estimate.mean for _, estimate in shown]
    places = [place for place, _ in shown]
    reach = None
    if any(estimate.interval for _, estimate in shown):
        bounds = np.array([estimate.interval or (estimate.mean, estimate.mean) for _, estimate in shown])
        reach = np.abs(bounds.T - means)
    x, y, name = (means, places, "xerr") if horizontal else (places, means, "yerr")
    axis.errorbar(x, y, **{name: reach, "capsize": 4, "linestyle": "none", **look})
