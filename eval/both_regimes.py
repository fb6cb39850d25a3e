"""How many rollouts buy what one label buys, with few samples and with fresh ones: one picture from two or three records.

python -m eval.both_regimes eval/records/EXCHANGE/results.json eval/records/PRICE/results.json \\
    --pretrained eval/records/PRETRAINED/results.json --output_file figure.png
"""

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.report.style import COLOURS, MARKERS, beside, draw_laws, plt

TARGET = "half of the bits"
NAMES = {"grpo": "GRPO", "rloo": "RLOO", "reinforce": "no baseline"}


def draw_estimates(axis, estimates: list[tuple[float, dict]], label: str, **look) -> None:
    """(pass rate, estimate) each: pretraining seeds small, their geometric mean large."""
    for p, estimate in estimates:
        values = estimate["values"]
        axis.plot([p] * len(values), values, markersize=3, linestyle="none", alpha=0.6, **look)
        axis.plot([p], [estimate["mean"]], markersize=7, linestyle="none", label=label, **look)
        label = None


def draw_pretrained(axis, pretrained: dict) -> None:
    """The really pretrained model's price in rollouts, GRPO: seeds small, their mean large."""
    estimate = pretrained["over_sft"]["grpo"][TARGET]["samples"]
    if estimate["mean"]:
        look = {"color": "black", "marker": "*", "markeredgecolor": "white"}
        p = pretrained["pass_rate"]
        axis.plot([p] * len(estimate["values"]), estimate["values"], markersize=5, linestyle="none", alpha=0.6, **look)
        axis.plot([p], [estimate["mean"]], markersize=14, linestyle="none", label="GRPO, SmolLM2-135M", **look)


def both_regimes_figure(exchange: dict, price: dict, pretrained: dict | None = None) -> Figure:
    """Data-limited left, compute-limited right; small points are pretraining seeds (of the pretrained model: training seeds), large ones their mean."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.6), sharey=True)
    rates = [
        (float(np.mean(list(exchange["pass_rates"][rung].values()))), estimate)
        for rung, estimate in exchange["exchange_rates"].items()
        if estimate["mean"]
    ]
    draw_estimates(left, rates, color=COLOURS[5], marker="P", label="SFT on the passes")
    left.set_title("few samples, free compute:\nrollouts that teach what one label teaches", loc="left")
    left.set_ylabel("rollouts per label")
    for index, (arm, name) in enumerate(NAMES.items(), 1):
        for reason, fill in (("latent", "full"), ("unacquired", "none")):
            found = [
                (beside(start["mean_pass_rate"], index - 2), estimate)
                for rung, start in price["starts"].items()
                if start["reason"] == reason and (estimate := price["rollouts_per_label"][TARGET].get(f"{rung}, {arm}"))
                if estimate["mean"]
            ]
            look = {"color": COLOURS[index], "marker": MARKERS[index], "fillstyle": fill}
            draw_estimates(right, found, label=f"{name}, {reason}", **look)
    if pretrained is not None:
        draw_pretrained(right, pretrained)
    right.set_title(f"fresh rollouts at every update:\nto {TARGET}, reached and kept", loc="left")
    for axis in (left, right):
        draw_laws(axis, lowest=0.01)
        axis.legend(fontsize=9, loc="lower left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exchange", type=Path, help="results.json of a record of the exchange study")
    parser.add_argument("price", type=Path, help="results.json of a record of the price study")
    parser.add_argument("--pretrained", type=Path, help="results.json of a record of the pretrained study")
    parser.add_argument("--output_file", type=Path, required=True)
    options = parser.parse_args()
    paths = options.exchange, options.price, options.pretrained
    exchange, price, pretrained = (None if path is None else json.loads(path.read_text()) for path in paths)
    both_regimes_figure(exchange, price, pretrained).savefig(options.output_file, dpi=150)


if __name__ == "__main__":
    main()
