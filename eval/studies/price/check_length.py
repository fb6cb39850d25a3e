"""A second program for the price against the length of the rollout, written from README.md alone; it shares no code with the study, so that an error would have to be made twice.

Usage: python -m eval.studies.price.check_length FOLDER [--results results.json]; FOLDER holds a lines.parquet, whose rows are runs.
After the slopes it prints what would turn them round: other targets, each training seed and each length left out, other readings of a price.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet

from eval.studies.price.check_prices import READINGS, TARGETS, find_price, kaplan_meier_median

LENGTH = {"reversed": 4, "restated4": 13, "restated8": 25, "restated16": 49}
COST = {4: 11, 13: 22, 25: 35, 49: 60}  # prompt and answer
SETTING = {"sft": (1e-4, 1), "grpo": (1e-4, 2), "reinforce": (1e-4, 2)}  # one for all lengths: rate, samples per update
NAMES = {"sft": "SFT", "grpo": "GRPO", "reinforce": "REINFORCE"}
MORE_TARGETS = {"a quarter of the bits": ("bits", 0.25), "three quarters of the bits": ("bits", 0.75)}
DRAWS = 10_000
NEVER = 1e200


def read_cells(folder, one_setting=False):
    """{pretraining seed: {length: {arm: [run]}}}, at the searched settings or at one."""
    cells = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for run in pyarrow.parquet.read_table(folder / "lines.parquet").to_pylist():
        tags, run["settings"] = (json.loads(run[name]) for name in ("tags", "settings"))
        for name in ("flops", "samples", "updates", "log2_p", "pass_rate", "log2_p_before"):
            run[name] = np.array(run[name], dtype=float)
        arm, _, is_added = run["arm"].partition("_")
        has_it = (run["settings"]["learning_rate"], run["settings"]["per_device_train_batch_size"]) == SETTING[arm]
        if has_it if one_setting else not is_added:
            cells[tags["model"]][LENGTH[run["settings"]["answer_format"]]][arm].append(run)
    return {model: {length: cells[model][length] for length in sorted(cells[model])} for model in sorted(cells)}


def paid(runs, target, unit, reading="evaluation", keep=3.0):
    """(amount, whether that is a price) of each run; FLOPs per sample of whole runs where the unit is that."""
    if unit == "cost":
        return [(run["flops"][-1] / run["samples"][-1], True) for run in runs]
    return [find_price(run, target, keep, reading)[unit] for run in runs]


def middle(prices, unit):
    """The median of a cell, None where half of its runs are not known to have got there."""
    return float(np.median([x for x, _ in prices])) if unit == "cost" else kaplan_meier_median(prices)


def line(lengths, logs):
    """Least squares."""
    return float(np.polyfit(np.log(lengths), logs, 1)[0])


def needed(cell, arm):
    """Rollouts until an update informs, at the start."""
    p = np.minimum(np.exp2(cell[arm][0]["log2_p_before"]), 1)
    settings = cell[arm][0]["settings"]
    batch, group = settings["per_device_train_batch_size"], settings["num_generations"]
    silent = np.mean((1 - p) ** group + (0 if arm == "reinforce" else p**group))
    return batch / (1 - silent ** (batch / group))


def slope_of(lengths, above, below, target, unit, shift=None, only=None, reading="evaluation", drop=None, keep=3.0):
    """Slope at one pretraining seed; None where a cell has no price. `drop` leaves out a training seed, `only` keeps some lengths."""
    logs, used = [], [length for length in lengths if only is None or length in only]
    for length in used:
        sides = []
        for arm in (above, below) if below else (above,):
            runs = [run for run in lengths[length][arm] if run["seed"] != drop]
            sides.append(middle(paid(runs, target, unit, reading, keep), unit))
        if None in sides:
            return None
        logs.append(math.log(sides[0]) - (math.log(sides[1]) if below else 0) - (shift(lengths[length], above) if shift else 0))
    return line(used, logs)


def bootstrap(cells, above, below, target, unit, shift, rng):
    """95 % interval: pretraining seeds, then the training seeds of each cell."""
    per_model = {}
    for model, lengths in cells.items():
        logs = []
        for cell in lengths.values():
            value = np.full(DRAWS, -(shift(cell, above) if shift else 0.0))
            for arm, sign in ((above, 1), (below, -1)) if below else ((above, 1),):
                prices = paid(cell[arm], target, unit)
                drawn = np.sort(rng.integers(len(prices), size=(DRAWS, len(prices))))
                kinds, which = np.unique(drawn, axis=0, return_inverse=True)
                medians = [middle([prices[i] for i in kind], unit) or NEVER for kind in kinds]
                value += sign * np.log(medians)[which.ravel()]
            logs.append(value)
        per_model[model] = np.polyfit(np.log(list(lengths)), np.array(logs), 1)[0]
    of_model = np.array(list(per_model.values()))
    chosen = rng.integers(len(of_model), size=(DRAWS, len(of_model)))
    # one draw of a pretraining seed's training seeds for each time that it is drawn
    columns = [of_model[chosen[:, place], rng.integers(DRAWS, size=DRAWS)] for place in range(len(of_model))]
    return [float(end) for end in np.quantile(np.mean(columns, axis=0), (0.025, 0.975))]


def questions(at=""):
    """Name in the study's results, arm above, arm below, target, unit, shift."""
    log_needed = lambda cell, arm: math.log(needed(cell, arm))  # noqa: E731
    for name in ("half of the bits", "90 % of the bits"):
        target = TARGETS[name]
        for arm in ("grpo", "reinforce"):
            key = f"{NAMES[arm]} over SFT, {name}{at}"
            yield f"FLOPs, {key}", arm, "sft", target, "flops", None
            yield f"FLOPs, {key}, without the mismatch of p", arm, "sft", target, "flops", log_needed
            yield f"samples, {key}", arm, "sft", target, "samples", None
        for arm, spoken in NAMES.items():
            yield f"FLOPs, {spoken}, {name}{at}", arm, None, target, "flops", None
    for arm, spoken in NAMES.items():
        yield f"FLOPs per sample, {spoken}", arm, None, None, "cost", None
        if arm != "sft":
            yield f"FLOPs per sample, {spoken} over SFT", arm, "sft", None, "cost", None


def text(values):
    return " ".join(f"{model} {'–' if value is None else f'{value:.3f}'}" for model, value in values.items())


def print_breaks(cells, word):
    """Statistic 1 with one thing changed at a time."""
    print(f"\nWhat would turn the slope of ln(FLOPs over SFT's) round, by pretraining seed{word}")
    for arm in ("grpo", "reinforce"):
        if not all({arm, "sft"} <= cell.keys() for lengths in cells.values() for cell in lengths.values()):
            continue

        def say(word, target, arm=arm, **how):
            values = {model: slope_of(lengths, arm, "sft", target, "flops", **how) for model, lengths in cells.items()}
            if any(value is not None for value in values.values()):
                print(f"  {arm:10} {word:60} {text(values)}")

        for name, target in (TARGETS | MORE_TARGETS).items():
            say(name, target)
        for name in ("half of the bits", "90 % of the bits"):
            for seed in sorted({run["seed"] for run in next(iter(next(iter(cells.values())).values()))[arm]}):
                say(f"{name}, without training seed {seed}", TARGETS[name], drop=seed)
            for reading in READINGS:
                say(f"{name}, price by the reading '{reading}'", TARGETS[name], reading=reading)
            for keep in (1.5, 5.0):
                say(f"{name}, kept for {keep:g} times its FLOPs", TARGETS[name], keep=keep)
            for model, lengths in cells.items():
                for left in lengths:
                    value = slope_of(lengths, arm, "sft", TARGETS[name], "flops", only=[x for x in lengths if x != left])
                    if value is not None:
                        print(f"  {arm:10} {f'{name}, without {left} tokens':60} {text({model: value})}")


def print_cells(cells):
    """Prices, floors and the two readings of the essay."""
    for model, lengths in cells.items():
        for length, cell in lengths.items():
            for arm, runs in cell.items():
                words = []
                for name in ("half of the bits", "90 % of the bits"):
                    spent = {unit: middle(paid(runs, TARGETS[name], unit), unit) for unit in ("flops", "samples", "updates")}
                    kept = sum(known for _, known in paid(runs, TARGETS[name], "flops"))
                    price = (
                        "no price"
                        if spent["flops"] is None
                        else f"{spent['flops'] / 1e9:.4g} GFLOP, {spent['samples']:.4g} samples"
                    )
                    floor = " FLOOR" if spent["updates"] is not None and spent["updates"] <= 2 else ""
                    words.append(f"{name} {price} ({kept} of {len(runs)}){floor}")
                print(f"{model:7} {length:2} tokens {arm:10} {'; '.join(words)}")


def main():
    """Exit status: 1 if a slope or an interval of the study differs from the one computed here, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, help="results.json of the study's page, to compare with")
    arguments = parser.parse_args()
    cells, same = (read_cells(arguments.folder, one_setting) for one_setting in (False, True))
    print_cells(cells)
    results = json.loads(arguments.results.read_text()) if arguments.results else {}
    theirs, worst, ends = results.get("results", results).get("slopes", {}), [], []
    expected = {model: line(list(lengths), [math.log(COST[length]) for length in lengths]) for model, lengths in cells.items()}
    print(f"\nSlopes against ln(tokens); of prompt and answer together {text(expected)}")
    asked = [(cells, *question) for question in questions()]
    if all(len(cell) == len(NAMES) for lengths in same.values() for cell in lengths.values()) and same.keys() == cells.keys():
        asked += [(same, *question) for question in questions(", at one setting") if question[4] == "flops"]
    rng = np.random.default_rng(2111)
    for of_cells, key, *rest in asked:
        values = {model: slope_of(lengths, *rest) for model, lengths in of_cells.items()}
        mean = None if None in values.values() else float(np.mean(list(values.values())))
        interval = [] if mean is None else bootstrap(of_cells, *rest, rng)
        print(f"  {key:60} {'–' if mean is None else f'{mean:.3f} [{interval[0]:.3g}, {interval[1]:.3g}]'} {text(values)}")
        if theirs:
            there = theirs.get(key, {"mean": math.nan, "interval": None})
            worst.append(0.0 if mean is there["mean"] else math.inf if None in (mean, there["mean"]) else abs(mean - there["mean"]))
            pairs = zip(there["interval"] or [], interval, strict=False)
            ends += [abs(a - b) if a is not None else (0.0 if abs(b) > 20 else math.inf) for a, b in pairs]
    for word, of_cells in (("", cells), (", at one setting for all lengths", same)):
        print_breaks(of_cells, word)
    if not theirs:
        sys.exit(int(arguments.results is not None))
    agrees = all(gap <= 1e-9 for gap in worst) and all(gap <= 0.05 for gap in ends) and len(worst) == len(theirs)
    print(
        f"\n{len(worst)} slopes compared, largest difference {max(worst):.2g}; {len(ends)} ends of intervals, largest difference {max(ends):.2g}"
    )
    sys.exit(int(not agrees))


if __name__ == "__main__":
    main()
