"""Two training seeds at unacquired starts, from the raw runs alone: `python -m eval.studies.price.check_second_seed RECORD_OF_FIRST RECORD_OF_SECOND`.

Prints what each run had at its end, which of the predictions in README.md came out, and SFT's price. It shares no code with the page.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

RL = ("grpo", "rloo", "reinforce")


def runs_of(record: Path) -> list[dict]:
    """Runs at unacquired starts of the four headline arms."""
    rows = [row | json.loads(row["tags"]) for row in pq.read_table(record / "runs" / "lines.parquet").to_pylist()]
    return [row for row in rows if row.get("rung", "").startswith("unacquired") and row["arm"] in ("sft", *RL)]


def kept_price(run: dict) -> float | None:
    """FLOPs at the first evaluation from which half of the bits are kept until three times them were spent; None where that was not seen."""
    half = np.mean(run["log2_p_before"]) / 2
    flops, log2_p = np.array(run["flops"]), np.array(run["log2_p"])
    for at in range(len(flops)):
        until = flops <= 3 * flops[at]
        if flops[-1] >= 3 * flops[at] and (log2_p[at:][until[at:]] >= half).all():
            before, after = (flops[at - 1], log2_p[at - 1]), (flops[at], log2_p[at])
            if at == 0 or after[1] == before[1]:
                return flops[at]
            return before[0] + (half - before[1]) / (after[1] - before[1]) * (after[0] - before[0])
    return None


def main() -> None:
    runs = [run for record in map(Path, sys.argv[1:]) for run in runs_of(record)]
    cells = {(run["rung"], run["model"], run["arm"], run["seed"]): run for run in runs}
    seeds, models = sorted({run["seed"] for run in runs}), sorted({run["model"] for run in runs})
    print(f"{len(runs)} runs, seeds {seeds}, models {models}")
    gain, at_end = {}, {}
    for place, run in cells.items():
        gain[place] = 1 - run["log2_p"][-1] / np.mean(run["log2_p_before"])
        at_end[place] = gain[place] >= 0.5
    for rung in sorted({run["rung"] for run in runs}):
        print(
            f"\n{rung}: share of the bits at the end of the run, GFLOP spent (* : half of the bits kept by the rule, GFLOP to it)"
        )
        for model in models:
            for arm in ("sft", *RL):
                told = []
                for seed in seeds:
                    if (run := cells.get((rung, model, arm, seed))) is not None:
                        price = kept_price(run)
                        kept = "" if price is None else f" * {price / 1e9:.0f}"
                        told.append(f"{gain[rung, model, arm, seed]:.2f} of {run['flops'][-1] / 1e9:.0f}{kept}")
                print(f"  {model} {arm:<10}", "   ".join(told))
    upper, lower = "unacquired 0.3", "unacquired 0.1"
    pairs = [tuple(at_end[upper, model, arm, seed] for seed in seeds) for model in models for arm in RL]
    print(
        f"\n1. half at the end, p = .3: {sum(sum(pair) for pair in pairs)} of {2 * len(pairs)} runs; seeds agree in {sum(len(set(pair)) == 1 for pair in pairs)} of {len(pairs)} pairs"
    )
    within = [abs(gain[upper, model, arm, seeds[0]] - gain[upper, model, arm, seeds[1]]) for model in models for arm in RL]
    means = np.array([[np.mean([gain[upper, model, arm, seed] for seed in seeds]) for model in models] for arm in RL])
    print(
        f"   share of the bits there: mean difference of two seeds {np.mean(within):.2f}, standard deviation between models {means.std(axis=1, ddof=1).mean():.2f}"
    )
    second = [kept_price(cells[upper, model, "sft", seeds[1]]) for model in models]
    print(f"2. SFT, p = .3, second seed: {sum(price is not None for price in second)} of {len(second)} kept half")
    per_model = []
    for model in models:
        prices = sorted(np.inf if (price := kept_price(cells[upper, model, "sft", seed])) is None else price for seed in seeds)
        per_model.append(prices[(len(prices) - 1) // 2])
    if np.isfinite(per_model).all():
        logs = np.log(np.array(per_model) / 1e9)
        half_width = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
        low, high = np.exp(logs.mean() - half_width), np.exp(logs.mean() + half_width)
        print(
            f"   lower median per model, GFLOP: {', '.join(f'{price / 1e9:.0f}' for price in per_model)}; mean {np.exp(logs.mean()):.0f} [{low:.0f}, {high:.0f}]"
        )
    small = [gain[lower, model, arm, seeds[1]] < 0.2 for model in models for arm in RL]
    print(f"3. RL, p = .1, second seed: {sum(small)} of {len(small)} gained less than .2 of the bits")


if __name__ == "__main__":
    main()
