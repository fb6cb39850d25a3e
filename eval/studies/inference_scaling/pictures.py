"""The pictures: what each remedy saves, and what each age of pretraining pays in all."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from bitsample_llm.report.prices import HALF, NINE_TENTHS
from bitsample_llm.report.style import COLOURS, GREY, MARKERS, plt
from eval.studies.inference_scaling.claims import AGE_TARGETS, SPOKEN, Found, age_rows

SHOWN_FACTORS = (0.05, 40.0)  # an interval without an end goes to the edge


def factors_figure(found: Found) -> Figure:
    """Factors against plain GRPO with intervals, a panel per start and a row per arm; an open mark where there is only a bound."""
    rungs = found.rungs
    figure, axes = plt.subplots(1, len(rungs), figsize=(4.6 * len(rungs) + 1.6, 4.2), sharey=True, squeeze=False)
    arms = [arm for arm in SPOKEN if arm not in ("grpo", "rloo", "reinforce") and any(arm in found.arms(rung) for rung in rungs)]
    for axis, rung in zip(axes[0], rungs, strict=True):
        axis.axvline(1, color=GREY, linewidth=0.8)
        for index, target in enumerate((HALF, NINE_TENTHS)):
            for row, arm in enumerate(reversed(arms)):
                saved = found.factor(rung, arm, target)
                look = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 5, "linestyle": "none"}
                place = row + 0.12 - 0.24 * index
                if saved.bound is not None:
                    axis.plot([saved.bound], [place], **look | {"marker": ">" if saved.is_above else "<", "fillstyle": "none"})
                elif saved.estimate.mean is not None:
                    low, high = np.clip(saved.estimate.interval, *SHOWN_FACTORS)
                    axis.plot([low, high], [place, place], color=COLOURS[index], linewidth=1)
                    axis.plot([saved.estimate.mean], [place], **look, label=target.name)
        p = np.mean([run.pass_rate[0] for run in found.of(rung, "grpo")])
        axis.set(xscale="log", xlim=SHOWN_FACTORS, title=f"{rung}, p = {p:.2g}", xlabel="FLOPs of plain GRPO over FLOPs of the arm")
        axis.set_yticks(range(len(arms)), [SPOKEN[arm] for arm in reversed(arms)])
        axis.xaxis.set_major_locator(LogLocator(base=10))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def ages_figure(found: Found) -> Figure:
    """FLOPs from an age to a target, against the age: by each arm, and by going on with pretraining; a panel per target."""
    figure, axes = plt.subplots(1, len(AGE_TARGETS), figsize=(11.5, 4.2), sharey=True)
    for axis, target in zip(axes, AGE_TARGETS, strict=True):
        rows = age_rows(found, target)
        for index, arm in enumerate(
            name for name in ("sft", "grpo", "rloo", "reinforce") if any(row["arm"] == name for row in rows)
        ):
            shift = 1.06 ** (index - 1.5)
            for is_reached in (True, False):
                chosen = [row for row in rows if (row["arm"], row["reached"]) == (arm, is_reached)]
                look = {
                    "color": COLOURS[index],
                    "marker": MARKERS[index] if is_reached else "^",
                    "fillstyle": "full" if is_reached else "none",
                }
                places = [float(row["age"]) * shift for row in chosen]
                axis.plot(
                    places,
                    [row["price"] / 1e9 for row in chosen],
                    linestyle="none",
                    markersize=5,
                    label=SPOKEN[arm] if is_reached or not any(row["reached"] for row in rows if row["arm"] == arm) else None,
                    **look,
                )
        on = {(row["model"], row["age"]): row["on"] for row in rows if row["on"] is not None}
        axis.plot(
            [float(age) * 1.2 for _, age in on],
            [flops / 1e9 for flops in on.values()],
            color="black",
            marker="_",
            markersize=12,
            linestyle="none",
            label="going on with pretraining",
        )
        axis.set(xscale="log", yscale="log", title=f"to {target.name}", xlabel="pass rate at which pretraining was stopped")
        ages = sorted({float(row["age"]) for row in rows})
        axis.set_xticks(ages, [f"{age:g}" for age in ages])
        axis.xaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("GFLOP from there to the target")
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8)
    return figure
