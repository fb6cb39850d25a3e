"""RL at unacquired starts with as many FLOPs as it takes, from the raw runs alone: `python -m eval.studies.price.check_longer RECORD_OF_PRICES RECORD...`.

Prints the price of every model and arm over all training seeds, and which of the predictions in README.md ("with more FLOPs") came out. It
shares no code with the page.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from eval.studies.price.check_forms import informative_over_labels, on_the_way

RL = ("reinforce", "rloo", "grpo")
KEEP = 3
UNACQUIRED = ("unacquired 0.6", "unacquired 0.3", "unacquired 0.3 anew")
LATENT = ("latent I", "latent C", "latent D", "latent E", "latent C same", "latent D same", "latent E same", "latent I same")
RUNGS = (*UNACQUIRED, "unacquired 0.1", "unacquired 0.1 longer", "unacquired 0.03", *LATENT)


def runs_of(record: Path) -> list[dict]:
    """Runs of the starts that are compared; of the short parts those at the settings of the unacquired start."""
    rows = [
        row | {key: json.loads(row[key]) for key in ("tags", "settings")} | {"log2_p_before": np.array(row["log2_p_before"])}
        for row in pq.read_table(record / "runs" / "lines.parquet").to_pylist()
    ]
    return [row for row in rows if row["tags"]["rung"] in RUNGS and row["tags"].get("part") in (None, "settings")]


def price(run: dict, amount: str, share: float) -> tuple[float, bool]:
    """What was spent until a share of the bits was reached and kept, True; or until it cannot have been, False."""
    flops, log2_p, spent = (np.array(run[key]) for key in ("flops", "log2_p", amount))
    level = np.mean(run["log2_p_before"]) * (1 - share)
    for at in range(len(flops)):
        is_asked = (flops >= flops[at]) & (flops <= KEEP * flops[at])
        if flops[-1] >= KEEP * flops[at] and (log2_p[is_asked] >= level).all():
            if at < 2:  # less than an update cannot be bought
                return spent[at], True
            part = (level - log2_p[at - 1]) / (log2_p[at] - log2_p[at - 1])
            return spent[at - 1] + part * (spent[at] - spent[at - 1]), True
    return spent[flops <= flops[-1] / KEEP][-1], False


def median(prices: list[tuple[float, bool]]) -> float | None:
    """Kaplan-Meier median; None where fewer than half are known to get there."""
    left, surviving = sorted(prices, key=lambda one: (one[0], not one[1])), 1.0
    for place, (value, is_reached) in enumerate(left):
        surviving *= 1 - is_reached / (len(left) - place)
        if surviving <= 0.5:
            return value
    return None


def interval_text(logs: np.ndarray) -> str:
    """Geometric mean with a 95 % t interval."""
    if len(logs) < 2:
        return f"{math.exp(logs.mean()):.2f} (one model)" if len(logs) else "none"
    reach = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    return f"{math.exp(logs.mean()):.2f} [{math.exp(logs.mean() - reach):.2f}, {math.exp(logs.mean() + reach):.2f}], {len(logs)} models"


def welch_text(above: np.ndarray, below: np.ndarray) -> str:
    """Ratio of two geometric means with Welch's 95 % interval."""
    found = stats.ttest_ind(above, below, equal_var=False).confidence_interval(0.95)
    return f"{math.exp(above.mean() - below.mean()):.2f} [{math.exp(found.low):.2f}, {math.exp(found.high):.2f}]"


def main() -> None:
    cells: dict[tuple[str, str, str], list[dict]] = {}
    for run in (run for record in map(Path, sys.argv[1:]) for run in runs_of(record)):
        cells.setdefault((run["tags"]["rung"], run["tags"]["model"], run["arm"]), []).append(run)
    models = {rung: sorted({model for other, model, _ in cells if other == rung}) for rung in RUNGS}
    for name, share in (("half", 0.5), ("90 %", 0.9)):
        print(f"\n{name} of the bits, kept: GFLOP and (samples), median over training seeds; > where fewer than half got there")
        logs: dict[tuple[str, str, str, str], float] = {}
        errors = {}
        for rung in RUNGS:
            for arm in ("sft", *RL):
                told = []
                for model in models[rung]:
                    if not (runs := cells.get((rung, model, arm))):
                        continue
                    found = {amount: median([price(run, amount, share) for run in runs]) for amount in ("flops", "samples")}
                    if found["flops"] is None:
                        most = max(price(run, "flops", share)[0] for run in runs)
                        told.append(f"{model} > {most / 1e9:.3g}")
                        continue
                    told.append(f"{model} {found['flops'] / 1e9:.3g} ({found['samples']:.0f})")
                    logs |= {(rung, model, arm, amount): math.log(value) for amount, value in found.items()}
                if told:
                    print(f"  {rung:<22}{arm:<10}", "  ".join(told))
        for rung in (*UNACQUIRED, *LATENT):
            for arm in RL:
                both = [model for model in models[rung] if {(rung, model, one, "flops") for one in (arm, "sft")} <= logs.keys()]
                if not both:
                    continue
                over = {
                    amount: np.array([logs[rung, model, arm, amount] - logs[rung, model, "sft", amount] for model in both])
                    for amount in ("flops", "samples")
                }
                each = ", ".join(f"{model} {math.exp(value):.3g}" for model, value in zip(both, over["flops"], strict=True))
                print(f"  {rung}, {arm} over SFT: FLOPs {interval_text(over['flops'])} ({each})")
                print(f"  {'':<{len(rung)}}  rollouts per label {interval_text(over['samples'])}")
                if rung in UNACQUIRED:
                    for model, value in zip(both, over["samples"], strict=True):
                        arms = [cells[rung, model, one][0] for one in (arm, "sft")]
                        rates = math.log(arms[1]["settings"]["learning_rate"] / arms[0]["settings"]["learning_rate"])
                        form = math.log(on_the_way(informative_over_labels, arms[0], share, *arms)) + rates
                        errors.setdefault(rung, []).append(value - form)
                        print(f"     {model}: {math.exp(value):.3g} rollouts per label, the form says {math.exp(form):.3g}")
                    over_upper = [
                        over["flops"][both.index(model)]
                        - (logs[UNACQUIRED[1], model, arm, "flops"] - logs[UNACQUIRED[1], model, "sft", "flops"])
                        for model in both
                        if {(UNACQUIRED[1], model, one, "flops") for one in (arm, "sft")} <= logs.keys()
                    ]
                    if rung == UNACQUIRED[0]:
                        print(f"     over that of {UNACQUIRED[1]}, model by model: {interval_text(np.array(over_upper))}")
                    for other in LATENT:
                        known = [m for m in models[other] if {(other, m, one, "flops") for one in (arm, "sft")} <= logs.keys()]
                        if len(known) > 1 and len(both) > 1:
                            theirs = {a: np.array([logs[other, m, arm, a] - logs[other, m, "sft", a] for m in known]) for a in over}
                            flops, samples = (welch_text(over[amount], theirs[amount]) for amount in ("flops", "samples"))
                            print(f"     over that of {other}: FLOPs {flops}, rollouts per label {samples}")
        for rung, values in errors.items():
            print(f"  form at {rung}: root mean square error in ln {np.sqrt(np.mean(np.square(values))):.2f}, n = {len(values)}")
    print("\nshare of the bits at the end of each run, GFLOP spent")
    for (rung, model, arm), runs in sorted(cells.items()):
        if rung not in LATENT and arm != "sft":
            told = (f"{1 - run['log2_p'][-1] / run['log2_p_before'].mean():.2f} of {run['flops'][-1] / 1e9:.0f}" for run in runs)
            print(f"  {rung:<22}{model} {arm:<10}", ", ".join(told))


if __name__ == "__main__":
    main()
