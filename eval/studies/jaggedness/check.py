"""A second program for the study of two strategies, written from README.md; it shares no code with the study, so that an error would have to be made twice.

Usage: python -m eval.studies.jaggedness.check FOLDER; FOLDER holds the slopes.json and lines.parquet of a record.
It recomputes the closed form by differentiating a bandit by numbers, crossings, kinships, first moves, ends and prices; beside a signs.json, means and spreads over models too.
"""

import argparse
import json
import math
import statistics
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
from scipy import stats


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


def kinship_of(row, objective):
    """The kinship that gives the measured ratio of the slopes, by halving."""
    easy, hard = (statistics.fmean(row[objective][kind]) for kind in ("easy", "hard"))
    low, high = -5.0, 5.0
    for _ in range(60):
        kin = (low + high) / 2
        slopes = [bandit_slope(row["right"], row["rule"], s, objective, kin) for s in (1.0, 0.0)]
        low, high = (kin, high) if slopes[0] * hard > easy * slopes[1] else (low, kin)
    return kin


def over_models(starts, signs):
    """Crossings and kinships of models named FIRST.PHASE or FIRST_SIGNS.PHASE, over first pretrainings."""
    by_group = {}
    for model in sorted({row["model"] for row in starts}):
        rows = sorted((row for row in starts if row["model"] == model), key=lambda row: row["log_odds"])
        if min(row["right"] + row["rule"] for row in rows) < 0.5:
            print(model, "does not count")
            continue
        kin, logs = statistics.fmean(kinship_of(row, "group of 8") for row in rows), []
        for objective in ("pass_rate", "group of 8"):
            found = [
                (row["log_odds"], sum(s * statistics.fmean(row[objective][kind]) for kind, s in (("easy", 0.8), ("hard", 0.2))))
                for row in rows
            ]
            form = turns_at([(row["log_odds"], bandit_slope(row["right"], row["rule"], 0.8, objective, 0.0)) for row in rows])
            beyond = math.exp(rows[0 if found[0][1] >= 0 else -1]["log_odds"])
            logs.append(math.log((turns_at(found) or beyond) / form))
        by_group.setdefault(model.split(".")[0], []).append((kin, *logs))
    for name, is_in in (
        ("as they are", lambda group: "_" not in group),
        ("three new signs", lambda group: group.endswith("_unused")),
        ("all", lambda group: True),
    ):
        groups = {group: values for group, values in by_group.items() if is_in(group)}
        if len(groups) < 2:
            continue
        for place, what in enumerate(("k", "ln crossing", "ln crossing, group of 8")):
            columns = {group: [value[place] for value in values] for group, values in groups.items()}
            means = [statistics.fmean(column) for column in columns.values()]
            half = float(stats.t.isf(0.025, len(means) - 1)) * statistics.stdev(means) / math.sqrt(len(means))
            middle = statistics.fmean(means)
            shown = [middle, middle - half, middle + half]
            print(
                f"{name}: {what} over {len(means)} first pretrainings",
                [round(x if place == 0 else math.exp(x), 3) for x in shown],
                end="",
            )
            every = [x for column in columns.values() for x in column]
            rest = len(every) - len(columns)
            if rest:
                grand = statistics.fmean(every)
                inside = sum(statistics.pvariance(column) * len(column) for column in columns.values())
                total = sum((x - grand) ** 2 for x in every)
                mean_square = (total - inside) / (len(columns) - 1)
                size = (len(every) - sum(len(column) ** 2 for column in columns.values()) / len(every)) / (len(columns) - 1)
                found = mean_square * rest / inside
                between = (mean_square - inside / rest) / size
                low, high = (found / float(stats.f.isf(tail, len(columns) - 1, rest)) for tail in (0.025, 0.975))
                shares = [round(between / (between + inside / rest), 3), *(round((f - 1) / (f + size - 1), 3) for f in (low, high))]
                print(
                    f"; spread between {math.sqrt(max(between, 0)):.3f}, within {math.sqrt(inside / rest):.3f}, share {shares}",
                    end="",
                )
            print()
        kins = [statistics.fmean(value[0] for value in values) for values in groups.values()]
        near = [signs[group]["nearness"] / (1 + 27 / signs[group]["squared_distance"]) for group in groups]
        errors = [abs(a - b) for a, b in zip(kins, near, strict=True)]
        print(f"{name}: k foretold within {statistics.fmean(errors):.3f} on average, {max(errors):.3f} at most", end="; ")
        print(f"correlation of ranks {stats.kendalltau(kins, near).statistic:.3f} (Kendall)", end="; ")
        ranks = [stats.rankdata(side) for side in (kins, near)]
        print(f"{statistics.correlation(*(list(side) for side in ranks)):.3f} (Spearman)")
    for group, values in by_group.items():
        first = group.split("_")[0]
        if group != first and first in by_group:
            print(
                group,
                "k minus that of",
                first,
                round(*(statistics.fmean(v[0] for v in values) - statistics.fmean(v[0] for v in by_group[first]), 3)),
            )


def main():
    """Print what is computed here, in the order of the study's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    folder = parser.parse_args().record
    starts = json.loads((folder / "slopes.json").read_text())
    for start, model in sorted({(row["start"], row["model"]) for row in starts}):
        rows = sorted((row for row in starts if (row["start"], row["model"]) == (start, model)), key=lambda row: row["log_odds"])
        for objective in ("pass_rate", "normalised_pass_rate", "group of 8", "log_likelihood"):
            if objective not in rows[0]:
                continue
            ends = [[statistics.fmean(row[objective][kind]) for kind in ("easy", "hard")] for row in rows]
            kins = [round(kinship_of(row, objective), 3) for row in rows]
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
    if (folder / "signs.json").exists():
        over_models(starts, json.loads((folder / "signs.json").read_text()))
    runs = pq.read_table(folder / "lines.parquet").to_pylist()
    for cell in sorted({(run["start"], run["mark"], run["share"], run["arm"]) for run in runs}):
        chosen = [run for run in runs if (run["start"], run["mark"], run["share"], run["arm"]) == cell]
        ends = [(run["right"][-1], run["rule"][-1]) for run in chosen]
        fixed, won = sum(h > g and g < 0.2 for g, h in ends), sum(g > 0.8 for g, _ in ends)
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
        print(
            *cell,
            f"{len(chosen)} runs, first moves {moves}, right {right:.3f}, rule {rule:.3f}, GFLOP to .5 {prices}, on the rule {fixed}, right {won}",
        )


if __name__ == "__main__":
    main()
