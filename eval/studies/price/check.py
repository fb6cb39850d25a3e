"""A second program for the price study, written from README.md alone; it shares no code with the study, so that an error would have to be made twice.

Usage: python -m eval.studies.price.check FOLDER [--results results.json]; FOLDER holds a lines.parquet, whose rows are runs.
After the study's statistics it prints what would speak against its sentences: other targets, other null models, fewer seeds, other intervals.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from eval.studies.price.check_break import (
    try_bootstrap,
    try_decomposition,
    try_fewer_seeds,
    try_floor,
    try_null_models,
    try_other_targets,
    try_readings,
    try_slope,
)
from eval.studies.price.check_forms import README_MODELS, essay_ratio, one_over_p, print_errors
from eval.studies.price.check_prices import (
    ELSEWHERE,
    HALF,
    NINETY,
    READINGS,
    TARGETS,
    Study,
    flops_per_sample,
    interval,
    kaplan_meier_median,
    mean_and_half,
    read_runs,
    show,
    verdict,
)

# 1: prices


def print_prices(study):
    print("\n1. Prices: geometric mean over pretraining seeds, 95 % t interval; runs with a price / runs; sd of their log FLOPs")
    for rung, arm in study.places():
        for name, target in TARGETS.items():
            found = [[x["flops"] for x in ps] for ps in study.prices(rung, arm, target).values()]
            if found:
                flops, samples = (study.price(rung, arm, target, u) for u in ("flops", "samples"))
                logs = [[math.log(x) for x, is_price in ps if is_price] for ps in found]
                within = [np.var(x, ddof=1) for x in logs if len(x) > 1]
                means = [np.mean(x) for x in logs if x]
                words = [f"{sum(map(len, logs))}/{sum(map(len, found))}"]
                words += [f"within {math.sqrt(np.mean(within)):.2f}"] if within else []
                words += [f"between {np.std(means, ddof=1):.2f}"] if len(means) > 1 else []
                if not flops:  # with the most that was seen, where a median is not reached
                    bounds = [kaplan_meier_median(ps) or max(x for x, _ in ps) for ps in found]
                    words.append(f"above {math.exp(np.mean(np.log(bounds))):.3g}")
                print(f"  {rung:15} {arm:11} {name:17} FLOPs {show(flops)} samples {show(samples)}", *words)


def print_ratios(study):
    print("\n1. RL over SFT: FLOPs with a verdict, rollouts per label. 2. Rollouts per label times p, and over the essay's ratio")
    for rung, arm, target, label in study.cases():
        flops, logs = study.ratio(rung, arm, target, "flops"), study.logs(rung, arm, target, "samples")
        about = {
            m: [math.log(form(np.exp2(r["log2_p_before"]))) for form in (one_over_p, essay_ratio)]
            for m, r in study.starts[rung].items()
        }
        over = [interval(None if v is None else v - about[m][i] for m, v in logs.items()) for i in (0, 1)]
        words = [f"{w} {show(x)} {verdict(x):12}" for w, x in zip(("x p", "/ essay"), over, strict=True)]
        print(label, "FLOPs", show(flops), f"{verdict(flops):12} samples {show(interval(logs.values()))}", *words)


# 3, 4, 6: single claims


def print_claim_2(study):
    print("\n3. Claim 2, latent rungs from .65 on: FLOPs of RL over SFT to 90 % of the bits, and what the essay's bits predict")
    for arm in ("rloo", "reinforce"):
        points, per_model = {}, defaultdict(list)
        for rung in (r for r in study.starts if r in [f"latent {x}" for x in "IJBKL"]):
            logs = study.logs(rung, arm, NINETY, "flops")
            predicted = [
                math.log(essay_ratio(np.exp2(study.starts[rung][m]["log2_p_before"]))) + flops_per_sample(study, rung, arm, m)
                for m in logs
            ]
            print(f"  {rung:15} {arm:10} {show(interval(logs.values()))} the essay's bits {show(interval(predicted))}")
            points |= {(rung, m): v for m, v in logs.items()}
        known, rungs = {k: v for k, v in points.items() if v is not None}, {r for r, _ in points}
        for (_, model), v in known.items():
            per_model[model].append(v)
        lacking = [k for k in points if k not in known]
        whole = [np.mean([points[k] for k in points if k[0] == r]) for r in rungs if r not in {k[0] for k in lacking}]
        # README does not say over what the interval runs; points without a price are left out, which favours the arm that has them.
        means = [np.mean(v) for v in per_model.values()]
        for word, logs in (("pretraining seeds", means), ("whole rungs", whole), ("points", list(known.values()))):
            x = interval(logs)
            claim = {"more": "contradicted", "less": "supported"}.get(verdict(x, 1.0), "open")
            print(f"    {arm}: mean over {len(logs)} {word} {show(x)} {claim}{', but not measured at some' if lacking else ''}")
        print(f"    {arm}: without a price:", ", ".join(map(" ".join, lacking)) or "none")


def print_reason(study):
    print("\n4. Unacquired .1 over latent E, half of the bits, FLOPs (Welch on logs)")
    for rung in (r for r, p in study.p.items() if study.reason[r] == "unacquired" and abs(p - 0.1) < 0.08):
        for arm in (a for a in study.arms(rung) if a in study.arms("latent E")):
            a, b = (list(study.medians(r, arm, HALF, "flops").values()) for r in (rung, "latent E"))
            x = None if None in a + b or min(len(a), len(b)) < 2 else welch(np.log(a), np.log(b))
            print(f"  {rung:15} {arm:10} {show(x)} {verdict(x)}")


def welch(a, b):
    u, v = (np.var(x, ddof=1) / len(x) for x in (a, b))
    freedom = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1))
    difference, half = np.mean(a) - np.mean(b), stats.t.ppf(0.975, freedom) * math.sqrt(u + v)
    return tuple(math.exp(min(difference + x, 700.0)) for x in (0.0, -half, half))


def print_claim_12(study):
    print("\n6. Claim 12: bits elsewhere per held-out bit, GRPO minus SFT, at the end of runs that kept 90 % of the bits")
    for word, held in (
        ("as README has it, runs that hold 90 % at the end too", 0.9),
        ("runs that lost it again among them", -math.inf),
    ):
        rows, ratios = defaultdict(lambda: defaultdict(list)), []
        for rung, model in ((rung, m) for rung, models in study.starts.items() for m in models):
            kept = []
            for arm in ("grpo", "sft"):
                pairs = zip(study.cells[rung, arm][model], study.prices(rung, arm, NINETY).get(model, []), strict=False)
                kept.append([r for r, p in pairs if p["flops"][1] and 1 - r["log2_p"][-1] / r["log2_p"][0] >= held])
            if all(kept):
                kl = np.divide(*(np.mean([r["kl_bits"][-1] for r in runs]) for runs in kept))
                ratios.append(f"{rung} {model} {kl:.2f}")
                for split in ELSEWHERE if 0.8 <= kl <= 1.25 else ():
                    gain = [np.mean([gain_per_bit(r, split) for r in runs]) for runs in kept]
                    rows[study.reason[rung], split][model].append(float(gain[0] - gain[1]))
        print(f"  {word}; KL of GRPO over SFT:", "; ".join(ratios) or "no start")
        for (reason, split), table in rows.items():
            mean, half = mean_and_half([np.mean(v) for v in table.values()])
            words = "; ".join(f"{m} " + " ".join(f"{x:.2f}" for x in v) for m, v in table.items())
            print(f"    {reason:10} {split:16} {mean:7.3f} +- {half:.3f}: {words}")


def gain_per_bit(run, split):
    return run["gains_elsewhere"].get(split, math.nan) / (run["log2_p"][-1] - run["log2_p"][0])


# Against the study's numbers


def apart(a, b):
    """Relative difference; none where both are missing, infinite where one is."""
    missing = [x is None or math.isnan(x) for x in (a, b)]
    return abs(a / b - 1) if not any(missing) else 0.0 if all(missing) else math.inf


def compare(study, path):
    """Whether means and intervals of the prices in FLOPs agree."""
    theirs, differences = json.loads(path.read_text(encoding="utf-8"))["prices"], []
    for rung, arm in study.places():
        for name, target in TARGETS.items():
            here, there = study.price(rung, arm, target, "flops"), theirs.get(f"{rung}, {arm}", {}).get(name) or {}
            numbers = (there.get("mean"), *(there.get("interval") or (None, None)))
            difference = max(map(apart, here or (None,) * 3, numbers))
            differences += [difference] if here or numbers[0] else []
            if difference > 1e-6:
                print(f"  DIFFERS {rung}, {arm}, {name}: {show(here)}, there {numbers}")
    unknown = [cell for cell in theirs if cell not in {f"{rung}, {arm}" for rung, arm in study.places()}]
    worst = max(differences, default=math.inf)
    print(f"Against {path}, {READINGS[study.reading]}:")
    print(f"  {len(differences)} prices, largest relative difference {worst:.2g}; cells not here: {unknown or 'none'}")
    return worst <= 1e-6 and not unknown


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    study = Study(read_runs(arguments.folder))
    print(len(study.runs), "runs;", "; ".join(f"{rung} p {study.p[rung]:.3f}" for rung in study.starts))
    print_prices(study)
    print_ratios(study)
    print_errors(study, README_MODELS, "2. Forms and null models of README")
    for step in (print_claim_2, print_reason, print_claim_12):
        step(study)
    print("\nWhat would speak against the sentences")
    for step in (try_other_targets, try_null_models, try_fewer_seeds, try_bootstrap, try_floor, try_decomposition, try_slope):
        step(study)
    try_readings(study)
    if arguments.results:
        print()
        agrees = {reading: compare(Study(study.runs, reading), arguments.results) for reading in READINGS}
        raise SystemExit(0 if agrees[study.reading] else 1)


if __name__ == "__main__":
    main()
