"""The essay's opening example, from the raw runs alone: `python -m eval.studies.price.check_vocabulary RECORD...`.

Prints rollouts per label for every vocabulary, and the predictions of README.md ("Larger vocabularies"). Labels and rollouts are paired by initialisation; a price is that of check_longer.py, which shares no
code with the page.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from eval.studies.price.check_longer import interval_text, price

FORETOLD = {256: 175, 1024: 475}  # rollouts per label to p = .5
WITHIN, WITHIN_OF_V = 1.5, 1.25
KEEP = 3


def runs_of(record: Path) -> list[dict]:
    """Runs of untrained models; where a cell was run again, the record says so by another name."""
    rows = pq.read_table(record / "runs" / "lines.parquet").to_pylist()
    rows = [row | {key: json.loads(row[key]) for key in ("tags", "settings")} for row in rows]
    found = [row | {"log2_p_before": np.array(row["log2_p_before"])} for row in rows if row["tags"].get("part") == "vocabulary"]
    # an update of SFT reads every prompt's label once; the first runs at V = 16, which has 14 prompts, were recorded with 16
    return [
        row | {"samples": [updates * len(row["log2_p_before"]) for updates in row["updates"]]} if row["arm"] == "sft" else row
        for row in found
    ]


def to_pass_rate(run: dict, amount: str, level: float) -> float | None:
    """Samples or FLOPs until the mean pass rate was at a level, linear between evaluations, and stayed there until three times the FLOPs; None where that was not shown."""
    flops, passed, spent = (np.array(run[key]) for key in ("flops", "pass_rate", amount))
    for at in range(1, len(flops)):
        is_asked = (flops >= flops[at]) & (flops <= KEEP * flops[at])
        if flops[-1] >= KEEP * flops[at] and (passed[is_asked] >= level).all():
            part = (level - passed[at - 1]) / (passed[at] - passed[at - 1]) if at > 1 else 1.0
            return float(spent[at - 1] + part * (spent[at] - spent[at - 1]))
    return None


def to_share(run: dict, amount: str, part: float) -> float | None:
    """The same to a share of the bits."""
    spent, is_kept = price(run, amount, part)
    return float(spent) if is_kept else None


TARGETS = {
    "p = .5": lambda run, amount: to_pass_rate(run, amount, 0.5),
    "p = .9": lambda run, amount: to_pass_rate(run, amount, 0.9),
    "half of the bits": lambda run, amount: to_share(run, amount, 0.5),
    "90 % of the bits": lambda run, amount: to_share(run, amount, 0.9),
}


def main() -> None:
    cells: dict[tuple[int, str], dict[str, dict]] = {}
    for run in (run for record in map(Path, sys.argv[1:]) for run in runs_of(record)):
        cells.setdefault((int(run["tags"]["rung"].split()[-1]), run["arm"]), {})[run["tags"]["model"]] = run
    sizes = sorted({size for size, _ in cells})
    for (size, arm), runs in sorted(cells.items()):
        ends = ", ".join(f"{run['pass_rate'][-1] * len(run['log2_p_before']):.1f}" for _, run in sorted(runs.items()))
        updates = ", ".join(f"{run['updates'][-1]:.0f}" for _, run in sorted(runs.items()))
        gained = ", ".join(f"{run['log2_p'][-1] - run['log2_p'][0]:.1f}" for _, run in sorted(runs.items()))
        rate = next(iter(runs.values()))["settings"]["learning_rate"]
        print(
            f"V = {size}, {arm}, rate {rate:g}: of {len(next(iter(runs.values()))['log2_p_before'])} prompts answered in the end {ends}; bits gained {gained}; updates {updates}"
        )
    for name, spent_until in TARGETS.items():
        print(f"\nrollouts per label to {name}, kept")
        for size in sizes:
            if not {(size, "sft"), (size, "reinforce")} <= cells.keys():
                continue
            told, logs, logs_of_flops = [], [], []
            for model, run in sorted(cells[size, "reinforce"].items()):
                sft = cells[size, "sft"][model]
                rollouts, labels = spent_until(run, "samples"), spent_until(sft, "samples")
                if rollouts is None or labels is None:
                    told.append(f"{model} not kept")
                else:
                    logs.append(math.log(rollouts / labels))
                    logs_of_flops.append(math.log(spent_until(run, "flops") / spent_until(sft, "flops")))
                    told.append(f"{model} {rollouts / labels:.0f} ({rollouts:.0f} over {labels:.0f})")
            mean = interval_text(np.array(logs)) if len(logs) > 1 else "not measured"
            print(f"  V = {size}: {mean} at {len(logs)} of {len(told)} ({'; '.join(told)})")
            if len(logs) > 1:
                print(f"    over V {math.exp(np.mean(logs)) / size:.2f}; in FLOPs {interval_text(np.array(logs_of_flops))}")
            if name == "p = .5" and size in FORETOLD and len(logs) >= 3:
                found = math.exp(np.mean(logs))
                of_foretold, of_size = found / FORETOLD[size], found / size
                print(
                    f"    over {FORETOLD[size]}, foretold: {of_foretold:.2f}, {'holds' if 1 / WITHIN <= of_foretold <= WITHIN else 'fails'}"
                )
                print(f"    over V: {of_size:.2f}, {'holds' if 1 / WITHIN_OF_V <= of_size <= WITHIN_OF_V else 'fails'}")


if __name__ == "__main__":
    main()
