"""Of the second program for the price study (check.py): which form predicts rollouts per label."""

import math
from collections import defaultdict

import numpy as np
from scipy import integrate

from eval.studies.price.check_prices import HEADLINE, RL

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
