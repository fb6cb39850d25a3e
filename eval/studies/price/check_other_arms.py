"""Dr. GRPO and the exact gradient at unacquired starts, from the raw runs alone: `python -m eval.studies.price.check_other_arms RECORD_OF_PRICES RECORD`.

Prints the predictions of README.md ("Two other arms at unacquired starts"): each is held against SFT's and RLOO's run of the same start, model and training seed.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from eval.studies.price.check_longer import interval_text, price

RUNGS = ("unacquired 0.1", "unacquired 0.3")
SEED = 1
CLOSE = 0.1


def runs_of(records: list[Path]) -> dict[tuple[str, str, str], dict]:
    """Runs of one training seed by start, arm and model."""
    found = {}
    for row in (row for record in records for row in pq.read_table(record / "runs" / "lines.parquet").to_pylist()):
        tags = json.loads(row["tags"])
        if tags["rung"] in RUNGS and row["seed"] == SEED:
            found[tags["rung"], row["arm"], tags["model"]] = row | {"log2_p_before": np.array(row["log2_p_before"])}
    return found


def share_gained(run: dict, flops: float) -> float:
    """Share of the available bits that the run had gained at these FLOPs, linear between evaluations."""
    before = np.mean(run["log2_p_before"])
    return float(1 - np.interp(flops, run["flops"], run["log2_p"]) / before)


def first_crossing(run: dict, share: float) -> float | None:
    """FLOPs at which the run first had a share of the bits, kept or not; None if it never had."""
    level = np.mean(run["log2_p_before"]) * (1 - share)
    after = next((at for at, value in enumerate(run["log2_p"]) if value >= level), None)
    if after is None:
        return None
    return float(np.interp(level, run["log2_p"][after - 1 : after + 1], run["flops"][after - 1 : after + 1]))


def text_of(value: float | None) -> str:
    """GFLOP."""
    return "never" if value is None else f"{value / 1e9:.0f}"


def main() -> None:
    runs = runs_of(list(map(Path, sys.argv[1:])))
    for rung in RUNGS:
        models = sorted({model for other, _, model in runs if other == rung})
        logs, close = [], 0
        print(f"\n{rung}")
        for model in models:
            sft, rloo, exact, dr_grpo = (runs[rung, arm, model] for arm in ("sft", "rloo", "exact", "dr_grpo"))
            firsts = [first_crossing(run, 0.5) for run in (exact, sft)]
            if None not in firsts:
                logs.append(math.log(firsts[0] / firsts[1]))
            kept, is_kept = price(exact, "flops", 0.5)
            end = min(dr_grpo["flops"][-1], rloo["flops"][-1])
            gains = [share_gained(run, end) for run in (dr_grpo, rloo)]
            close += abs(gains[0] - gains[1]) < CLOSE
            print(
                f"  {model}: exact gained {share_gained(exact, exact['flops'][-1]):.2f} (SFT by then {share_gained(sft, exact['flops'][-1]):.2f}), "
                f"half first at {text_of(firsts[0])} GFLOP (SFT {text_of(firsts[1])}), kept {text_of(kept) if is_kept else 'not shown'}, p in the end {exact['pass_rate'][-1]:.2f}; "
                f"Dr. GRPO {gains[0]:.3f}, RLOO {gains[1]:.3f} at {end / 1e9:.0f} GFLOP"
            )
        if logs:
            print(f"  exact over SFT, FLOPs until half was first there: {interval_text(np.array(logs))}")
        print(f"  Dr. GRPO within {CLOSE:g} of RLOO: {close} of {len(models)}")


if __name__ == "__main__":
    main()
