"""A second program for the study of learned rewards; it shares no code with the study, so that an error would have to be made twice.

Usage: python -m eval.studies.learned_reward.check FOLDER --results results.json; FOLDER holds lines.parquet and courses.parquet. Intervals of bootstraps are not recomputed.
It also prints factors by halves of the training seeds and by pretraining seed.
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
TOLERANCE = 1e-6


def price(flops, bits, share, amounts):
    """What was spent until a share of the bits was kept for three times the FLOPs, and True; or what is known to be too little, and False."""
    target = (1 - share) * bits[0]
    for i in range(1, len(flops)):
        if 3 * flops[i] > flops[-1]:
            break
        if min(b for b, f in zip(bits, flops, strict=True) if flops[i] <= f <= 3 * flops[i]) >= target:
            way = 1.0 if i == 1 else (target - bits[i - 1]) / (bits[i] - bits[i - 1])
            return amounts[i - 1] + way * (amounts[i] - amounts[i - 1]), True
    return max(a for a, f in zip(amounts, flops, strict=True) if 3 * f <= flops[-1]), False


def median(prices):
    """Kaplan-Meier median; infinite where half never got there."""
    left, share = len(prices), 1.0
    for value, kept in sorted(prices, key=lambda p: (p[0], not p[1])):
        share *= 1 - 1 / left if kept else 1
        left -= 1
        if kept and share <= 0.5 + 1e-12:
            return value
    return math.inf


def factor(plain, other):
    """Ratio of the medians, geometric mean over pretraining seeds; None where one of them has none."""
    logs = [
        math.log(median(plain[m]) / median(other[m])) if math.isfinite(median(plain[m]) + median(other[m])) else None
        for m in other
        if m in plain
    ]
    return None if not logs or None in logs else math.exp(np.mean(logs))


def fifths(values):
    """Means of the five parts of a list, the first ones longer."""
    size, rest = divmod(len(values), 5)
    ends = np.cumsum([0] + [size + (n < rest) for n in range(5)])
    return [np.mean(values[a:b], axis=0) for a, b in itertools.pairwise(ends)]


def read(folder):
    """Runs with the course of each, a dictionary apiece."""
    courses = {(c["rung"], c["model"], c["arm"], c["seed"]): c for c in pq.read_table(folder / "courses.parquet").to_pylist()}
    runs = []
    for run in pq.read_table(folder / "lines.parquet").to_pylist():
        tags = json.loads(run["tags"])
        runs.append(run | courses[tags["rung"], tags["model"], run["arm"], run["seed"]] | {"spent": run["flops"]})
    return runs


def prices(runs, arm, share, given=False, formula=None):
    """Prices of an arm by pretraining seed; of a judge that is given, or of `formula` of FLOPs and rollouts."""
    by_model = {}
    for run in (run for run in runs if run["arm"] == arm):
        first = run["judged_flops"] if given else 0.0
        kept = [0] + [i for i in range(1, len(run["spent"])) if run["spent"][i] > first]
        flops = [max(run["spent"][i] - first, 0) for i in kept]
        bits, samples = ([run[name][i] for i in kept] for name in ("log2_p", "samples"))
        value, known = price(flops, bits, share, flops)
        if formula:
            value = formula(value, price(flops, bits, share, samples)[0])
        by_model.setdefault(run["model"], []).append((value, known))
    return by_model


def led_astray(run):
    """Whether the judge takes too much for right in the end, or does not see a fall."""
    true, judged = fifths(run["true_share"]), fifths(run["judged_share"])
    fell = max(run["pass_rate"]) - run["pass_rate"][-1] > 0.1
    return judged[4] - true[4] > 0.1 or (fell and judged[4] >= judged[int(np.argmax(true))])


def agreement(run, part):
    """Share of the steps of a fifth that are judged as they are."""
    steps, right = (fifths(run[name])[part] for name in ("steps", "right"))
    return (sum(right[5:]) + sum(steps[:5]) - sum(right[:5])) / sum(steps)


def main():
    """Exit status 1 if a number of the study differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    results, runs, gaps = json.loads(arguments.results.read_text()), read(arguments.record), {}
    claims = {
        (c["text"], c["statistic"].split(":")[0], c["statistic"].split(", ")[-1].split(";")[0]): c["mean"]
        for c in results["claims"]
    }
    for rung, arms in results["factors"].items():
        of_rung = [run for run in runs if run["rung"] == rung]
        for name, targets in arms.items():
            for target, share in SHARES.items():
                arm, given = name.removesuffix(" given"), name.endswith(" given")
                plain, other = prices(of_rung, "outcome", share), prices(of_rung, arm, share, given)
                gaps[rung, name, target] = (factor(plain, other), targets[target]["mean"])
                parts = {
                    odd: [
                        {
                            m: [
                                p
                                for p, r in zip(ps, (r for r in of_rung if (r["arm"], r["model"]) == (a, m)), strict=True)
                                if r["seed"] % 2 == odd
                            ]
                            for m, ps in side.items()
                        }
                        for a, side in (("outcome", plain), (arm, other))
                    ]
                    for odd in (0, 1)
                }
                by = [factor(*({m: p for m, p in side.items() if p} for side in pair)) for pair in parts.values()]
                by += [factor({m: plain[m]}, {m: other[m]}) for m in other]
                print(
                    rung,
                    name,
                    target,
                    gaps[rung, name, target][0],
                    "| even, odd seeds, each model:",
                    *(f"{v:.3g}" if v else "-" for v in by),
                )
        for number in (16, 64, 256):
            for target, share in SHARES.items():
                text = f"Is the judge of {number} rollouts as good as the verifier?", rung, target
                as_good = prices(of_rung, "exact", share, formula=lambda f, n, k=number: f + k * 57.1e6 + n * 29.6e6)
                if text in claims:
                    gaps[text] = (factor(as_good, prices(of_rung, f"learned_{number}", share)), claims[text])
        for (text, start, _), mean in claims.items():
            spoken = {
                "exact verdicts on steps": "exact",
                "judge of 16, learning on": "learned_16_on",
                "judge of 64, learning on": "learned_64_on",
                "judge of 64, KL penalty": "learned_64_kl",
            }
            spoken |= {f"judge of {number} rollouts": f"learned_{number}" for number in (16, 64, 256)}
            chosen = [
                run
                for run in of_rung
                for words, arm in spoken.items()
                if run["arm"] == arm and (f" {words}?" in text or f" {words} drift" in text)
            ]
            if start == rung and text.startswith("Is the reward exploited"):
                gaps[text, rung] = (np.mean([led_astray(run) for run in chosen]), mean)
            if start == rung and text.endswith("drift?"):
                gaps[text, rung] = (np.mean([agreement(run, 4) - agreement(run, 0) for run in chosen]), mean)
    wrong = {
        key: pair
        for key, pair in gaps.items()
        if (pair[0] is None) != (pair[1] is None)
        or (pair[0] is not None and abs(pair[0] - pair[1]) > TOLERANCE * max(1, abs(pair[1])))
    }
    print(
        f"{len(gaps)} numbers compared, {sum(pair[0] is not None for pair in gaps.values())} of them measured; other in the study: {wrong}"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
