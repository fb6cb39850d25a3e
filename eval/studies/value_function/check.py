"""A second program for the study of the value function, written from README.md; it shares no code with the study and its library, so that an error would have to be made twice.

Usage: python -m eval.studies.value_function.check FOLDER; FOLDER holds the stops.parquet of a record.
It recomputes closed forms, calibration and lost passes; `python -m eval.check_factors` does the same for prices and factors.
"""

import argparse
import collections
import itertools
import json
from pathlib import Path

import pyarrow.parquet as pq


def closed_form(run, share):
    """The predictions of a plain run: first error, learned at best, baseline."""
    flops = json.loads(run["flops"])
    draw, decode = flops["prefill"] / run["num_samples"], flops["decode"] / run["num_samples"]
    update = (flops["train_forward"] + flops["train_backward"]) / run["num_informative"]
    sums = [0.0] * 4
    for i in range(64):
        rest, q, written, whole = 1 - (i + 0.5) / 64 * share, 0.0, 0.0, 0
        for answer in run["token_log2_p"]:
            p = 1.0
            for token in answer:
                written, whole, p = written + p, whole + 1, p * 2 ** (token * rest)
            p = min(p, 1.0)
            q += (1 - p**8 - (1 - p) ** 8) / len(run["token_log2_p"])
        part = written / whole
        for n, drawn in enumerate((1.0, part, 0.25 + 0.75 * part)):
            sums[n] += (draw + decode * drawn) / q + update
        sums[3] += (draw + decode + update) / q
    return [sums[0] / value for value in sums[1:]]


def pairs_of(lines, place):
    """(value, passed) of the rollouts that ran on and had not ended at a place."""
    of_lines = [zip(line["values"], line["passed"], strict=True) for line in lines]
    return [(values[place], passed) for of_line in of_lines for values, passed in of_line if values[place] is not None]


def main():
    """Print what is computed here, in the order of the study's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    runs = pq.read_table(parser.parse_args().record / "stops.parquet").to_pylist()
    for run in runs:
        if run["arm"] == "plain":
            print(f"{run['rung']:12} {run['model']} seed {run['seed']}: closed forms", [round(v, 3) for v in closed_form(run, 0.5)])
    for rung in sorted({run["rung"] for run in runs}):
        notes = [(run["arm"], json.loads(run["noted"])) for run in runs if run["rung"] == rung]
        for place, half in itertools.product(range(3), (0, 1)):
            pairs = []
            for arm, lines in notes:
                if arm == "run_on":
                    pairs += pairs_of(lines[len(lines) // 2 :] if half else lines[: len(lines) // 2], place)
            squared = sum((value - passed) ** 2 for value, passed in pairs) / max(len(pairs), 1)
            bins = collections.defaultdict(list)
            for value, passed in pairs:
                bins[min(int(value * 10), 9)].append(value - passed)
            gap = sum(abs(sum(of_bin)) for of_bin in bins.values()) / max(len(pairs), 1)
            print(f"{rung:12} place {place} half {half}: {len(pairs)} rollouts, squared error {squared:.4f}, gap {gap:.4f}")
        for asked in sorted({arm for arm, _ in notes}):
            ends = [
                end is not None
                for arm, lines in notes
                for line in lines
                for end, passed in zip(line["ends_after"], line["passed"], strict=True)
                if arm == asked and passed and line["threshold"] > 0
            ]
            if ends:
                print(f"{rung:12} {asked}: {sum(ends)} of {len(ends)} passes lost")


if __name__ == "__main__":
    main()
