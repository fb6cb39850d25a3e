"""A second program for the exchange study, written from README.md alone; it shares no code with the study, so that an error would have to be made twice.

Usage: python eval/studies/exchange/check.py FOLDER [--results results.json]; FOLDER holds *.jsonl, or a lines.parquet with the same fields.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet
from scipy import stats

LIKE_PASSES = (
    "passes",
    "as_many_labels",
    "passes_of_groups",
    "passes_in_rounds",
)  # read at the setting of the nearest number of labels
IN_GROUPS = ("dpo", "verdict_likelihood", "grpo")  # so held against the passes among rollouts in groups


def read_runs(folder):
    runs, lines = {}, [x for path in sorted(folder.glob("lines.parquet")) for x in pyarrow.parquet.read_table(path).to_pylist()]
    for path in sorted(folder.glob("*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:  # a run that is being written
                print("torn line in", path)
    for line in lines:
        line["evaluations"] = json.loads(line["evaluations"]) if isinstance(line["evaluations"], str) else line["evaluations"]
        line["start"] = line["rung"], line["model"]
        line["extra"] = float(line.get("labels_per_pass") or 1) if line["arm"] == "as_many_labels" else line.get("rounds")
        key = *line["start"], line["arm"], line["extra"], *(line[x] for x in ("n", "seed", "learning_rate", "is_tuning"))
        if key not in runs or line["evaluations"][-1][0] > runs[key]["evaluations"][-1][0]:
            runs[key] = line
    print(len(lines), "lines,", len(runs), "runs")
    return list(runs.values())


def choose_settings(runs):
    scores, settings = defaultdict(lambda: defaultdict(dict)), {}
    for r in (r for r in runs if r["is_tuning"]):
        for updates, log_p, _ in r["evaluations"]:
            scores[r["start"], r["arm"], r["n"]][r["learning_rate"], updates][r["seed"]] = log_p
    for cell, table in scores.items():
        seeds = max(
            map(len, table.values())
        )  # a rate that fewer seeds have tried so far has a mean over other draws, and is not compared
        means = {s: np.mean(list(x.values())) for s, x in table.items() if len(x) == seeds}
        settings[cell] = min(means, key=lambda s: (-means[s], s))
    return settings


def read_gains(runs, settings):
    """(start, arm, factor or rounds, n) -> seed -> (gain, K), of the runs at the chosen setting alone."""
    gains, left_over = defaultdict(dict), 0
    for r in (r for r in runs if not r["is_tuning"]):
        arm, n, at = r["arm"], r["n"], {e[0]: e[1] for e in r["evaluations"]}
        k = r["num_trained"] if r.get("num_passed") is None else r["num_passed"]
        searched_itself = arm == "passes_of_groups" and (r["start"], arm, n) in settings
        if arm in LIKE_PASSES and not searched_itself:
            # Two is as near to one as to four; README does not say which, and the smaller is taken, as between settings.
            sizes = [c[2] for c in settings if c[:2] == (r["start"], "labels")]
            arm, n = "labels", min(sizes, key=lambda s: (abs(math.log2(s / max(k, 1))), s), default=0)
        rate, updates = settings.get((r["start"], arm, n), (None, None))
        if rate is None or (r["num_trained"] and (r["learning_rate"] != rate or updates not in at)):
            left_over += 1
        else:  # with nothing to train on there is no gain at any rate
            gains[r["start"], r["arm"], r["extra"], r["n"]][r["seed"]] = (at[updates] - at[0] if r["num_trained"] else 0.0), k
    print(left_over, "reported runs are left over, or at a start without a setting yet")
    return gains


def mean_gain(seeds):
    return float(np.mean([g for g, _ in seeds.values()]))


def curve(gains, start, arm):
    points = sorted((c[3], mean_gain(x)) for c, x in gains.items() if c[:3] == (start, arm, None))
    return [n for n, _ in points], list(np.maximum.accumulate([0.0] + [g for _, g in points])[1:])


def reach(sizes, values, target):
    """The n at which a monotone curve reaches the target, in log n; None below the first and beyond the last n, where it was not measured."""
    if not sizes or target <= 0 or not values[0] <= target <= values[-1]:
        return None
    i = next(i for i, v in enumerate(values) if v >= target)
    return (
        float(sizes[i] * (sizes[i - 1] / sizes[i]) ** ((values[i] - target) / (values[i] - values[i - 1])))
        if i
        else float(sizes[0])
    )


def waiting(sizes, values, p, target):
    """The n at which Binomial(n, p) labels gain the target on average."""
    ns = sorted({*range(1, 65), *np.geomspace(64, 1e6, 1500).astype(int).tolist()})
    means = [0.0]
    while len(means) <= len(ns) and means[-1] < target:
        low, high = stats.binom.ppf([1e-12, 1 - 1e-12], ns[len(means) - 1], p)  # all of the distribution that counts
        k = np.arange(low, high + 1)
        weights = stats.binom.pmf(k, ns[len(means) - 1], p)
        means.append(float(weights @ np.interp(np.log2(1 + k), np.log2(1 + np.array([0, *sizes])), [0.0, *values])))
    return reach(ns[: len(means) - 1], means[1:], target)


def over_models(out, name, per_model, is_ratio):
    """One number per (reason, model) as it is, and the mean and 95 % t interval over the models of a reason (of the logarithm, for ratios)."""
    for reason in sorted({r for r, _ in per_model}):
        rows = {m: float(v) for (r, m), v in per_model.items() if r == reason and v is not None and (v > 0 or not is_ratio)}
        out.update({f"{name}/{reason}/{m}": v for m, v in rows.items()})
        values = np.log(list(rows.values())) if is_ratio else np.array(list(rows.values()))
        half = stats.t.ppf(0.975, len(rows) - 1) * stats.sem(values) if len(rows) > 1 else math.nan
        for word, shift in (("mean", 0.0), ("low", -half), ("high", half)) if rows else ():
            out[f"{name}/{reason}/{word}"] = float(np.exp(values.mean() + shift) if is_ratio else values.mean() + shift)


def pass_statistics(out, gains, reason_of):
    """Statistic 1: the factor at which as many labels gain, summed over runs, what the passes gained; and the ratio at factor 1."""
    sums, ones, factors = defaultdict(lambda: np.zeros(5)), defaultdict(lambda: np.zeros(2)), {}
    for (start, _, _, n), seed, (gain, k) in [(c, s, g) for c, x in gains.items() if c[1] == "passes" for s, g in x.items()]:
        labels = [gains.get((start, "as_many_labels", f, n), {}).get(seed, (None,))[0] for f in (0.5, 1.0, 2.0)]
        key = reason_of[start], start[1]
        ones[key] += (gain, labels[1]) if labels[1] is not None else 0
        sums[key] += (1, gain, *labels) if k >= 2 and None not in labels else 0
    for key, (number, gain, *labels) in sums.items():
        rises = labels[0] < labels[1] < labels[2]  # where more labels do not gain more, nothing is bracketed
        factors[key] = 2 ** np.interp(gain, labels, [-1, 0, 1]) if rises else None
        print(f"  {key}: {number:.0f} runs, passes {gain:.4f} bits, labels at 1/2, 1 and 2:", *(f"{x:.4f}" for x in labels))
    over_models(out, "labels_per_pass", factors, True)
    over_models(out, "gain_ratio/same_runs", {k: v[1] / v[3] for k, v in sums.items() if v[3] > 0}, True)
    over_models(out, "gain_ratio/all_runs", {k: v[0] / v[1] for k, v in ones.items() if v[1] > 0}, True)


def start_statistics(out, gains, starts, reason_of):
    """Statistics 3 and 4: the rate at the gain of one label against the three forms, and the share of the bits that one label gains."""
    logs, shares, floored, products = {}, defaultdict(list), defaultdict(list), defaultdict(list)
    for start, (log_p, p) in starts.items():
        out[f"start/{'/'.join(start)}/pass_rate"], out[f"start/{'/'.join(start)}/available_bits"] = p, -log_p
        key, (sizes, values), one = (
            (reason_of[start], start[1]),
            curve(gains, start, "labels"),
            gains.get((start, "labels", None, 1)),
        )
        if one and (key[0] != "latent" or p < 0.5):
            shares[key].append(mean_gain(one) / -log_p)
            floored[key].append(max(mean_gain(one), 0.0) / -log_p)
        rate = reach(*curve(gains, start, "passes"), mean_gain(one)) if one and max(values) >= 0.25 else None
        if rate:
            entropy = -p * math.log2(p) - (1 - p) * math.log2(1 - p)  # of the mean p, as the lines do not hold p per problem
            row = rate, 1 / p, -log_p / entropy, waiting(sizes, values, p, mean_gain(one))
            out.update(
                {f"rate/{'/'.join(start)}/{w}": x for w, x in zip(("measured", "one_over_p", "essay", "waiting"), row, strict=True)}
            )
            logs[start] = np.log(np.array(row, dtype=float))
            products[key].append(logs[start][0] - logs[start][1])
    errors = defaultdict(list)
    for start, x in logs.items():
        others = [(t, y[0]) for t, y in logs.items() if t[1] != start[1]]
        nulls = [y for _, y in others], [y for t, y in others if reason_of[t] == reason_of[start]]
        for word, guess in zip(
            ("one_over_p", "essay", "waiting", "constant", "constant_of_reason"),
            (*x[1:], *(np.mean(y) if y else np.nan for y in nulls)),
            strict=True,
        ):
            errors[word] += [guess - x[0]] if np.isfinite(guess) else []
    out.update({f"rate_rms_log_error/{w}": float(np.sqrt(np.mean(np.square(x)))) for w, x in errors.items() if x})
    print("  starts with an exchange rate:", {w: len(x) for w, x in errors.items()})
    over_models(out, "rate_times_p", {k: math.exp(np.mean(v)) for k, v in products.items()}, True)
    over_models(out, "share_of_one_label/not_floored", {k: np.mean(v) for k, v in shares.items()}, False)
    over_models(out, "share_of_one_label/floored", {k: np.mean(v) for k, v in floored.items()}, False)


def learner_statistics(out, gains, reason_of):
    """Statistics 2 and 5: how far a learner of verdicts is ahead of SFT on the passes, as a factor in n; and what wrong labels gain."""
    wrong, ahead = defaultdict(list), defaultdict(lambda: defaultdict(list))
    for (start, arm, extra, n), seeds in gains.items():
        key, gain = (reason_of[start], start[1]), mean_gain(seeds)
        if arm == "wrong_labels":
            wrong[key].append(gain)
        elif arm in ("kto", "passes_in_rounds", *IN_GROUPS):
            grouped = curve(gains, start, "passes_of_groups")  # one size is no curve: then the passes of single rollouts stand in
            reached = reach(*(grouped if arm in IN_GROUPS and len(grouped[0]) > 1 else curve(gains, start, "passes")), gain)
            print(f"  {start} {arm} {extra or ''} n = {n}: gain {gain:.4f}, which passes reach at {reached}")
            ahead[arm if extra is None else f"{arm}_{extra:g}"][key] += [math.log(reached / n)] if reached else []
    over_models(out, "wrong_labels_gain", {k: np.mean(v) for k, v in wrong.items()}, False)
    for arm, table in ahead.items():  # the geometric mean over a start's sizes of n
        over_models(out, f"ahead_of_passes/{arm}", {k: math.exp(np.mean(v)) for k, v in table.items() if v}, True)


def compare(out, path):
    """Against the study's numbers by name; and for names that are not here, whether the same number stands here under another."""
    todo = [("", json.loads(path.read_text(encoding="utf-8")))]
    while todo:
        name, value = todo.pop()
        if isinstance(value, (dict, list)):
            todo += [(f"{name}/{k}".lstrip("/"), v) for k, v in (value.items() if isinstance(value, dict) else enumerate(value))]
        elif name in out and isinstance(value, (int, float)):
            print(
                "agrees " if np.isclose(out[name], value, rtol=1e-6, atol=0, equal_nan=True) else "DIFFERS", name, out[name], value
            )
        elif isinstance(value, float) and value not in (0.0, 0.5, 1.0, 2.0):  # numbers that many things have would say nothing
            print(
                "not here by name:",
                name,
                value,
                "here as",
                next((x for x, v in out.items() if np.isclose(v, value, rtol=1e-6, atol=0)), "nothing"),
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path)
    arguments, out = parser.parse_args(), {}
    runs = read_runs(arguments.folder)
    settings = choose_settings(runs)
    gains, reason_of = read_gains(runs, settings), {r["start"]: r["reason"] for r in runs}
    starts = {r["start"]: r["evaluations"][0][1:] for r in runs if not r["is_tuning"] and any(c[0] == r["start"] for c in settings)}
    for (start, arm, extra, n), seeds in sorted(gains.items(), key=lambda x: (*x[0][:2], x[0][2] or 0, x[0][3])):
        out[f"gain/{'/'.join(start)}/{arm}{'' if extra is None else f'@{extra:g}'}/{n}"] = mean_gain(seeds)
    pass_statistics(out, gains, reason_of)
    start_statistics(out, gains, starts, reason_of)
    learner_statistics(out, gains, reason_of)
    print(*(f"{name}: {value if value is None else format(value, '.4g')}" for name, value in out.items()), sep="\n")
    if arguments.results:
        compare({k: v for k, v in out.items() if v is not None}, arguments.results)


if __name__ == "__main__":
    main()
