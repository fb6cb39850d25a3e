"""The pictures of a plan: pass rates with intervals, group sizes, the essay's formula at measured costs, probes."""

from functools import cache

import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.estimators import wilson_interval
from bitsample_llm.information import binary_entropy_bits, surprisal_bits
from bitsample_llm.report.columns import PETA
from bitsample_llm.report.estimates import UNKNOWN, Estimate
from bitsample_llm.report.plan.pass_rates import Counts
from bitsample_llm.report.style import COLOURS, GREY, error_bars, plt

TICKS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1)


def _stretch_pass_rates(axis, which: str) -> None:
    """An axis on which a pass rate estimated from n rollouts is equally uncertain everywhere: arcsin of its square root."""
    scale = (lambda p: np.arcsin(np.sqrt(np.clip(p, 0, 1))), lambda x: np.sin(np.clip(x, 0, np.pi / 2)) ** 2)
    getattr(axis, f"set_{which}scale")("function", functions=scale)
    getattr(axis, f"set_{which}ticks")(TICKS, [f"{tick:g}" for tick in TICKS])
    getattr(axis, f"set_{which}lim")(0, 1)
    axis.tick_params(axis=which, labelsize=9)


def pass_rate_figure(counts: Counts) -> Figure:
    """Left the histogram of the shares that passed, its bars with Wilson intervals; right every prompt with its own interval."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.8))
    num_rollouts = int(counts.num_rollouts.max())
    edges = (np.arange(min(num_rollouts, 32) + 2) - 0.5) / min(num_rollouts, 32)
    edges[0], edges[-1] = 0, 1
    shares = counts.num_passed / counts.num_rollouts
    num_prompts = len(shares)
    heights = np.histogram(shares, edges)[0]
    left.bar(
        edges[:-1], heights / num_prompts, np.diff(edges), align="edge", color=COLOURS[5], edgecolor="white", label="passed / drawn"
    )
    middle = np.sin((np.arcsin(np.sqrt(edges[1:])) + np.arcsin(np.sqrt(edges[:-1]))) / 2) ** 2
    bars = [Estimate(n / num_prompts, wilson_interval(int(n), num_prompts), num_prompts) if n else UNKNOWN for n in heights]
    error_bars(left, middle, bars, fmt="none", color="#333333", capsize=2, linewidth=1)
    if counts.exact is not None:
        true = np.histogram(counts.exact, edges)[0] / num_prompts
        left.stairs(true, edges, color=COLOURS[1], linewidth=1.8, label="exact pass rate")
    left.set_xlabel(f"pass rate (estimates from {num_rollouts} rollouts per prompt)")
    left.set_ylabel("share of prompts")
    left.legend()
    interval_of = cache(wilson_interval)
    order = np.lexsort((counts.exact if counts.exact is not None else counts.num_passed, shares))
    rank = np.arange(num_prompts)
    bounds = np.array([interval_of(int(counts.num_passed[i]), int(counts.num_rollouts[i])) for i in order])
    right.fill_between(rank, *bounds.T, step="mid", color=COLOURS[5], alpha=0.4, label="95 % Wilson interval")
    right.plot(rank, shares[order], color=COLOURS[0], drawstyle="steps-mid", label="passed / drawn")
    if counts.exact is not None:
        right.plot(rank, counts.exact[order], ".", color=COLOURS[1], markersize=2.5, label="exact pass rate")
    right.set_xlabel("prompts, by the share that passed")
    right.set_ylabel("pass rate")
    right.legend(loc="upper left")
    _stretch_pass_rates(left, "x")
    _stretch_pass_rates(right, "y")
    return figure


def group_figure(groups: list[dict], estimated: list[dict]) -> Figure:
    """Left the share of informative groups against group size; right what a FLOP buys, each over its best."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.4))
    sizes = [row["group_size"] for row in groups]
    if groups[0]["source"] == "exact":
        left.plot(sizes, [row["informative_fraction"]["mean"] for row in groups], color=COLOURS[1], label="exact pass rates")
    for source, marker, label in (("counts", "o", "from counts, without bias"), ("fit", "s", "fitted Beta distribution")):
        rows = [row for row in estimated if row["source"] == source]
        if rows:
            shares = [Estimate.of(row["informative_fraction"]) for row in rows]
            look = {"marker": marker, "color": COLOURS[0], "markerfacecolor": "white", "capsize": 3, "label": label}
            error_bars(left, [row["group_size"] for row in rows], shares, **look)
    left.set_ylabel("share of informative groups")
    left.set_ylim(0, 1)
    left.legend()
    drawn = (
        ("informative_groups_per_petaflop", "o-", "informative groups"),
        ("informative_groups_per_petaflop_shared_prefill", "^--", "the same, prompt put in once per group"),
        ("push_per_petaflop", "s:", "push of GRPO"),
    )
    for (key, style, label), colour in zip(drawn, COLOURS, strict=False):
        values = np.array([row[key] for row in groups])
        if values.max() > 0:
            right.plot(sizes, values / values.max(), style, color=colour, label=label)
    right.set_ylabel("per FLOP, over the best group size")
    right.set_ylim(0, 1.05)
    if right.get_legend_handles_labels()[0]:
        right.legend()
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set_xlabel("rollouts per group (G)")
    return figure


def essay_figure(counts: Counts, priced: dict) -> Figure:
    """Bits per petaFLOP of a label and of a rollout against pass rate at measured costs, the prompts below."""
    figure, axis = plt.subplots(figsize=(8.5, 4.8))
    p = 1 / (1 + np.exp(-np.linspace(-7, 12, 800)))
    if priced["label_flops"] is not None:
        axis.plot(p, surprisal_bits(p) / priced["label_flops"] * PETA, "--", color=COLOURS[1], label="label: $-\\log_2 p$")
    axis.plot(p, binary_entropy_bits(p) / priced["rollout_flops"] * PETA, color=COLOURS[0], label="rollout: $H(p)$")
    rates = np.clip(counts.pass_rates(), p[0], p[-1])
    axis.plot(rates, np.full(len(rates), 0.03), "|", color=GREY, transform=axis.get_xaxis_transform(), label="a prompt")
    if priced["break_even_pass_rate"] is not None:
        axis.axvline(priced["break_even_pass_rate"], color=GREY, linewidth=1, linestyle=":", label="break-even")
    axis.set_xscale("logit")
    axis.set_yscale("log")
    ticks = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_xlim(p[0], p[-1])
    axis.set_xlabel("pass rate p (prompts outside the axis stand at its edge)")
    axis.set_ylabel("offered bits per petaFLOP")
    axis.legend()
    return figure


def probe_figure(probes: list[dict]) -> Figure:
    """Mean pass rate as asked and under each probe, with bootstrap intervals over prompts."""
    figure, axis = plt.subplots(figsize=(8.5, 0.8 * len(probes) + 1.6))
    looks = (
        ("pass_rate_as_asked", "o", GREY, "as asked", 0.12),
        ("pass_rate_probed", "D", COLOURS[1], "under the probe", -0.12),
    )
    for key, marker, colour, label, shift in looks:
        rates = [Estimate.of(probe[key]) for probe in probes]
        look = {"marker": marker, "color": colour, "capsize": 3, "label": label, "clip_on": False}
        error_bars(axis, np.arange(len(probes))[::-1] + shift, rates, horizontal=True, **look)
    axis.set_yticks(np.arange(len(probes))[::-1], [f"{probe['name']}: {probe['verdict']}" for probe in probes])
    axis.set_ylim(-0.6, len(probes) - 0.4)
    _stretch_pass_rates(axis, "x")
    axis.set_xlabel("mean pass rate")
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def calibration_figure(calibration: dict) -> Figure:
    """What was forecast for recorded runs, each start left out, against what was paid."""
    figure, axes = plt.subplots(1, len(calibration["points"]), figsize=(9.5, 4.4), squeeze=False, layout="constrained")
    for axis, (kind, points), colour in zip(axes[0], calibration["points"].items(), COLOURS, strict=False):
        for is_known, marker, label in ((True, "o", "paid"), (False, "^", "paid at least")):
            chosen = np.exp([point[:2] for point in points if point[2] == is_known])
            if len(chosen):
                axis.plot(*chosen.T / 1e9, marker, color=colour, markersize=4, alpha=0.5, markeredgewidth=0, label=label)
        ends = (
            np.array(axis.get_xlim()) if len(points) < 2 else np.exp([min(p[0] for p in points), max(p[0] for p in points)]) / 1e9
        )
        axis.plot(ends, ends, color=GREY, linewidth=1)
        axis.fill_between(ends, ends / 2, ends * 2, color=GREY, alpha=0.15, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel="forecast: GFLOP to half of the bits", ylabel="paid (GFLOP)")
        axis.set_title(f"learns from {kind}", loc="left")
        axis.legend(fontsize=8)
    return figure
