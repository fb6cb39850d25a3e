"""The pictures of the ladder. Every figure answers the question in its title; bars are 95 % intervals."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.information import binary_entropy_bits, surprisal_bits
from eval.arms import Arm
from eval.claims import TRANSFER_SPLITS, gained_by_both, pass_rates, push, transfer
from eval.figures import COLOURS, DASHES, MARKERS
from eval.ladder import DECOMPOSITION, Cell, Ladder

REASONS = {"latent": (COLOURS[0], "full"), "unacquired": (COLOURS[1], "none"), "between": (COLOURS[7], "left")}
SIZE = (7.0, 5.0)
GRID = np.geomspace(1e-3, 0.97, 200)


def _errorbar(axis, x: float, summary: dict, **look) -> None:
    """A mean with its interval; without an interval the mean alone."""
    if summary["interval"]:
        low, high = summary["interval"]
        error = [[summary["mean"] - low], [high - summary["mean"]]]
        axis.errorbar([x], [summary["mean"]], yerr=error, capsize=3, linestyle="none", **look)
    elif summary["mean"] is not None:
        axis.plot([x], [summary["mean"]], linestyle="none", **look)


def _look(reason: str, marker: str) -> dict:
    colour, fill = REASONS[reason]
    return {"color": colour, "marker": marker, "fillstyle": fill, "markersize": 7}


def _legend(axis, reasons: Sequence[str], markers: dict[str, str], **where) -> None:
    handles = [plt.Line2D([], [], linestyle="none", label=reason, **_look(reason, "o")) for reason in reasons]
    handles += [plt.Line2D([], [], linestyle="none", color="#444444", marker=m, label=name) for name, m in markers.items()]
    lines = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
    axis.legend(handles=[*handles, *lines], fontsize=9, **where)


def _exchange_points(axis, cells: Sequence[Cell], x_of, arms: dict[str, str]) -> None:
    for cell in cells:
        for arm, marker in arms.items():
            if (x := x_of(cell)) is None or (exchange := cell.exchange(arm)) is None:
                continue
            if exchange["reached"] == len(cell.arms[arm].results) == exchange["n"]:
                _errorbar(axis, x, exchange, **_look(cell.reason, marker))


def exchange_figure(ladder: Ladder) -> Figure:
    """Rollouts a label against exact pass rate, with both predictions, and against coherence."""
    figure, (axis, beside) = plt.subplots(2, 1, figsize=(7.0, 9.0), height_ratios=(3, 2))
    arms = {"grpo": "o", "rloo": "s"}
    _exchange_points(axis, ladder.cells, lambda cell: cell.pass_rate, arms)
    axis.plot(GRID, surprisal_bits(GRID) / binary_entropy_bits(GRID), color="#444444", label="−log2 p / H(p), the essay")
    axis.plot(GRID, 1 / GRID, color="#444444", linestyle="--", label="1/p, policy-gradient algebra")
    axis.set(xscale="log", yscale="log", xlabel="exact pass rate before training", ylabel="rollouts that buy the gain of one label")
    axis.set_ylim(0.1, 1e4)
    reasons = list(dict.fromkeys(cell.reason for cell in ladder.cells if set(arms) & set(cell.arms)))
    _legend(axis, reasons, arms, loc="upper right")
    _exchange_points(beside, ladder.cells, lambda cell: cell.coherence, arms)
    beside.set(yscale="log", xlabel="coherence: cosine of training and held-out gradients", ylabel="rollouts a label")
    return figure


def decomposition_figure(ladder: Ladder) -> Figure:
    """FLOPs to the same gain, arm by arm, against pass rate; a panel a reason, lines join the rungs of one ladder."""
    reasons = [reason for reason in ("latent", "unacquired") if any(cell.reason == reason for cell in ladder.cells)]
    figure, axes = plt.subplots(len(reasons), 1, figsize=(7.0, 4.2 * len(reasons)), squeeze=False, sharex=True, sharey=True)
    for axis, reason in zip(axes[:, 0], reasons, strict=True):
        for index, arm in enumerate(DECOMPOSITION):
            cells = [c for c in ladder.cells if c.reason == reason and arm in c.arms and c.arms[arm].measured("flops_to_target")]
            look = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": DASHES[index]}
            axis.plot([], [], label=arm, **look)
            for ladder_name in dict.fromkeys(cell.start.rsplit(" ", 1)[0] for cell in cells):
                rungs = [cell for cell in cells if cell.start.startswith(ladder_name)]
                flops = [np.array(cell.arms[arm].measured("flops_to_target")) / 1e9 for cell in rungs]
                means = [float(np.exp(np.log(of_rung).mean())) for of_rung in flops]
                axis.plot([cell.pass_rate for cell in rungs], means, **look)
                for cell, of_rung in zip(rungs, flops, strict=True):
                    seeds = look | {"linestyle": "none", "alpha": 0.35, "markersize": 3}
                    axis.plot([cell.pass_rate] * len(of_rung), of_rung, **seeds)
        axis.set(xscale="log", yscale="log", ylabel="GFLOP to the gain")
        axis.set_title(f"{reason} skill", loc="left")
        axis.legend(fontsize=9, ncols=2)
    axes[-1, 0].set_xlabel("exact pass rate before training")
    return figure


def absorbed_figure(ladder: Ladder) -> Figure:
    """The essay's figure from measurements: bits offered a sample, and held-out bits absorbed a sample and a petaFLOP."""
    figure, axes = plt.subplots(3, 1, figsize=(7.0, 10.5), sharex=True)
    axes[0].plot(GRID, surprisal_bits(GRID), color="#444444", label="a label, −log2 p")
    axes[0].plot(GRID, binary_entropy_bits(GRID), color="#444444", linestyle="--", label="a verdict, H(p)")
    arms = {"sft": "o", "grpo": "s"}
    for cell in ladder.cells:
        for arm, marker in arms.items():
            if arm not in cell.arms:
                continue
            offered = cell.surprisal_bits if arm == "sft" else cell.entropy_bits
            axes[0].plot([cell.pass_rate], [offered], linestyle="none", **_look(cell.reason, marker))
            for axis, key, scale in ((axes[1], "samples_to_target", 1.0), (axes[2], "flops_to_target", 1e15)):
                values = [scale * r.values["target_bits"] / r.values[key] for r in cell.arms[arm].results if r.values[key]]
                axis.plot([cell.pass_rate] * len(values), values, linestyle="none", alpha=0.6, **_look(cell.reason, marker))
    for axis, label in zip(axes, ("offered bits a sample", "absorbed bits a sample", "absorbed bits a PFLOP"), strict=True):
        axis.set(xscale="log", yscale="log", ylabel=label)
    axes[0].set_ylim(0.005, 20)
    axes[2].set_xlabel("exact pass rate before training")
    _legend(axes[0], list(dict.fromkeys(cell.reason for cell in ladder.cells)), arms, ncols=2)
    return figure


def noise_figure(ladder: Ladder) -> Figure:
    """Gradient noise scale in samples against pass rate."""
    figure, axis = plt.subplots(figsize=SIZE)
    arms = {"sft_0": "o", "reinforce_expected": "^", "rloo_expected": "s", "grpo_expected": "D"}
    for cell in ladder.cells:
        for arm, marker in arms.items():
            if summary := cell.noise_scale(arm):
                _errorbar(axis, cell.pass_rate, summary, **_look(cell.reason, marker))
    axis.plot(GRID, 1 / GRID, color="#444444", linestyle="--", label="1/p, one prompt")
    axis.set(xscale="log", yscale="log", xlabel="exact pass rate", ylabel="noise scale, labels or rollouts")
    markers = {name.removesuffix("_expected").replace("sft_0", "sft"): marker for name, marker in arms.items()}
    _legend(axis, list(dict.fromkeys(cell.reason for cell in ladder.cells)), markers)
    return figure


def pass_at_k_figure(ladder: Ladder) -> Figure:
    """Exact pass@k up to a million before and after, a panel a start."""
    cells = ladder.long
    figure, axes = plt.subplots(len(cells), 1, figsize=(7.0, 3.2 * len(cells)), squeeze=False, sharex=True)
    k = np.geomspace(1, 1e6, 61)
    for axis, cell in zip(axes[:, 0], cells, strict=True):
        before = pass_rates(cell.arms["sft"].results[0].run, "heldout")[0]
        axis.plot(k, mean_pass_at_k(before, k), color="#000000", label="before")
        for index, arm in enumerate(arm for arm in ("sft", "grpo", "random") if arm in cell.arms):
            curves = [mean_pass_at_k(pass_rates(result.run, "heldout")[1], k) for result in cell.arms[arm].results]
            look = {"color": COLOURS[index], "linestyle": DASHES[index + 1]}
            axis.plot(k, np.mean(curves, axis=0), label=arm, **look)
            axis.fill_between(k, np.min(curves, axis=0), np.max(curves, axis=0), color=look["color"], alpha=0.15)
        axis.set(xscale="log", ylim=(0, 1.03), ylabel="pass@k")
        axis.set_title(f"{cell.start} (p = {cell.pass_rate:.3g})", loc="left")
        axis.legend(fontsize=9)
    axes[-1, 0].set_xlabel("k")
    return figure


def mean_pass_at_k(pass_rates_: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Mean over problems of 1 - (1 - p)^k, exact.

    >>> mean_pass_at_k(np.array([0.5, 1.0]), np.array([1.0, 2.0])).tolist()
    [0.75, 0.875]
    """
    with np.errstate(divide="ignore"):
        return -np.expm1(k[:, None] * np.log1p(-np.minimum(pass_rates_, 1.0))).mean(axis=1)


def push_figure(ladder: Ladder) -> Figure:
    """Push of a rollout over that of a label under plain SGD."""
    figure, axis = plt.subplots(figsize=SIZE)
    for index, arm in enumerate(("pass_rate", "rloo", "grpo")):
        for cell in ladder.push:
            if arm in cell.arms:
                of_arm, of_sft = push(cell.arms[arm]), push(cell.arms["sft"])
                ratios = [of_arm[seed] / of_sft[seed] for seed in of_arm if of_arm[seed] > 0 and of_sft.get(seed, 0) > 0]
                look = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": "none", "alpha": 0.6}
                axis.plot([cell.pass_rate] * len(ratios), ratios, label=arm if cell is ladder.push[0] else None, **look)
    axis.plot(GRID, GRID, color="#444444", linestyle="--", label="p, the algebra")
    axis.plot(GRID, binary_entropy_bits(GRID) / surprisal_bits(GRID), color="#444444", label="H(p) / −log2 p, the essay")
    axis.set(xscale="log", yscale="log", xlabel="exact pass rate", ylabel="push over that of a label")
    axis.legend(fontsize=9)
    return figure


def transfer_figure(ladder: Ladder) -> Figure:
    """Bits absorbed on shifted problems a bit absorbed in distribution, GRPO against SFT."""
    figure, axis = plt.subplots(figsize=SIZE)
    for split, marker in zip(TRANSFER_SPLITS, MARKERS, strict=False):
        for cell in ladder.cells:
            if not gained_by_both(cell):
                continue
            x, y = (list(transfer(cell.arms[arm], split).values()) for arm in ("sft", "grpo"))
            if x and y:
                axis.plot([np.mean(x)], [np.mean(y)], linestyle="none", **_look(cell.reason, marker))
    low, high = min(*axis.get_xlim(), *axis.get_ylim()), max(*axis.get_xlim(), *axis.get_ylim())
    axis.plot([low, high], [low, high], color="#444444", linewidth=1, label="the same")
    axis.set(xlabel="SFT: bits there a bit in distribution", ylabel="GRPO: bits there a bit in distribution")
    markers = dict(zip(TRANSFER_SPLITS.values(), MARKERS, strict=False))
    _legend(axis, list(dict.fromkeys(cell.reason for cell in ladder.cells)), markers)
    return figure


def completion_tokens(arm: Arm) -> float:
    """Mean tokens of a completion over all samples of an arm, its end included."""
    lines = [result.run.steps[-1] for result in arm.results]
    return float(np.mean([line["tokens/completion"] / line["samples/total"] for line in lines]))


def length_figure(ladder: Ladder) -> Figure:
    """FLOPs of the gain, and samples of it, against the length of the completion."""
    figure, axes = plt.subplots(2, 1, figsize=(7.0, 7.5), sharex=True)
    for index, arm in enumerate(("sft", "grpo")):
        points = sorted((completion_tokens(c.arms[arm]), c.arms[arm]) for c in ladder.length if arm in c.arms)
        look = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": DASHES[index]}
        for axis, key, scale in ((axes[0], "flops_to_target", 1e-9), (axes[1], "samples_to_target", 1.0)):
            measured = [(tokens, np.array(of_arm.measured(key)) * scale) for tokens, of_arm in points if of_arm.measured(key)]
            means = [float(np.exp(np.log(values).mean())) for _, values in measured]
            axis.plot([tokens for tokens, _ in measured], means, label=arm, **look)
            for tokens, values in measured:
                axis.plot([tokens] * len(values), values, **look | {"linestyle": "none", "alpha": 0.35, "markersize": 3})
            if axis is axes[0] and measured:
                tokens = np.array([tokens for tokens, _ in measured])
                line = {"color": look["color"], "linewidth": 0.8, "linestyle": ":"}
                axis.plot(tokens, means[0] * tokens / tokens[0], label=f"{arm}, in proportion to the length", **line)
    axes[0].set(xscale="log", yscale="log", ylabel="GFLOP to +1 bit")
    axes[1].set(xscale="log", yscale="log", ylabel="samples to +1 bit", xlabel="tokens of a completion")
    axes[0].legend(fontsize=9)
    return figure
