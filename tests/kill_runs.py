"""Kill runs with SIGKILL at random moments, resume them to their end, and read the records with pandas: no gap, no duplicate.

    python tests/kill_runs.py --num 100 --seed 0 --folder /tmp/killed

Prints a line for each run and a table of the kills; exit status 1 if a record is not whole. Sorts of kills: anywhere in SFT, GRPO, a
study and a measurement, and at the end of SFT and GRPO runs, while the model is being saved.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

REPOSITORY = Path(__file__).resolve().parent.parent
STEPS = 60
TRAINED = [
    "--mark",
    "E",
    "--num_train_problems",
    "64",
    "--num_heldout_problems",
    "16",
    "--max_steps",
    str(STEPS),
    "--save_steps",
    "7",
]
STUDY = """seeds: [1, 2]
shared: {num_train_problems: 64, num_heldout_problems: 16, max_steps: 40, save_steps: 7, mark: E}
starts: {base: {model_name_or_path: data/base}}
arms:
  sft: {recipe: sft}
  grpo: {recipe: grpo, per_device_train_batch_size: 16}
"""
MEASURED = ["--num_train_problems", "48", "--num_heldout_problems", "16", "--num_generations", "16", "--batch_size", "32"]
MEASURED += ["--probe_shots", "0", "--probe_updates", "6"]


def command_of(sort: str, folder: Path) -> list[str]:
    """What starts a run of a sort, or goes on with it."""
    recipe = {"sft_end": "sft", "grpo_end": "grpo"}.get(sort, sort)
    if sort == "study":
        config = folder.parent / "study.yaml"
        config.write_text(STUDY)
        return [sys.executable, "recipes/study.py", "--config", str(config), "--output_dir", str(folder), "--jobs", "2"]
    command = [sys.executable, f"recipes/{recipe}.py", "--config", f"recipes/configs/{recipe}.yaml", "--output_dir", str(folder)]
    command += MEASURED if sort == "measure" else TRAINED
    return command + (["--resume_from_checkpoint", "last"] if (folder / "manifest.json").is_file() else [])


def num_lines(folder: Path) -> int:
    """Step lines that a run has written."""
    path = folder / "steps.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def is_finished(sort: str, folder: Path) -> bool:
    """Whether the run, or all runs of the study, are finished."""
    paths = folder.glob("*/manifest.json" if sort == "study" else "manifest.json")
    manifests = [json.loads(path.read_text()) for path in paths]
    return len(manifests) == (4 if sort == "study" else 1) and all(manifest["state"] == "finished" for manifest in manifests)


def run_until_killed(sort: str, folder: Path, rng: np.random.Generator, seconds: float) -> bool:
    """Start or resume a run and kill it; False if it had finished before."""
    with open(folder.parent / "log.txt", "a") as log:
        process = subprocess.Popen(command_of(sort, folder), cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True)
    begun, before = time.monotonic(), num_lines(folder)

    def has_begun() -> bool:
        if sort.endswith("_end"):
            return num_lines(folder) >= STEPS
        if sort == "study":
            return any(num_lines(run) for run in folder.glob("*-seed*"))
        return num_lines(folder) > before or time.monotonic() - begun > 60

    while process.poll() is None and not has_begun():
        time.sleep(0.01)
    delay = rng.uniform(0, 0.6 if sort.endswith("_end") else seconds)
    try:
        status = process.wait(delay)
        if status != 0:
            raise SystemExit(f"{folder}: the command failed by itself ({status}), see {folder.parent / 'log.txt'}")
        return False
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)  # the process alone: what it started has to end with it
        process.wait()
        # a run may be killed between its last word and its end: then nothing is left to resume
        return sort == "study" or not is_finished(sort, folder)


def faults_of(folder: Path) -> list[str]:
    """What is wrong with a finished run directory, read by pandas."""
    manifest = json.loads((folder / "manifest.json").read_text())
    steps = pd.read_json(folder / "steps.jsonl", lines=True)
    tables = {name: sorted(folder.glob(f"{name}-*.parquet")) for name in ("prompts", "rollouts", "evals", "problems")}
    tables = {name: pd.concat(map(pd.read_parquet, paths), ignore_index=True) for name, paths in tables.items() if paths}
    faults = []
    if manifest["state"] != "finished":
        faults.append(f"state {manifest['state']}")
    if steps["step"].tolist() != list(range(1, len(steps) + 1)):
        faults.append(f"steps are {steps['step'].tolist()}")
    if not steps["samples/total"].is_monotonic_increasing or not steps["flops/total"].is_monotonic_increasing:
        faults.append("a total falls")
    is_measured = manifest["regime"] == "measure"
    if not is_measured:
        wanted = manifest["config"]["training"]["max_steps"]
        if len(steps) != wanted:
            faults.append(f"{len(steps)} steps of {wanted}")
        if not list((folder / "model").glob("*.safetensors")):
            faults.append("no model")
    keys = {
        "rollouts": ["generation_step", "problem_id", "sample"],
        "evals": ["step", "split", "problem_id"],
        "problems": ["problem_id"],
    }
    for name, columns in keys.items():
        if name in tables and (twice := tables[name].duplicated(columns).sum()):
            faults.append(f"{twice} rows of {name} are there twice")
    if "rollouts" in tables:
        last = int(steps["samples/total"].iloc[-1])
        if len(tables["rollouts"]) != last:
            faults.append(f"{len(tables['rollouts'])} rollouts recorded, {last} counted")
        sizes = tables["rollouts"].groupby(["generation_step", "problem_id"], dropna=False).size()
        if is_measured and sizes.nunique() != 1:
            faults.append(f"groups of {sorted(sizes.unique())} rollouts")
    elif len(tables["prompts"]) != int(steps["samples/total"].iloc[-1]):
        faults.append(f"{len(tables['prompts'])} labels recorded, {int(steps['samples/total'].iloc[-1])} counted")
    if {"evals"} <= set(tables):
        per = tables["evals"].groupby(["step", "split"]).size()
        if per.groupby("split").nunique().max() != 1:
            faults.append("an evaluation has too few or too many problems")
        if tables["evals"]["step"].max() != len(steps):
            faults.append("the end was not scored")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=100, help="kills in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--folder", type=Path, required=True, help="where the runs go; must not exist")
    parser.add_argument("--sorts", nargs="+", default=["sft", "grpo", "study", "measure", "sft_end", "grpo_end"])
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    rng = np.random.default_rng(options.seed)
    seconds = {"sft": 1.5, "grpo": 4.0, "study": 6.0, "measure": 3.0, "sft_end": 0.0, "grpo_end": 0.0}
    kills, runs, broken, number = Counter(), Counter(), [], 0
    while sum(kills.values()) < options.num:
        sort = options.sorts[number % len(options.sorts)]
        folder = options.folder / f"{number:03d}_{sort}" / "run"
        folder.parent.mkdir(parents=True)
        number += 1
        of_run = 0
        while True:
            may_be_killed = of_run < 4 and sum(kills.values()) < options.num
            if may_be_killed and run_until_killed(sort, folder, rng, seconds[sort]):
                of_run += 1
                kills[sort] += 1
                continue
            if not may_be_killed:
                with open(folder.parent / "log.txt", "a") as log:
                    if not is_finished(sort, folder) or sort == "study":
                        subprocess.run(command_of(sort, folder), cwd=REPOSITORY, stdout=log, stderr=log, check=True)
            break
        runs[sort] += 1
        run_dirs = sorted(path.parent for path in folder.glob("*/manifest.json")) if sort == "study" else [folder]
        faults = [f"{run.name}: {fault}" for run in run_dirs for fault in faults_of(run)]
        broken += [f"{folder}: {fault}" for fault in faults]
        lines = [len(list((run / "superseded").glob("*"))) if (run / "superseded").is_dir() else 0 for run in run_dirs]
        print(f"{sort}: {of_run} kills, {sum(lines)} superseded files, {'; '.join(faults) or 'whole'}", flush=True)
        if not faults:
            shutil.rmtree(folder.parent)
    for sort in options.sorts:
        print(f"{sort}: {kills[sort]} kills in {runs[sort]} runs")
    print(f"{sum(kills.values())} kills, {len(broken)} faults")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
