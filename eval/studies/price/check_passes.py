"""Labels and rollouts at the same passes per update, from the raw runs alone: `python -m eval.studies.price.check_passes RECORD`.

Prints what each batch took to half of the bits, and which of the predictions in README.md ("Why is a rollout worth more ...") came out.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from eval.studies.price.check_longer import interval_text, median, price, welch_text

UNACQUIRED, LATENT = "unacquired 0.6 anew", ("latent C same", "latent I same")
ARMS = ("sft_4", "sft_16", "reinforce_8", "reinforce_32")
PAIRS = {  # what is divided by what
    "labels, 16 per update over 4": ("sft_16", "sft_4"),
    "rollouts, 32 per update over 8": ("reinforce_32", "reinforce_8"),
    "rollouts per label, 32 over 4": ("reinforce_32", "sft_4"),
    "rollouts per label, 32 over 16": ("reinforce_32", "sft_16"),
    "rollouts per label, 8 over 4": ("reinforce_8", "sft_4"),
}


def main() -> None:
    cells: dict[tuple[str, str, str], list[dict]] = {}
    for run in pq.read_table(Path(sys.argv[1]) / "runs" / "lines.parquet").to_pylist():
        tags = json.loads(run["tags"])
        if tags.get("part") == "passes":
            run["log2_p_before"] = np.array(run["log2_p_before"])
            cells.setdefault((tags["rung"], tags["model"], run["arm"]), []).append(run)
    for share in (0.25, 0.5):
        print(
            f"\n{share:.0%} of the bits, kept: labels or rollouts and (updates), median over training seeds; > where fewer than half got there"
        )
        found: dict[tuple[str, str, str], float] = {}
        for rung in (UNACQUIRED, *LATENT):
            for arm in ARMS:
                told = []
                for model in sorted({model for other, model, one in cells if (other, one) == (rung, arm)}):
                    runs = cells[rung, model, arm]
                    samples, updates = (median([price(run, amount, share) for run in runs]) for amount in ("samples", "updates"))
                    if samples is None:
                        told.append(f"{model} > {max(price(run, 'samples', share)[0] for run in runs):.0f}")
                    else:
                        found[rung, model, arm] = math.log(samples)
                        told.append(f"{model} {samples:.0f} ({updates:.0f})")
                print(f"  {rung:<20}{arm:<13}", "  ".join(told))
        for name, (above, below) in PAIRS.items():
            logs = {
                rung: np.array(
                    [
                        found[rung, model, above] - value
                        for (other, model, arm), value in found.items()
                        if (other, arm) == (rung, below) and (rung, model, above) in found
                    ]
                )
                for rung in (UNACQUIRED, *LATENT)
            }
            print(f"  {name}:", "; ".join(f"{rung} {interval_text(values)}" for rung, values in logs.items()))
            for rung in LATENT:
                if min(len(logs[rung]), len(logs[UNACQUIRED])) > 1:
                    print(f"    {UNACQUIRED} over {rung}: {welch_text(logs[UNACQUIRED], logs[rung])}")


if __name__ == "__main__":
    main()
