"""Of the second program for the price study (check.py): what would speak against the sentences."""

import math

import numpy as np

from eval.studies.price.check_forms import fit_line, make_points, mean_of, print_errors, same
from eval.studies.price.check_prices import (
    DRAWS,
    HEADLINE,
    LEARNERS,
    NINETY,
    ORDER,
    READINGS,
    RL,
    TARGETS,
    UNITS,
    Study,
    flops_per_sample,
    kaplan_meier_median,
    mean_and_half,
    short,
    show,
    verdict,
)

OTHER_MODELS = {
    "batches": lambda x, o: x["batches"],
    "updates": lambda x, o: x["updates"],
    "rate x updates constant": lambda x, o: x["batches x rates"] + mean_of(o, "batches x rates"),
    "power of p": lambda x, o: fit_line(o, x, "1/p"),
    "1/p x constant": lambda x, o: x["1/p"] + mean_of(o, "1/p"),
    "the arm elsewhere": lambda x, o: mean_of(same(o, x, "arm")),
    "the rung elsewhere": lambda x, o: mean_of(same(same(o, x, "arm"), x, "rung")),
}


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
