"""A second program for remedy factors, written from the README of the study of curricula alone; it shares no code with the studies, so that an error would have to be made twice.

Usage: python -m eval.check_factors FOLDER [--results results.json] [--plain target sft]; FOLDER holds a lines.parquet, whose rows are runs.
After prices and factors it prints what would turn the answer to "above 1?" round: half of the training seeds, and each pretraining seed alone.
"""

import argparse
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

SHARES = {"half of the bits": 0.5, "90 % of the bits": 0.9}
KEPT_FOR = 3  # a target counts once this many times its FLOPs were spent without losing it
DRAWS = 10_000
NEVER = 1e200  # FLOPs for a median that a draw does not have: its factor is infinite or 0, and 1 where neither arm has one
TOLERANCE = 1e-9


def price(run, share):
    """FLOPs at which a run kept a share of the available bits, and True; or the FLOPs up to which it could have shown that it did, and False."""
    flops, bits = np.array(run["flops"]), np.array(run["log2_p"])
    target = (1 - share) * np.mean(run["log2_p_before"])
    provable = flops * KEPT_FOR <= flops[-1]
    for i in range(1, len(flops)):
        watched = (flops >= flops[i]) & (flops <= KEPT_FOR * flops[i])
        if provable[i] and (bits[watched] >= target).all():
            # a run that had diverged at the evaluation before says nothing of the way between
            on_the_way = (target - bits[i - 1]) / (bits[i] - bits[i - 1]) if np.isfinite(bits[i - 1]) else 1.0
            return max(
                flops[i - 1] + on_the_way * (flops[i] - flops[i - 1]), flops[1] / run["updates"][1]
            ), True  # at least one update
    return flops[provable].max(), False


def medians(runs, counts):
    """Kaplan-Meier medians, one per row of counts (how often each run is drawn); infinite where half of the runs never got there."""
    order = np.lexsort((~runs["kept"], runs["price"]))  # at equal FLOPs what was kept comes before what was censored
    prices, kept, counts = runs["price"][order], runs["kept"][order], counts[:, order]
    at_risk = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    still_without = np.cumprod(1 - counts * kept / np.maximum(at_risk, 1), axis=1)
    reached = still_without <= 0.5 + 1e-12  # (1 - 1/4)(1 - 1/3) is a half, but not in floating point
    return np.where(reached.any(axis=1), prices[reached.argmax(axis=1)], np.inf)


def price_of(cell):
    """The price of an arm (geometric mean over pretraining seeds), and whether it is one: otherwise it is what the price is above."""
    middle = [medians(runs, np.ones((1, len(runs["price"]))))[0] for runs in cell.values()]
    amounts = [m if np.isfinite(m) else np.median(runs["price"]) for m, runs in zip(middle, cell.values(), strict=True)]
    return math.exp(np.mean(np.log(amounts))) if amounts else math.nan, bool(amounts) and np.isfinite(middle).all()


def factor(base, cell):
    """The price of base over that of cell, over the pretraining seeds of both; the sign before it is empty, or < or > for a bound, or ? for neither."""
    models = [model for model in cell if model in base]
    (above, above_known), (below, below_known) = (price_of({model: side[model] for model in models}) for side in (base, cell))
    return {(True, True): "", (True, False): "<", (False, True): ">"}.get((above_known, below_known), "?"), above / below


def bootstrap(base, cell, rng):
    """95 % interval of a factor: pretraining seeds are drawn first where there are several, then the training seeds of each arm by themselves."""
    models = [model for model in cell if model in base]
    chosen = rng.integers(len(models), size=(DRAWS, len(models)))
    logs = np.zeros(chosen.shape)
    for place, (index, model) in itertools.product(range(len(models)), enumerate(models)):
        drawn = np.flatnonzero(chosen[:, place] == index)
        for runs, sign in ((base[model], 1), (cell[model], -1)):
            n = len(runs["price"])
            middle = medians(runs, rng.multinomial(n, np.full(n, 1 / n), size=len(drawn)))
            logs[drawn, place] += sign * np.log(np.minimum(middle, NEVER))
    means = logs.mean(axis=1)
    means[np.abs(means) > 100] *= np.inf  # no factor of two prices is anywhere near e to the 100
    return np.exp(np.quantile(means, (0.025, 0.975), method="inverted_cdf"))


def read_cells(path):
    """{rung: {arm: {target: {pretraining seed: {"price", "kept", "seed": one number per run}}}}} of a packed record."""
    cells = {}
    for run in pq.read_table(path).to_pylist():
        tags = json.loads(run["tags"])
        for name, share in SHARES.items():
            cell = cells.setdefault(tags["rung"], {}).setdefault(run["arm"], {}).setdefault(name, {})
            cell.setdefault(tags["model"], []).append((*price(run, share), run["seed"]))
    for cell in (cell for arms in cells.values() for targets in arms.values() for cell in targets.values()):
        for model, rows in cell.items():
            cell[model] = dict(zip(("price", "kept", "seed"), map(np.array, zip(*rows, strict=True)), strict=True))
    return cells


def try_to_break(base, cell, value):
    """The factor by odd and by even training seeds and by each pretraining seed, with a mark where "above 1?" turns round."""

    def half(side, odd):
        """The cell with the runs of odd or of even training seeds; pretraining seeds without one are left out."""
        runs = {model: {key: column[runs["seed"] % 2 == odd] for key, column in runs.items()} for model, runs in side.items()}
        return {model: part for model, part in runs.items() if len(part["seed"])}

    parts = {"odd": (half(base, 1), half(cell, 1)), "even": (half(base, 0), half(cell, 0))}
    parts |= {model: ({model: base[model]}, {model: cell[model]}) for model in cell if model in base}
    words = []
    for name, sides in parts.items():
        sign, part = factor(*sides)
        turned = sign in ({"", "<"} if value > 1 else {"", ">"}) and (part > 1) != (value > 1)
        words.append(f"{name} {'–' if sign == '?' else f'{sign}{part:.3g}'}{' TURNS ROUND' if turned else ''}")
    return ", ".join(words)


def end_differences(theirs, mine):
    """Differences of ln of the two ends of an interval; an end that is not given has no bound, and two without a bound agree."""
    ends = [unbounded if end is None else end for end, unbounded in zip(theirs or (None, None), (0.0, math.inf), strict=True)]
    with np.errstate(divide="ignore"):
        gaps = [0.0 if end == own else abs(np.log(end) - np.log(own)) for end, own in zip(ends, mine, strict=True)]
    return np.nan_to_num(gaps, nan=math.inf, posinf=math.inf).tolist()


def main():
    """Exit status: 1 if a factor of the study differs from the one computed here, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path, help="a lines.parquet, or the folder that holds it")
    parser.add_argument("--results", type=Path, help="results.json of the study's page, to compare with")
    parser.add_argument(
        "--plain",
        nargs="+",
        default=["target", "sft"],
        help="arms that the others are set against: that whose name theirs begins with, else the first",
    )
    arguments = parser.parse_args()
    plain = arguments.plain
    results = json.loads(arguments.results.read_text()) if arguments.results else {}
    study = results.get("results", results).get("factors", {})
    cells = read_cells(arguments.record / "lines.parquet" if arguments.record.is_dir() else arguments.record)
    of_study, of_record = ([(rung, arm, name) for rung in side for arm in side[rung] for name in SHARES] for side in (study, cells))
    # what only one of the two has stays infinite
    gaps = {key: math.inf for key in of_study + of_record if key[1] not in plain}
    ends, bounds, attempts, rng = [], [], [], np.random.default_rng(2029)
    for key in of_record:
        rung, arm, name = key
        cell = cells[rung][arm][name]
        base = cells[rung].get(next(filter(arm.startswith, plain[1:]), plain[0]), {}).get(name, {})
        (amount, known), (sign, value) = price_of(cell), factor(base, cell)
        runs, kept = (sum(count(part["kept"]) for part in cell.values()) for count in (len, sum))
        row = f"{rung:14} {arm:16} {name:16} {runs:3} runs, {kept:3} kept  {'' if known else '>':1} {amount / 1e9:<8.4g} GFLOP"
        row += f"  factor {sign:1} {value:<6.4g}"
        interval = bootstrap(base, cell, rng) if sign == "" and key in gaps else np.ones(2)
        if interval[0] < interval[1]:
            row += f" [{interval[0]:.4g}, {interval[1]:.4g}]"
            attempts.append(f"{rung}, {arm}, {name}, {value:.3g}: {try_to_break(base, cell, value)}")
        print(row + ("  priced, though more than half did not keep it" if known and kept < runs / 2 else ""))
        if key not in gaps:
            continue
        found = study.get(rung, {}).get(arm, {}).get(name, {"mean": None, "text": ""})
        if sign == "" and found["mean"] is not None:
            gaps[key] = abs(found["mean"] / value - 1)
            ends += [(gap, *key) for gap in end_differences(found["interval"], interval)]
        elif sign and found["mean"] is None:
            gaps.pop(key, None)
            bounds.append((f"{sign} {value:.3g}" if sign != "?" else "–", found["text"], *key))
    print("\nWhat would turn a factor round:", *attempts, sep="\n")
    if not study:
        return int(arguments.results is not None)  # nothing to compare with
    worst, finite = max(gaps, key=gaps.get, default=None), [end for end in ends if math.isfinite(end[0])]
    if worst is not None:
        print(f"\n{len(gaps)} factors compared; largest relative difference {gaps[worst]:.2g} ({', '.join(worst)})")
    print(f"{len(bounds)} bounds compared; other in the study: {[bound for bound in bounds if bound[0] != bound[1]]}")
    print(f"{len(ends)} ends of intervals compared; largest difference of ln {max(finite, default=None)}", end="; ")
    print(f"infinite or 0 in one of the two alone: {[end[1:] for end in ends if math.isinf(end[0])]}")
    return int((worst is not None and gaps[worst] > TOLERANCE) or any(bound[0] != bound[1] for bound in bounds))


if __name__ == "__main__":
    sys.exit(main())
