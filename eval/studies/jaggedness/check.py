"""A second program for the study of two strategies, written from README.md; it shares no code with the study, so that an error would have to be made twice.

Usage: python -m eval.studies.jaggedness.check FOLDER; FOLDER holds the slopes.json and lines.parquet of a record.
It recomputes the closed form by differentiating a bandit by numbers, crossings, kinships, first moves, ends and prices.
"""

import argparse
import json
import math
import statistics
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq


def rewards_of(logits):
    """Pass rates without and with a carry, of a softmax over general, rule, wrong."""
    odds = [math.exp(z) for z in logits]
    return (odds[0] + odds[1]) / sum(odds), odds[0] / sum(odds)


def bandit_slope(g, h, share, objective, kin):
    """d ln(g/h)/dt: each pass rate's derivative by central differences, times its weight."""

    def weight(p):
        if objective == "pass_rate":
            return 1.0
        if objective == "log_likelihood":
            return 1 / p
        if objective == "normalised_pass_rate":
            return (p * (1 - p)) ** -0.5
        # a group of 8: mean of passes' and fails' advantages, by the number of passes
        total = 0.0
        for c in range(1, 8):
            mean = c / 8
            std = math.sqrt((c * (1 - mean) ** 2 + (8 - c) * mean**2) / 7)
            push = (c * (1 - mean) / std * (1 - p) + (8 - c) * (-mean / std) * (-p)) / 8
            total += math.comb(8, c) * p**c * (1 - p) ** (8 - c) * push
        return total / (p * (1 - p))

    logits, eps = [math.log(g), math.log(h), math.log(1 - g - h)], 1e-5
    now = rewards_of(logits)
    derivatives = []
    for k in range(3):
        up, down = (rewards_of([z + sign * eps * (j == k) for j, z in enumerate(logits)]) for sign in (1, -1))
        parts = [weight(p) * (a - b) / (2 * eps) for p, a, b in zip(now, up, down, strict=True)]
        derivatives.append(share * parts[0] + (1 - share) * parts[1])
    return derivatives[0] - derivatives[1] + kin * derivatives[2]


def turns_at(points):
    """Odds at which the slope turns, between (log odds, slope) in order."""
    for (x0, y0), (x1, y1) in reversed(list(pairwise(points))):
        if y0 < 0 <= y1:
            return math.exp((x0 * y1 - x1 * y0) / (y1 - y0))
    return None


def main():
    """Print what is computed here, in the order of the study's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    folder = parser.parse_args().record
    starts = json.loads((folder / "slopes.json").read_text())
    for start, model in sorted({(row["start"], row["model"]) for row in starts}):
        rows = sorted((row for row in starts if (row["start"], row["model"]) == (start, model)), key=lambda row: row["log_odds"])
        for objective in ("pass_rate", "normalised_pass_rate", "group of 8", "log_likelihood"):
            ends = [[statistics.fmean(row[objective][kind]) for kind in ("easy", "hard")] for row in rows]
            kins = []
            for row, (easy, hard) in zip(rows, ends, strict=True):
                low, high = -5.0, 5.0  # the kinship that gives the measured ratio, by halving
                for _ in range(60):
                    kin = (low + high) / 2
                    slopes = [bandit_slope(row["right"], row["rule"], s, objective, kin) for s in (1.0, 0.0)]
                    low, high = (kin, high) if slopes[0] * hard > easy * slopes[1] else (low, kin)
                kins.append(round(kin, 3))
            print(f"{start:8} {model:7} {objective:20} k by odds {kins}", end="")
            for share in (0.5, 0.8, 0.95):
                measured = turns_at(
                    [(row["log_odds"], share * easy + (1 - share) * hard) for row, (easy, hard) in zip(rows, ends, strict=True)]
                )
                forms = [
                    turns_at([(row["log_odds"], bandit_slope(row["right"], row["rule"], share, objective, kin)) for row in rows])
                    for kin in (0.0, -0.45)
                ]
                quotients = [None if None in (measured, form) else round(measured / form, 3) for form in forms]
                print(f"; s = {share}: over bandit, kinship {quotients}", end="")
            print()
    runs = pq.read_table(folder / "lines.parquet").to_pylist()
    for cell in sorted({(run["start"], run["mark"], run["share"], run["arm"]) for run in runs}):
        chosen = [run for run in runs if (run["start"], run["mark"], run["share"], run["arm"]) == cell]
        moves, prices = [], []
        for run in chosen:
            moved = [now - run["log_odds"][0] for now in run["log_odds"] if abs(now - run["log_odds"][0]) > 0.1]
            moves.append(0 if not moved else 1 if moved[0] > 0 else -1)
            spent = None
            for place, flops in enumerate(run["flops"]):
                after = [p for p, f in zip(run["right"][place:], run["flops"][place:], strict=True) if f <= 3 * flops]
                if 3 * flops <= run["flops"][-1] and min(after) >= 0.5:
                    spent = flops
                    break
            prices.append(None if spent is None else round(spent / 1e9, 2))
        right, rule = (statistics.fmean(run[name][-1] for run in chosen) for name in ("right", "rule"))
        print(*cell, f"{len(chosen)} runs, first moves {moves}, right {right:.3f}, rule {rule:.3f}, GFLOP to .5 {prices}")


if __name__ == "__main__":
    main()
