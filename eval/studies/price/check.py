"""A second program for the price study, written from README.md alone; it shares no code with the study, so that an error would have to be made twice.

Usage: python eval/studies/price/check.py FOLDER [--results results.json]; FOLDER holds a lines.parquet, whose rows are runs.
After the study's statistics it prints what would speak against its sentences: other targets, other null models, fewer seeds, other intervals.
"""

import argparse
import json
import math
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet
from scipy import integrate, stats

TARGETS = {"half of the bits": ("bits", 0.5), "90 % of the bits": ("bits", 0.9), "p = .5": ("p", 0.5), "p = .9": ("p", 0.9)}
HALF, NINETY = TARGETS["half of the bits"], TARGETS["90 % of the bits"]
HEADLINE = ("90 % of the bits", NINETY), ("half of the bits", HALF)
RL = "grpo", "rloo", "reinforce"
LEARNERS = *RL, "dr_grpo", "rejection"
ORDER = "sft", *LEARNERS, "exact"
UNITS = "flops", "samples", "updates"
ELSEWHERE = "shifted", "other_operation", "other_format"  # one digit more, another operation, another format
READINGS = {
    "evaluation": "README's words: censored at the last evaluation up to a third of what was spent",
    "third": "censored at a third of what was spent",
    "interpolated": "kept until three times the interpolated price, not three times the evaluation's",
}
DRAWS = 300


# Runs and prices


def read_runs(folder):
    runs = []
    for line in pyarrow.parquet.read_table(folder / "lines.parquet").to_pylist():
        run = line | {k: json.loads(line[k] or "{}") for k in ("tags", "settings", "gains_elsewhere")}
        run |= {k: run["tags"].get(k, "unknown") for k in ("rung", "model", "reason")}
        run |= {k: np.array(run[k], dtype=float) for k in (*UNITS, "log2_p", "pass_rate", "kl_bits", "log2_p_before")}
        if "sgd" in run["settings"].get("optim", "") and "sgd" not in run["arm"]:
            run["arm"] += "_sgd"
        if len(run["flops"]) > 1 and not run["tags"].get("part"):  # parts: rollout length and vocabulary, other questions
            runs.append(run)
    return runs


def find_price(run, target, keep, reading):
    """Per unit (what was spent, whether that is a price); where it is none the price is taken to lie above."""
    values, level = run["pass_rate"], target[1]
    if target[0] == "bits":
        values, level = run["log2_p"], (1 - level) * run["log2_p_before"].mean()
    flops = run["flops"]
    for i in range(1, len(values)):
        if values[i - 1] < level <= values[i]:
            # A run that had diverged has no number before: then the evaluation itself is the price.
            part = (level - values[i - 1]) / (values[i] - values[i - 1]) if math.isfinite(values[i - 1]) else 1.0
            spent = {u: run[u][i - 1] + part * (run[u][i] - run[u][i - 1]) for u in UNITS}
            until = keep * (spent["flops"] if reading == "interpolated" else flops[i])
            if until > flops[-1]:  # nobody saw whether it is kept
                break
            if (values[i:][flops[i:] <= until] >= level).all():
                return {u: (max(x, run[u][1] / run["updates"][1]), True) for u, x in spent.items()}  # at least one update
    last = flops[-1] / keep
    last = flops[flops <= last][-1] if reading == "evaluation" else last
    return {u: (float(np.interp(last, flops, run[u])), False) for u in UNITS}


def holds_before(run, target):
    return target[0] == "p" and run["pass_rate"][0] >= target[1]


def kaplan_meier_median(prices):
    """The first time at which no more than half are left, None where that is never seen; what is censored at a time outlives its events."""
    survival, left = 1.0, len(prices)
    for spent, is_price in sorted(prices, key=lambda x: (x[0], not x[1])):
        survival *= 1 - 1 / left if is_price else 1
        if survival <= 0.5 + 1e-12:
            return spent
        left -= 1
    return None


class Study:
    """The runs by cell: the same questions are asked of parts of the runs, and with other readings of README."""

    def __init__(self, runs, reading="evaluation"):
        self.runs, self.reading = runs, reading
        self.cells, starts = defaultdict(lambda: defaultdict(list)), defaultdict(dict)
        for run in runs:
            self.cells[run["rung"], run["arm"]][run["model"]].append(run)
            starts[run["rung"]][run["model"]] = run
        self.p = {rung: float(np.mean([r["pass_rate"][0] for r in models.values()])) for rung, models in starts.items()}
        self.reason = {rung: next(iter(models.values()))["reason"] for rung, models in starts.items()}
        self.starts = {rung: starts[rung] for rung in sorted(starts, key=lambda r: (self.reason[r], -self.p[r]))}
        self.prices, self.logs = cache(self.prices), cache(self.logs)

    def arms(self, rung):
        arms = (a for r, a in self.cells if r == rung)
        return sorted(arms, key=lambda a: (ORDER.index(a) if a in ORDER else len(ORDER), a))

    def prices(self, rung, arm, target, keep=3.0):
        """Pretraining seed -> prices of its runs; nothing where the target holds before at one of them."""
        models = self.cells.get((rung, arm), {})
        if any(holds_before(r, target) for runs in models.values() for r in runs):
            return {}
        return {m: [find_price(r, target, keep, self.reading) for r in runs] for m, runs in models.items()}

    def medians(self, rung, arm, target, unit, keep=3.0):
        return {m: kaplan_meier_median([x[unit] for x in ps]) for m, ps in self.prices(rung, arm, target, keep).items()}

    def price(self, rung, arm, target, unit):
        return interval(math.log(x) if x else None for x in self.medians(rung, arm, target, unit).values())

    def logs(self, rung, arm, target, unit, keep=3.0):
        """Pretraining seed -> log of RL over SFT; None where a median is not reached."""
        sft, learner = (self.medians(rung, a, target, unit, keep) for a in ("sft", arm))
        return {m: math.log(learner[m] / sft[m]) if sft[m] and learner[m] else None for m in sorted(sft.keys() & learner)}

    def ratio(self, rung, arm, target, unit, keep=3.0):
        return interval(self.logs(rung, arm, target, unit, keep).values())

    def places(self):
        return [(rung, arm) for rung in self.starts for arm in self.arms(rung)]

    def cases(self):
        """(rung, arm of RL, target, beginning of a line) of the headline questions, at all rungs."""
        for rung, arm in self.places():
            for name, target in HEADLINE if arm in RL else ():
                yield rung, arm, target, f"  {rung:15} {arm:10} {name:17}"


def mean_and_half(values):
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else math.nan
    return (float(np.mean(values)) if len(values) else math.nan), float(half)


def interval(logs):
    """Geometric mean and its 95 % t interval; None where one of the logs is missing."""
    logs = list(logs)
    if not logs or None in logs:
        return None
    mean, half = mean_and_half(logs)
    return tuple(math.exp(min(mean + x, 700.0)) for x in (0.0, -half, half))


def show(x):
    return f"{'not measured':30}" if x is None else f"{x[0]:9.4g} [{x[1]:8.3g}, {x[2]:8.3g}]"


def short(x):
    return "-" if x is None else f"{x[0]:.3g}"


def verdict(x, margin=1.25):
    if x is None or math.isnan(x[1]):
        return "not measured" if x is None else "one model"
    inside = "the same" if x[1] >= 1 / margin and x[2] <= margin else "open"
    return "more" if x[1] > margin else "less" if x[2] < 1 / margin else inside


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


# 2: forms of rollouts per label


def one_over_p(p, *_):
    return 1 / p.mean()


def essay_ratio(p, *_):
    inside = p[(p > 0) & (p < 1)]
    entropy = -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside)).sum() / len(p)
    return -np.log2(p).mean() / entropy


def informative_over_labels(p, learner, sft):
    """Rollouts per informative update over labels per update."""
    batch, size = learner["settings"]["per_device_train_batch_size"], learner["settings"].get("num_generations") or 1
    idle = (1 - p) ** size + (
        0 if learner["arm"] == "reinforce" else p**size
    )  # without a baseline a group that passes is informative
    return batch / (1 - idle.mean() ** (batch / size)) / sft["settings"]["per_device_train_batch_size"]


FORMS = {"1/p": one_over_p, "essay": essay_ratio, "informative": informative_over_labels}


def on_the_way(form, run, share, *arms):
    """Simpson's mean over the way from the start to the target, all problems' log p going up by the same share."""
    remaining = np.linspace(1, 1 - share, 201)
    return integrate.simpson([form(np.exp2(run["log2_p_before"] * r), *arms) for r in remaining], x=remaining) / -share


def make_points(study, arm, target):
    """One point per (rung, pretraining seed) with both prices: the log of rollouts per label, and of what might predict it."""
    points = []
    for rung in study.starts:
        updates = study.logs(rung, arm, target, "updates")
        for model, log in study.logs(rung, arm, target, "samples").items():
            if log is not None:
                start, arms = study.starts[rung][model], [study.cells[rung, a][model][0] for a in (arm, "sft")]
                x = {k: math.log(form(np.exp2(start["log2_p_before"]), *arms)) for k, form in FORMS.items()}
                x |= {f"{k}, way": math.log(on_the_way(form, start, target[1], *arms)) for k, form in FORMS.items()}
                x |= {
                    "rung": rung,
                    "model": model,
                    "reason": start["reason"],
                    "arm": arm,
                    "measured": log,
                    "updates": updates[model],
                }
                rl, sft = (run["settings"] for run in arms)
                x["rates"] = math.log(sft["learning_rate"] / rl["learning_rate"])
                x["batches"] = math.log(rl["per_device_train_batch_size"] / sft["per_device_train_batch_size"])
                points.append(x | {f"{k} x rates": x[k] + x["rates"] for k in ("informative", "informative, way", "batches")})
    return points


def mean_of(points, offset=None):
    return float(np.mean([x["measured"] - (x[offset] if offset else 0) for x in points])) if points else math.nan


def fit_line(others, x, key):
    known = [o[key] for o in others]
    if not known or np.ptp(known) < 1e-9:
        return math.nan  # no line to be had
    return float(np.polyval(np.polyfit(known, [o["measured"] for o in others], 1), x[key]))


def same(others, x, key):
    return [o for o in others if o[key] == x[key]]


README_FORMS = *FORMS, "informative x rates", *(f"{k}, way" for k in FORMS), "informative, way x rates"
README_MODELS = {k: (lambda x, _, k=k: x[k]) for k in README_FORMS} | {
    "null: constant": lambda x, o: mean_of(o),
    "null: rates": lambda x, o: fit_line(o, x, "rates"),
    "null: reason": lambda x, o: mean_of(same(o, x, "reason")),
}
OTHER_MODELS = {
    "batches": lambda x, o: x["batches"],
    "updates": lambda x, o: x["updates"],
    "rate x updates constant": lambda x, o: x["batches x rates"] + mean_of(o, "batches x rates"),
    "power of p": lambda x, o: fit_line(o, x, "1/p"),
    "1/p x constant": lambda x, o: x["1/p"] + mean_of(o, "1/p"),
    "the arm elsewhere": lambda x, o: mean_of(same(o, x, "arm")),
    "the rung elsewhere": lambda x, o: mean_of(same(same(o, x, "arm"), x, "rung")),
}


def rms_errors(points, models):
    """Whatever is fitted is judged at a pretraining seed that it has not seen."""
    errors = defaultdict(list)
    for x in points:
        others = [y for y in points if y["model"] != x["model"]]
        for word, model in models.items():
            error = model(x, others) - x["measured"]
            errors[word] += [error] if math.isfinite(error) else []
    return {w: (float(np.sqrt(np.mean(np.square(e)))), len(e)) for w, e in errors.items() if e}


def print_errors(study, models, title):
    print(f"\n{title}: root mean square log error (points), per arm and over all three")
    for name, target in HEADLINE:
        per_arm = {arm: make_points(study, arm, target) for arm in RL}
        for arm, points in (*per_arm.items(), ("all three", [x for some in per_arm.values() for x in some])):
            found = rms_errors(points, models)
            print(f"  {arm:10} {name:17}", "; ".join(f"{w} {e:.3f} ({n})" for w, (e, n) in found.items()))
            # a line that could be drawn at some of the points only is judged on others than the forms
            nulls = [e for w, (e, n) in found.items() if w.startswith("null") and n == len(points)]
            if nulls:
                forms = [w for w, (e, _) in found.items() if not w.startswith("null") and e < min(nulls)]
                print(f"{'':31} below every null model of README:", ", ".join(forms) or "none")


# 3, 4, 6: single claims


def flops_per_sample(study, rung, arm, model):
    """RL over SFT, log, over whole runs, whatever was reached."""
    sft, learner = ([r["flops"][-1] / r["samples"][-1] for r in study.cells[rung, a][model]] for a in ("sft", arm))
    return math.log(np.median(learner) / np.median(sft))


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


# What would speak against the sentences


def cheapest_arm(study, rung):
    found = {a: x[0] for a in study.arms(rung) if a in LEARNERS and (x := study.ratio(rung, a, NINETY, "flops"))}
    return min(found, key=found.get) if found else "reinforce"


def try_other_targets(study):
    shares = 0.25, 0.5, 0.75, 0.9, 0.95
    print("\na. Rollouts per label | FLOPs ratio at shares of the bits", *shares, "for reinforce and the cheapest arm")
    print("   (a run ends at three times its last price, so what is kept for longer, or at .95, is censored by early success)")
    for rung in study.starts:
        for arm in {a: 0 for a in ("reinforce", cheapest_arm(study, rung)) if a in study.arms(rung)}:
            for keep in (1.0, 2.0, 3.0, 5.0):
                rows = [[study.ratio(rung, arm, ("bits", s), u, keep) for s in shares] for u in ("samples", "flops")]
                cells = [" ".join(f"{short(x):>6}" for x in row) for row in rows]
                print(f"  {rung:15} {arm:10} kept until {keep:.0f} times", " | ".join(cells))


def try_null_models(study):
    print_errors(study, OTHER_MODELS, "b. Other models (what is measured has the updates in it, so those are no forecast)")
    print("b. Spread over rungs, sd of ln, of what is spent at a target; is rate x updates a constant?")
    for arm in (a for a in ORDER if any(a in study.arms(r) for r in study.starts)):
        for name, target in HEADLINE:
            rungs = [r for r in study.starts if study.price(r, arm, target, "updates")]
            logs = {u: [math.log(study.price(r, arm, target, u)[0]) for r in rungs] for u in UNITS}
            rates = [next(iter(study.cells[r, arm].values()))[0]["settings"]["learning_rate"] for r in rungs]
            logs["rate x updates"] = [x + math.log(rate) for x, rate in zip(logs["updates"], rates, strict=True)]
            words = [f"{w} {np.std(v, ddof=1):.2f}" for w, v in logs.items() if len(v) > 1]
            products = [f"{r} {math.exp(v):.2g}" for r, v in zip(rungs, logs["rate x updates"], strict=True)]
            print(f"  {arm:10} {name:17}", ", ".join(words), "; it is", ", ".join(products) or "not measured")


def try_fewer_seeds(study):
    print("\nc. Without one pretraining seed, and with half of the training seeds: rollouts per label, FLOPs ratio, its verdict")
    parts = {f"without {x}": [r for r in study.runs if r["model"] != x] for x in sorted({r["model"] for r in study.runs})}
    parts |= {f"{w} seeds": [r for r in study.runs if r["seed"] % 2 == i] for i, w in enumerate(("even", "odd"))}
    parts = {w: Study(runs, study.reading) for w, runs in parts.items()}
    for rung, arm, target, label in study.cases():
        words, moves, whole = [], {"samples": 1.0, "flops": 1.0}, {u: study.ratio(rung, arm, target, u) for u in UNITS[:2]}
        for word, part in parts.items():
            if word.removeprefix("without ") in (*study.starts[rung], "even seeds", "odd seeds"):
                found = {u: part.ratio(rung, arm, target, u) for u in moves}
                words.append(f"{word} {short(found['samples'])} {short(found['flops'])} {verdict(found['flops'])}")
                for u, x in found.items():
                    moves[u] = max(moves[u], math.exp(abs(math.log(x[0] / whole[u][0])))) if x and whole[u] else moves[u]
        most = f"move by up to {moves['samples']:.2f} {moves['flops']:.2f}" if whole["flops"] else "not measured"
        print(label, f"{most};", "; ".join(words))


def draw_median(random, prices):
    return kaplan_meier_median([prices[i]["flops"] for i in random.integers(len(prices), size=len(prices))])


def try_bootstrap(study):
    print(f"\nd. FLOPs ratio: t interval, and bootstrap over training seeds ({DRAWS} draws; share of them with a ratio)")
    random = np.random.default_rng(0)
    for rung, arm, target, label in study.cases():
        sft, learner = (study.prices(rung, a, target) for a in ("sft", arm))
        draws, models = [], sorted(sft.keys() & learner)
        for _ in range(DRAWS if models else 0):
            pairs = [(draw_median(random, learner[m]), draw_median(random, sft[m])) for m in models]
            draws += [np.mean([math.log(a / b) for a, b in pairs])] if all(map(all, pairs)) else []
        known, ends = study.ratio(rung, arm, target, "flops"), np.exp(np.percentile(draws, [50, 2.5, 97.5])) if draws else None
        print(label, "t", show(known), f"{verdict(known):12} bootstrap", show(ends), f"{len(draws) / DRAWS:.2f} {verdict(ends)}")


def try_floor(study):
    print("\ne. The floor: median prices of at most two updates at a pretraining seed")
    for rung, arm in study.places():
        for name, target in TARGETS.items():
            found = study.medians(rung, arm, target, "updates")
            low = [f"{m} {x:.2f}" for m, x in found.items() if x and x <= 2]
            if low:
                print(f"  {rung:15} {arm:11} {name:17} {len(low)} of {len(found)}:", ", ".join(low))


def try_decomposition(study):
    print("\nf. FLOPs ratio = rollouts per label x FLOPs of a rollout over a label; and the latter over whole runs, to the end")
    for rung, arm, target, label in study.cases():
        flops, samples = (study.ratio(rung, arm, target, u) for u in ("flops", "samples"))
        if flops and samples:
            whole = [flops_per_sample(study, rung, arm, m) for m in study.logs(rung, arm, target, "flops")]
            part = flops[0] / samples[0]
            print(label, f"{flops[0]:8.3g} = {samples[0]:8.3g} x {part:.3f}; whole runs {math.exp(np.mean(whole)):.3f}")


def try_slope(study):
    print("\ng. Slope of ln rollouts per label on ln 1/p over latent rungs, per pretraining seed (rungs); a law of 1/p has 1")
    for arm in RL:
        for name, target in HEADLINE:
            points, slopes = [x for x in make_points(study, arm, target) if x["reason"] == "latent"], {}
            for model in sorted({x["model"] for x in points}):
                pairs = np.array([(x["1/p"], x["measured"]) for x in points if x["model"] == model])
                if len(pairs) > 1:
                    slopes[f"{model} ({len(pairs)})"] = float(np.polyfit(*pairs.T, 1)[0])
            mean, half = mean_and_half(list(slopes.values()))
            latent = [r for r in study.starts if study.reason[r] == "latent"]
            missing = sum(v is None for r in latent for v in study.logs(r, arm, target, "samples").values())
            words = ", ".join(f"{w} {v:.2f}" for w, v in slopes.items())
            print(f"  {arm:10} {name:17} {mean:5.2f} +- {half:.2f}: {words}; {missing} points without a price")


def try_readings(study):
    print("\nh. Prices in FLOPs that another reading of README changes by more than 2 %, or makes or unmakes")
    others = {reading: Study(study.runs, reading) for reading in READINGS if reading != study.reading}
    for rung, arm in study.places():
        for name, target in TARGETS.items():
            a = study.price(rung, arm, target, "flops")
            for reading, other in others.items():
                b = other.price(rung, arm, target, "flops")
                if (a is None) != (b is None) or (a and abs(a[0] / b[0] - 1) > 0.02):
                    print(f"  {rung:15} {arm:11} {name:17} {show(a)} {READINGS[reading]}: {show(b)}")


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
