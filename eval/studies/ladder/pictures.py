"""The pictures of the ladder."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.report.columns import ABSORBED_BITS, PASS_RATE_BEFORE
from bitsample_llm.report.pictures import lines_of
from bitsample_llm.report.runs import Arm, by_start
from bitsample_llm.report.style import COLOURS, GREY, MARKERS, TIP, error_bars, looks, plain, plt
from eval.studies.ladder.rungs import REASONS, NoiseAt, pass_rates

ESTIMATORS = {"sft_0": "a label", "reinforce_expected": "REINFORCE", "rloo_expected": "RLOO", "grpo_expected": "GRPO"}
FILLS = dict(zip(REASONS, ("full", "none", "left"), strict=True))


def _look(reason: str | None, index: int) -> dict:
    colour = COLOURS[REASONS.index(reason)] if reason in REASONS else GREY
    return {
        "color": colour,
        "marker": MARKERS[index],
        "fillstyle": FILLS.get(reason, "bottom"),
        "linestyle": "none",
        "markersize": 7,
    }


def _legend(axis, reasons: Sequence[str | None], names: Sequence[str], **where) -> None:
    """Colours are reasons, markers are names."""
    handles = [plt.Line2D([], [], label=reason or "no reason given", **_look(reason, 0)) for reason in dict.fromkeys(reasons)]
    handles += [plt.Line2D([], [], color=GREY, linestyle="none", marker=MARKERS[i], label=name) for i, name in enumerate(names)]
    handles += [line for line in axis.get_lines() if not line.get_label().startswith("_")]
    axis.legend(handles=handles, fontsize=9, **where)


def noise_figure(noise: Sequence[NoiseAt]) -> Figure:
    """Noise scale of one label and of one rollout against pass rate."""
    figure, axis = plt.subplots(figsize=(6.0, 4.8))
    for at in noise:
        for index, estimator in enumerate(ESTIMATORS):
            if scale := at.scale(estimator):
                gid = f"{TIP}{ESTIMATORS[estimator]} from {at.start}: {scale.text()} samples, {scale.n} prompts"
                axis.plot([at.pass_rate], [scale.mean], gid=gid, **_look(at.reason, index))
                error_bars(axis, [at.pass_rate], [scale], color=_look(at.reason, index)["color"], marker="none")
    p = np.geomspace(min(at.pass_rate for at in noise), 0.97, 50)
    axis.plot(p, 1 / p, color=GREY, linestyle="--", label="1/p, one prompt")
    axis.set(xscale="log", yscale="log", xlabel="mean pass rate, exact", ylabel="noise scale (labels or rollouts)")
    _legend(axis, [at.reason for at in noise if any(map(at.scale, ESTIMATORS))], list(ESTIMATORS.values()))
    return figure


def mean_pass_at_k(pass_rates_: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Mean over problems of 1 - (1 - p)^k, exact.

    >>> mean_pass_at_k(np.array([0.5, 1.0]), np.array([1.0, 2.0])).tolist()
    [0.75, 0.875]
    """
    with np.errstate(divide="ignore"):
        return -np.expm1(k[:, None] * np.log1p(-np.minimum(pass_rates_, 1.0))).mean(axis=1)


def pass_at_k_figure(arms: Sequence[Arm]) -> Figure:
    """Exact pass@k up to a million before and after, a panel per start, every seed a line."""
    starts, k = by_start(arms), np.geomspace(1, 1e6, 61)
    look = {name: {key: style[key] for key in ("color", "linestyle")} for name, style in looks(arms).items()}
    figure, axes = plt.subplots(len(starts), 1, figsize=(7.0, 2.8 * len(starts) + 0.4), squeeze=False, sharex=True)
    for axis, (start, of_start) in zip(axes[:, 0], starts.items(), strict=True):
        axis.plot(k, mean_pass_at_k(pass_rates(of_start[0].runs[0].run, "heldout")[0], k), color="black", label="before training")
        for run, style in lines_of(of_start, look, lambda run: f"{run.value(ABSORBED_BITS):.3g} bits absorbed"):
            axis.plot(k, mean_pass_at_k(pass_rates(run.run, "heldout")[1], k), **style)
        axis.set(xscale="log", ylim=(0, 1.03), ylabel="pass@k")
        axis.set_title(plain(f"{start} start, p = {of_start[0].runs[0].value(PASS_RATE_BEFORE):.3g}"), loc="left")
        axis.legend(fontsize=9)
    axes[-1, 0].set_xlabel("k")
    return figure
