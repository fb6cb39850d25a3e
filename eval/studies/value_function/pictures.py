"""The picture of the study's own: is the head right about the probability of passing?"""

from matplotlib.figure import Figure

from bitsample_llm.report.stops import PLACES, calibration
from bitsample_llm.report.style import COLOURS, GREY, MARKERS, plt
from eval.studies.value_function.claims import Found

FEWEST = 10  # rollouts in a bin that is drawn


def reliability_figure(found: Found, arm: str = "run_on") -> Figure:
    """Share that passed against the value, a row per start and a column per place in the rollout; first and second half of the generations."""
    rungs = [rung for rung in found.rungs if found.stops_of(rung, arm)]
    figure, axes = plt.subplots(
        len(rungs), len(PLACES), figsize=(9.6, 3.2 * len(rungs) + 0.6), sharex=True, sharey=True, squeeze=False
    )
    for row, rung in zip(axes, rungs, strict=True):
        for place, axis in enumerate(row):
            axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
            for half, label in enumerate(("first half", "second half")):
                if (of_place := calibration(found.stops_of(rung, arm), place, half)) is None:
                    continue
                bins = [of_bin for of_bin in of_place.bins if of_bin[2] >= FEWEST]
                sizes = [12 + 160 * num / of_place.num for _, _, num in bins]
                values, shares = [value for value, _, _ in bins], [share for _, share, _ in bins]
                axis.plot(values, shares, color=COLOURS[half], linewidth=0.8)
                axis.scatter(values, shares, s=sizes, color=COLOURS[half], marker=MARKERS[half], label=label)
            axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title=f"{rung}, {PLACES[place]}")
        row[0].set_ylabel("share that passed")
    for axis in axes[-1]:
        axis.set_xlabel("value: probability of passing")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return figure
