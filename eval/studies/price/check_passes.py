"""Labels and rollouts at the same passes per update, from the raw runs alone: `python -m eval.studies.price.check_passes RECORD RECORD_OF_MORE_PRICES`.

Prints what each batch took to a share of the bits, and the ratios of the predictions in README.md ("Why is a rollout worth more ..."). A ratio over models is not measured
where one of them has no price.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from eval.studies.price.check_longer import interval_text, median, price, welch_text

LATENT = "latent C same"
RUNGS = ("unacquired 0.6 anew", "unacquired 0.3 anew", LATENT, "latent I same")
SEED = 5
PAIRS = {  # what is divided by what
    "labels, 16 per update over 4": ("sft_16", "sft_4"),
    "rollouts, 32 per update over 8": ("reinforce_32", "reinforce_8"),
    "rollouts per label, 32 over 4": ("reinforce_32", "sft_4"),
    "rollouts per label, 32 over 16": ("reinforce_32", "sft_16"),
    "rollouts per label, 8 over 4": ("reinforce_8", "sft_4"),
    "labels, 16 over 4, at a tenth of the rate": ("sft_16_slow", "sft_4_slow"),
    "labels, 16 over 4, at a third of the rate": ("sft_16_third", "sft_4_third"),
}


def runs_of(record: Path) -> list[dict]:
    """Runs of one training seed at the starts that are compared, SFT with 4 labels by one name."""
    rows = pq.read_table(record / "runs" / "lines.parquet").to_pylist()
    rows = [row | {"tags": json.loads(row["tags"]), "log2_p_before": np.array(row["log2_p_before"])} for row in rows]
    rows = [row for row in rows if row["tags"]["rung"] in RUNGS and row["seed"] == SEED]
    return [row | {"arm": {"sft": "sft_4", "reinforce": "reinforce_32"}.get(row["arm"], row["arm"])} for row in rows]


def main() -> None:
    cells: dict[tuple[str, str, str], list[dict]] = {}
    for run in (run for record in map(Path, sys.argv[1:]) for run in runs_of(record)):
        cells.setdefault((run["tags"]["rung"], run["arm"], run["tags"]["model"]), []).append(run)
    arms = sorted({arm for _, arm, _ in cells}, key=lambda arm: (not arm.startswith("sft"), len(arm), arm))
    for share in (0.25, 0.4, 0.5):
        print(f"\n{share:.0%} of the bits, kept: labels or rollouts and (updates); > where it is not known to be kept")
        logs: dict[tuple[str, str], dict[str, float]] = {}
        for rung in RUNGS:
            for arm in arms:
                told = []
                for model in sorted({model for other, one, model in cells if (other, one) == (rung, arm)}):
                    runs = cells[rung, arm, model]
                    samples, updates = (median([price(run, amount, share) for run in runs]) for amount in ("samples", "updates"))
                    if samples is None:
                        told.append(f"{model} > {max(price(run, 'samples', share)[0] for run in runs):.0f}")
                    else:
                        logs.setdefault((rung, arm), {})[model] = math.log(samples)
                        told.append(f"{model} {samples:.0f} ({updates:.1f})")
                if told:
                    print(f"  {rung:<20}{arm:<13}", "  ".join(told))
        for name, (above, below) in PAIRS.items():
            ratios = {}
            for rung in RUNGS:
                models = {model for other, one, model in cells if other == rung and one in (above, below)}
                known = sorted(model for model in models if all(model in logs.get((rung, arm), {}) for arm in (above, below)))
                if models and {(rung, above), (rung, below)} <= {key[:2] for key in cells}:
                    ratios[rung] = np.array([logs[rung, above][model] - logs[rung, below][model] for model in known])
                    each = ", ".join(f"{model} {math.exp(value):.2f}" for model, value in zip(known, ratios[rung], strict=True))
                    text = (
                        interval_text(ratios[rung]) if len(known) == len(models) else f"not measured at all of {len(models)} models"
                    )
                    print(f"  {name}, {rung}: {text} ({each})")
                    if len(known) < len(models):
                        ratios.pop(rung)
            for rung, values in ratios.items():
                if rung != LATENT and LATENT in ratios and len(values) > 1:
                    print(f"    {rung} over {LATENT}: {welch_text(values, ratios[LATENT])}")


if __name__ == "__main__":
    main()
