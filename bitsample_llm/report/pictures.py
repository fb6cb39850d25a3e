"""The pictures that any comparison of runs has. Every seed is drawn; hovering over a point says which."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.information import binary_entropy_bits, surprisal_bits
from bitsample_llm.records.glossary import TRAINING_PHASES
from bitsample_llm.report import sampled
from bitsample_llm.report.columns import ABSORBED_BITS, FLOPS_BY_PHASE, FLOPS_TO_TARGET, RATE_BEFORE_SATURATION, TARGET, TOTAL_FLOPS
from bitsample_llm.report.estimates import number_text
from bitsample_llm.report.pairs import paired_ratio, seeds_at_target
from bitsample_llm.report.runs import Arm, MeasuredRun, by_start, draws_rollouts, rivals
from bitsample_llm.report.sampled import rate_bounds
from bitsample_llm.report.study import Picture
from bitsample_llm.report.style import COLOURS, GREY, error_bars, looks, plain, plt, tip

GAIN = (
    "Bits absorbed on held-out problems against training FLOPs, every seed a line. The arrow spans the FLOPs to the same gain, SFT "
    "on the left and RL on the right; brackets hold the 95 % t interval over seeds."
)
LEARNING = (
    "Surprisal of the right answer and mean pass rate on problems whose operands were trained on in no form, against all FLOPs of "
    "training."
)
ESSAY = (
    "Lines are the essay's two formulas; points show where the recorded samples fell, in blocks of 64 averaged over bins of the pass "
    "rate. The essay's pair compares a realised surprisal with an expected entropy, so a verdict seems to tell more than a label "
    "above p = 0.5. In the right panel both are what a policy expects to learn from its own completion: there a label never tells "
    "less."
)
RATES = (
    "Each point is a seed; the bar below is the mean with its 95 % t interval over seeds. The axis is linear around 0 and logarithmic "
    "outside. Runs that absorbed half of the bits are rated up to that point, the others over their whole budget."
)
PHASES = "Executed FLOPs, padding and finished rows included."
BLOCK = 64  # samples averaged into one point before binning: a mean of two labels says little about either


def first_flops(arms: Sequence[Arm]) -> float:
    """FLOPs of the first evaluation after training began, least of all runs: where a logarithmic axis begins."""
    return min(run.curve.flops[run.curve.flops > 0].min() for arm in arms for run in arm.runs)


def lines_of(arms: Sequence[Arm], look: dict[str, dict], told: Callable[[MeasuredRun], str]) -> Iterator[tuple[MeasuredRun, dict]]:
    """Each run with the style of its line, labelled once for each arm; hovering says what `told` makes of the run."""
    for arm in arms:
        for index, run in enumerate(arm.runs):
            label = plain(arm.name) if index == 0 else None
            style = {"markersize": 3, "linewidth": 1.1, "alpha": 0.8, "label": label, "gid": tip(run, told(run))}
            yield run, look[arm.name] | style


def gain_figure(arms: Sequence[Arm]) -> Figure:
    """Absorbed bits against training FLOPs, a panel per start; drawn in: FLOPs to the target, the first arm of RL over SFT."""
    starts = by_start(arms)
    figure, axes = plt.subplots(len(starts), 1, figsize=(5.6, 2.8 * len(starts) + 0.8), squeeze=False, sharex=True)
    left_edge = first_flops(arms) / 1.5
    for axis, (start, of_start) in zip(axes[:, 0], starts.items(), strict=True):
        for run, style in lines_of(of_start, looks(arms), lambda run: f"{number_text(run.value(ABSORBED_BITS))} bits absorbed"):
            axis.plot(np.maximum(run.curve.flops, left_edge), run.curve.absorbed_bits, **style)
        axis.set_xscale("log")
        available = of_start[0].runs[0].curve.available_bits
        if not math.isnan(available):
            axis.axhline(available, color=GREY, linewidth=0.8, linestyle=":")
            axis.annotate("all there is", (left_edge, available), fontsize=9, color=GREY, va="bottom")
            gains = np.concatenate([run.curve.absorbed_bits for arm in of_start for run in arm.runs])
            lowest = float(np.min(gains[~np.isnan(gains)], initial=0.0))
            axis.set_ylim(bottom=max(-0.6 * available, lowest - 0.1))  # what is lost beyond that is not the question
        axis.set_title(plain(f"{start} start"), loc="left")
        axis.set_ylabel("absorbed bits\nper held-out problem")
        _draw_ratio(axis, of_start)
    axes[-1, 0].set_xlabel("training FLOPs, rollouts included")
    handles = {label: line for axis in axes[:, 0] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, fontsize=9)
    return figure


def _draw_ratio(axis, arms: Sequence[Arm]) -> None:
    """An arrow at the height of the target from SFT's FLOPs to those of RL."""
    sft, rl = rivals(arms)
    if sft is None or rl is None:
        return
    ratio, target = paired_ratio(rl, sft, FLOPS_TO_TARGET), sft.runs[0].value(TARGET)
    if ratio.n < len(rl.runs):
        axis.axhline(target, color="black", linewidth=0.8)
        text = f"+{target:g} bit: {seeds_at_target((sft, rl), ', ')}"
        axis.annotate(text, (0.02, target), xycoords=("axes fraction", "data"), va="bottom", fontsize=9)
        return
    box = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1}
    start, end = (float(np.exp(np.mean(np.log(arm.measured(FLOPS_TO_TARGET))))) for arm in (sft, rl))
    axis.annotate("", (end, target), (start, target), arrowprops={"arrowstyle": "<->", "color": "black"})
    middle, above = (math.sqrt(start * end), target), {"xytext": (0, 5), "textcoords": "offset points"}
    axis.annotate(f"× {ratio.text()} FLOPs", middle, ha="center", bbox=box, **above)


def learning_figure(arms: Sequence[Arm]) -> Figure:
    """Held-out surprisal (above) and pass rate (below) against cumulative training FLOPs, one column per start."""
    starts = by_start(arms)
    figure, axes = plt.subplots(2, len(starts), figsize=(5.2 * len(starts) + 1.2, 7), squeeze=False, sharex=True, sharey="row")
    left_edge = first_flops(arms) / 2
    for (above, below), (start, of_start) in zip(axes.T, starts.items(), strict=True):
        for run, style in lines_of(of_start, looks(arms), lambda run: "held-out problems"):
            x = np.maximum(run.curve.flops, left_edge)
            above.plot(x, run.curve.surprisal_bits, **style)
            below.plot(x, run.curve.pass_rate, **style)
            if run.curve.is_sampled:
                below.fill_between(x, *rate_bounds(run.curve), color=style["color"], alpha=0.15, linewidth=0)
        above.set_title(plain(f"{start} start"))
        above.set_xscale("log")
        if all(run.curve.pass_rate.all() for arm in arms for run in arm.runs):
            below.set_yscale("log")
        else:  # a mean of rollouts may be 0
            lowest = min(1 / run.curve.num_rollouts_P.sum() for arm in arms for run in arm.runs)
            below.set_yscale("symlog", linthresh=lowest)
        below.set_xlabel("training FLOPs, rollouts included\n(leftmost points: before training)")
    whose = "the\nreference answer" if draws_rollouts(arms) else "the answer"
    axes[0][0].set_ylabel(f"held-out surprisal of {whose} (bits)")
    axes[1][0].set_ylabel("mean held-out pass rate")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="every seed a line")
    return figure


def _offered_points(arm: Arm) -> np.ndarray:
    """(mean exact pass rate, mean offered bits per sample) of every block of `BLOCK` consecutive samples of every seed.

    A label is the accepted answer, so its surprisal is its problem's exact pass rate. Where several answers pass, rollouts are at
    the share that passed and labels have no point.
    """
    points = [np.empty((0, 2))]
    for run in arm.runs:
        table = run.run.table("prompts")
        if not table.num_rows or (run.curve.is_sampled and arm.regime != "rl"):
            continue
        bits = table["offered_bits"].to_numpy()
        pass_rates = table["pass_rate"].to_numpy() if arm.regime == "rl" else np.exp2(-bits)
        if run.curve.is_sampled:
            pass_rates = table["num_passed"].to_numpy() / table["group_size"].to_numpy()
        size = BLOCK // (table["group_size"][0].as_py() or 1)
        blocks = max(len(bits) // size, 1)
        means = [[part.mean() for part in np.array_split(values, blocks)] for values in (pass_rates, bits)]
        points.append(np.array(means).T)
    return np.concatenate(points)


def _believed_points(arm: Arm, key: str) -> np.ndarray:
    """(mean exact pass rate, mean believed bits per sample) of every step of every seed."""
    lines = [line for run in arm.runs for line in run.run.steps]
    found = [(line["group/pass_rate"], line[key]) for line in lines if line.get("group/pass_rate") and line.get(key) is not None]
    return np.array(found).reshape(-1, 2)


def _binned(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points averaged in bins of the log of the pass rate, six a decade."""
    points = points[~np.isnan(points).any(axis=1)]
    keys = np.round(np.log10(np.maximum(points[:, 0], 1e-9)) * 6)
    means = np.array([points[keys == key].mean(axis=0) for key in np.unique(keys)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def essay_figure(arms: Sequence[Arm]) -> Figure:
    """Offered bits per sample against pass rate on log axes; next to them the consistent pair, where one answer passes."""
    look, has_belief = looks(arms), not draws_rollouts(arms)
    legend_rows = max(len(arms) // 2 + 1, 2 * sum(arm.regime == "rl" for arm in arms))
    figure, axes = plt.subplots(
        1, 2 if has_belief else 1, figsize=(11 if has_belief else 6, 4.0 + 0.2 * legend_rows), squeeze=False
    )
    axes = axes[0]
    p = np.geomspace(1e-4, 1 - 1e-6, 500)
    axes[0].plot(p, surprisal_bits(p), color=GREY, label="label: −log2 p")
    axes[0].plot(p, binary_entropy_bits(p), color=GREY, linestyle=":", label="verdict: H(p)")
    for arm in arms:
        face = look[arm.name]["color"] if arm.start == arms[0].start else "white"
        options = {"color": look[arm.name]["color"], "markerfacecolor": face, "linestyle": "none"}
        x, y = _binned(_offered_points(arm))
        if x.size:  # a random reward offers nothing that is measured
            axes[0].plot(x, y, label=plain(f"{arm.name}, {arm.start}"), marker=look[arm.name]["marker"], **options)
        if arm.regime != "rl" or arm.is_control or not has_belief:
            continue
        for key, marker, what in (("bits/surprisal_per_sample", "v", "label"), ("bits/believed_per_sample", "^", "verdict")):
            x, y = _binned(_believed_points(arm, key))
            axes[1].plot(x, y, label=plain(f"{what}, policy of {arm.name}, {arm.start}"), marker=marker, **options)
    axes[0].set(title="The essay's pair", xscale="log", yscale="log", xlim=(1e-4, 1.5), ylim=(1e-3, 20))
    for axis, what in zip(axes, ("offered", "expected"), strict=False):
        axis.set(xlabel="pass rate p", ylabel=f"{what} bits per sample")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=9, loc="outside lower left", ncols=2)
    if has_belief:
        axes[1].set(title="One convention for both: believed bits", xscale="log", xlim=(1e-4, 1.5))
        axes[1].set_ylim(bottom=0)
        figure.legend(*axes[1].get_legend_handles_labels(), fontsize=9, loc="outside lower right")
    return figure


def rate_figure(arms: Sequence[Arm]) -> Figure:
    """Absorbed bits per PFLOP by arm and start: every seed a point, mean and 95 % t interval below."""
    look = looks(arms)
    figure, axis = plt.subplots(figsize=(8.5, 0.55 * len(arms) + 1.6))
    for row, arm in enumerate(reversed(arms)):
        style = {"color": look[arm.name]["color"]}
        for run in arm.runs:
            if (value := run.value(RATE_BEFORE_SATURATION)) is None:
                continue
            point = {"marker": look[arm.name]["marker"], "linestyle": "none", "alpha": 0.6, **style}
            axis.plot([value], [row], gid=tip(run, f"{number_text(value)} bits per PFLOP"), **point)
        error_bars(axis, [row - 0.25], [arm.estimate(RATE_BEFORE_SATURATION)], horizontal=True, marker="|", **style)
    axis.set_yticks(range(len(arms)), [plain(f"{arm.name}, {arm.start} (n = {len(arm.runs)})") for arm in reversed(arms)])
    axis.axvline(0, color=GREY, linewidth=0.8)
    largest = max((abs(value) for arm in arms for value in arm.measured(RATE_BEFORE_SATURATION)), default=1.0)
    axis.set_xscale("symlog", linthresh=10 ** math.floor(math.log10(max(largest, 1.0)) - 2), linscale=0.6)
    axis.margins(x=0.08)
    axis.set_xlabel("absorbed bits per held-out problem per PFLOP, before saturation")
    return figure


def phase_figure(arms: Sequence[Arm]) -> Figure:
    """Where the FLOPs went: share of each phase by arm, means over seeds."""
    figure, axis = plt.subplots(figsize=(8.5, 0.45 * len(arms) + 1.8))
    left = np.zeros(len(arms))
    hatches = ("", "//", "..", "xx", "\\\\", "++", "oo")
    for index, phase in enumerate(TRAINING_PHASES):
        column = FLOPS_BY_PHASE[phase]
        shares = np.array([np.mean([r.value(column) / r.value(TOTAL_FLOPS) for r in arm.runs]) for arm in reversed(arms)])
        if shares.any():
            bars = {"left": left, "color": COLOURS[index], "hatch": hatches[index], "edgecolor": "white", "label": phase}
            axis.barh(range(len(arms)), shares * 100, **bars)
            left += shares * 100
    axis.set_yticks(range(len(arms)), [plain(f"{arm.name}, {arm.start}") for arm in reversed(arms)])
    axis.set_xlabel("share of training FLOPs (%)")
    axis.set_xlim(0, 100)
    axis.set_axisbelow(True)
    axis.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.4, 1.0), fontsize=9)
    return figure


def main_picture(arms: Sequence[Arm]) -> Picture:
    """Absorbed bits against FLOPs with the ratio drawn in."""
    return Picture("gain", "How many FLOPs buy the same gain?", lambda: gain_figure(arms), GAIN)


def pictures_of(arms: Sequence[Arm]) -> list[Picture]:
    """The pictures below the main one."""
    learning, essay = (sampled.LEARNING, sampled.ESSAY) if draws_rollouts(arms) else (LEARNING, ESSAY)
    return [
        Picture("learning", "What did a FLOP buy on held-out problems?", lambda: learning_figure(arms), learning),
        Picture("essay", "What does a sample offer, against the pass rate?", lambda: essay_figure(arms), essay),
        Picture("rates", "How fast were bits absorbed before saturation?", lambda: rate_figure(arms), RATES),
        Picture("phases", "Where did the FLOPs go?", lambda: phase_figure(arms), PHASES),
    ]
