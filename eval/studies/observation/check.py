"""A second program for the study of observations, written from README.md; it shares no code with the study, so that an error would have to be made twice.

Usage: python -m eval.studies.observation.check FOLDER --results results.json; FOLDER holds lines.parquet, paths.parquet and offered.jsonl. Factors themselves: `python -m eval.check_factors`.
It recomputes paths, exponents, predictions and gains, compares them with the claims, and prints what another half of the seeds says.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

PAIRS = "verdict_pairs"
SPOKEN = {
    "the verdict": "verdict",
    "the verdict, no baseline": "reinforce",
    "the verdict, groups of two": PAIRS,
    "the first error's place": "place",
}
SPOKEN |= {
    "its place and the right digit": "place_and_digit",
    "the right answer afterwards": "answer",
    "labels without rollouts": "label",
}
SPOKEN |= {
    "a teacher's predictions": "teacher",
    "the verdict, at the labels' rate": "verdict_same_rate",
    "the first error's place, at the labels' rate": "place_same_rate",
    "a teacher's predictions, at the labels' rate": "teacher_same_rate",
    "reply to predict: right answer": "reply_answer",
    "reply to predict: verdict": "reply_verdict",
}
TOLD = {"place": "first_error", "place_and_digit": "first_error_label", "answer": "answer"}


def half(run, amounts):
    """The amount at which half of the bits were kept for three times the FLOPs, else infinity, both for a run."""
    flops, bits = run["flops"], run["log2_p"]
    for i in range(1, len(flops)):
        if (
            3 * flops[i] <= flops[-1]
            and min(b for b, f in zip(bits, flops, strict=True) if flops[i] <= f <= 3 * flops[i]) >= bits[0] / 2
        ):
            way = 1.0 if i == 1 else (bits[0] / 2 - bits[i - 1]) / (bits[i] - bits[i - 1])
            return amounts[i - 1] + way * (amounts[i] - amounts[i - 1])
    return math.inf


def median(values):
    """Lower median: the Kaplan-Meier median where what was not kept was watched longest."""
    return sorted(values)[math.ceil(len(values) / 2) - 1]


def ratio(runs, arm, other, amount):
    """Median of `arm` over that of `other`, geometric mean over models; None where one has none."""
    logs = []
    for model in sorted({run["model"] for run in runs}):
        pair = [median([amount(run) for run in runs if (run["arm"], run["model"]) == (name, model)]) for name in (arm, other)]
        if math.inf in pair:
            return None
        logs.append(math.log(pair[0] / pair[1]))
    return math.exp(sum(logs) / len(logs))


def alive(arm, steps, group):
    """Share of the groups of which something is learned, by all places of a first error."""
    places, before = [], 1.0
    for p in steps:
        places, before = [*places, before * (1 - p)], before * p
    if arm in ("verdict", PAIRS, "reinforce"):
        return 1 - (1 - before) ** group - (before**group if arm != "reinforce" else 0)
    return {"place": 1 - sum(q**group for q in [*places, before]), "place_and_digit": 1 - before**group}.get(arm, 1.0)


def form(runs, arm):
    """FLOPs per unit of path that the form gives an arm, mean of logs over runs and models."""
    by_model = {}
    for run in (run for run in runs if run["arm"] == arm):
        spent, batch = run["spent"], run["settings"]["per_device_train_batch_size"]
        group, drawn = run["settings"].get("num_generations", 1), spent["prefill"] + spent["decode"]
        update, total = (sum(spent.values()) - drawn) / run["live_updates"][-1], 0.0
        for i in range(64):
            rest = 1 - (i + 0.5) / 128
            dead = 1 - np.mean([alive(arm, [min(2 ** (t * rest), 1.0) for t in answer], group) for answer in run["token_log2_p"]])
            total += (drawn / run["num_samples"] * batch / (1 - dead ** (batch // group)) + update) / 64
        by_model.setdefault(run["model"], []).append(math.log(total / run["settings"]["learning_rate"]))
    return math.exp(np.mean([np.mean(values) for values in by_model.values()]))


def main():
    """Exit status 1 if a number of the study differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    claims, compared, wrong = json.loads(options.results.read_text())["claims"], 0, []
    paths = {(p["rung"], p["model"], p["arm"], p["seed"]): p for p in pq.read_table(options.record / "paths.parquet").to_pylist()}
    runs = []
    for run in pq.read_table(options.record / "lines.parquet").to_pylist():
        tags, settings = json.loads(run["tags"]), json.loads(run["settings"])
        path = paths[tags["rung"], tags["model"], run["arm"], run["seed"]]
        runs.append(run | path | {"flops": run["flops"], "spent": json.loads(path["flops"]), "settings": settings})
    offered = [json.loads(line) for line in (options.record / "offered.jsonl").read_text().splitlines()]
    for claim in claims:
        rung, statistic = claim["statistic"].split(": ", 1)
        of_rung, text = [run for run in runs if run["rung"] == rung], claim["text"]
        named = [
            arm
            for words, arm in sorted(SPOKEN.items(), key=lambda pair: -len(pair[0]))
            if re.search(rf"{re.escape(words)}(?![,\w])", text + " " + statistic)
        ]
        arm = next((arm for arm in named if "verdict" not in arm or "reply" in arm), "verdict")
        bits = {
            name: np.mean([line["essay"][name] for line in offered if line["rung"] == rung]) for name in ("verdict", *TOLD.values())
        }
        plain = PAIRS if "the verdict, groups of two over" in statistic else "verdict"
        if "equal path" in text:
            saved = ratio(of_rung, plain, arm, lambda run: half(run, run["flops"]))
            value = saved and saved / (form(of_rung, plain) / form(of_rung, arm))
        elif text.startswith("Do FLOPs fall"):
            saved = ratio(of_rung, plain, arm, lambda run: half(run, run["flops"]))
            value = saved and math.log(saved) / math.log(bits[TOLD[arm]] / bits["verdict"])
        elif "optimizer's path" in text:
            value = ratio(
                of_rung, plain, arm, lambda run: half(run, [run["settings"]["learning_rate"] * n for n in run["live_updates"]])
            )
            halves = [
                ratio([run for run in of_rung if run["seed"] % 2 == odd], plain, arm, lambda run: half(run, run["flops"]))
                for odd in (0, 1)
            ]
            print(f"{rung}, {arm}: factor by even and odd seeds {halves}")
        elif text.startswith("Does it change the attempt"):
            value = np.mean([max(run["log2_p"][-1], -20) - run["log2_p"][0] for run in of_rung if run["arm"] == arm])
        elif "gained by" in statistic:
            pair = [SPOKEN[words] for words in re.search(r"gained by (.*) minus by (.*), same", statistic).groups()]
            gains = [
                {(r["model"], r["seed"]): r["pass_rate"][-1] - r["pass_rate"][0] for r in of_rung if r["arm"] == name}
                for name in pair
            ]
            value = np.mean([gains[0][key] - gains[1][key] for key in gains[0] if key in gains[1]])
        else:
            continue  # a factor
        compared += 1
        mean = claim["mean"]
        if (value is None) != (mean is None) or (value is not None and abs(value - mean) > 1e-6 * max(1, abs(mean))):
            wrong.append((rung, text, value, mean))
    print(f"{compared} numbers compared; other in the study: {wrong}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
