"""The picture of ages: what is paid from each of them to a target."""

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bitsample_llm.report.style import COLOURS, MARKERS, plt
from eval.studies.inference_scaling.claims import AGE_TARGETS, SPOKEN_AT_AGES, Found, age_rows


def ages_figure(found: Found) -> Figure:
    """FLOPs from an age to a target, against the age: by each arm, and by going on with pretraining; a panel per target."""
    figure, axes = plt.subplots(1, len(AGE_TARGETS), figsize=(11.5, 4.2), sharey=True)
    for axis, target in zip(axes, AGE_TARGETS, strict=True):
        rows = age_rows(found, target)
        for index, arm in enumerate(name for name in SPOKEN_AT_AGES if any(row["arm"] == name for row in rows)):
            shift = 1.06 ** (index - 1.5)
            look = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 5, "linestyle": "none"}
            for is_reached, fill in ((True, "full"), (False, "none")):
                chosen = [row for row in rows if (row["arm"], row["reached"]) == (arm, is_reached)]
                places, prices = [float(row["age"]) * shift for row in chosen], [row["price"] / 1e9 for row in chosen]
                axis.plot(places, prices, fillstyle=fill, **look)
            axis.plot([], [], label=SPOKEN_AT_AGES[arm], **look)
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
