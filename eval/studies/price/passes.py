"""The picture of labels and rollouts at the same passes per update: `python -m eval.studies.price.passes RUNS... --output_file FILE`.

What is drawn is how many labels, or rollouts that pass (rollouts times the pass rate before training), it took to half of the bits, kept, against how many of them an
update had. Where the number of updates counts a line rises with the batch; where the number of labels counts it is flat.
"""

import argparse
from pathlib import Path

import numpy as np

from bitsample_llm.report.prices import HALF, PricedRun, read_prices
from bitsample_llm.report.style import COLOURS, GREY, plt

SEED, RATE = 5, 1e-4
PANELS = {
    "latent C same": "latent, p = .48",
    "latent I same": "latent, p = .63",
    "unacquired 0.6 anew": "unacquired, p = .60",
    "unacquired 0.3 anew": "unacquired, p = .34",
}
MODELS = ("base", "rungs1", "rungs2", "ages0", "ages1", "ages2", "ages3", "ages4")


def batch_and_price(run: PricedRun) -> tuple[float, float] | None:
    """Labels, or rollouts times the mean pass rate before training, of an update, and to half of the bits, kept; None where it was not kept."""
    samples, is_kept = run.price(HALF, "samples")
    passes_per_sample = 1.0 if run.arm.startswith("sft") else run.pass_rate[0]
    return (run.settings["per_device_train_batch_size"] * passes_per_sample, samples * passes_per_sample) if is_kept else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output_file", type=Path, required=True)
    options = parser.parse_args()
    runs = [run for run in read_prices(options.runs) if run.seed == SEED and run.settings["learning_rate"] == RATE]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(10, 3.8), sharex=True, sharey=True)
    for axis, (rung, title) in zip(axes, PANELS.items(), strict=True):
        for model in sorted({run.tags["model"] for run in runs if run.tags["rung"] == rung}):
            for sort, fill, dash in (("sft", "full", "-"), ("reinforce", "none", "--")):
                of_line = [
                    run for run in runs if (run.tags["rung"], run.tags["model"]) == (rung, model) and run.arm.startswith(sort)
                ]
                points = sorted(point for run in of_line if (point := batch_and_price(run)) is not None)
                axis.plot(
                    *np.transpose(points),
                    marker="o",
                    fillstyle=fill,
                    linestyle=dash,
                    color=COLOURS[MODELS.index(model)],
                    label=model,
                )
        axis.set(xscale="log", yscale="log", title=title)
        axis.set_xticks([4, 8, 16], ["4", "8", "16"])
        axis.minorticks_off()
    axes[0].set_ylabel("labels, or passes, to half of the bits, kept")
    figure.supxlabel("labels, or passes, per update", fontsize="medium")
    handles = [
        plt.Line2D([], [], color=GREY, marker="o", fillstyle=f, linestyle=d, label=n)
        for f, d, n in (("full", "-", "SFT on labels"), ("none", "--", "REINFORCE on rollouts"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=9)
    figure.savefig(options.output_file, dpi=150)


if __name__ == "__main__":
    main()
