"""Run a study: every arm from every start with every seed, as one run of a recipe each, then the report.

    python recipes/study.py --config recipes/configs/study.yaml --output_dir runs/study

Each run is a process of its own, single-threaded, as many at a time as there are cores (on GPUs: one). Finished runs are
kept and interrupted ones resumed, so the same command goes on where it stopped.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import yaml
from tqdm import tqdm

from bitsample_llm.records import read_manifest
from bitsample_llm.run_writer import write_json_atomically

RECIPES = Path(__file__).resolve().parent


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its directory and the command that fills it."""

    run_dir: Path
    recipe_config: Path
    command: list[str]

    def state(self) -> str:
        """finished, failed, running (or killed), or absent."""
        return read_manifest(self.run_dir)["state"] if (self.run_dir / "manifest.json").is_file() else "absent"


def options_of(settings: dict) -> list[str]:
    """Settings as command-line options."""
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def expanded_arms(arms: dict) -> dict[str, dict]:
    """Arms by name; an arm with a `grid` (option -> values) becomes one arm for each point of it."""
    expanded = {}
    for name, settings in arms.items():
        grid = settings.get("grid", {})
        rest = {key: value for key, value in settings.items() if key != "grid"}
        for point in itertools.product(*grid.values()):
            label = "".join(f",{option}={value}" for option, value in zip(grid, point, strict=True))
            expanded[name + label] = rest | dict(zip(grid, point, strict=True))
    return expanded


def planned_runs(config: dict, output_dir: Path) -> Iterator[PlannedRun]:
    """All runs of a study, seed by seed, so that an unfinished study has whole comparisons.

    An arm's settings go over its start's and those over the shared ones; `by_start` in an arm holds settings of one start.
    """
    for seed in config["seeds"]:
        for start, start_settings in config["starts"].items():
            for arm, arm_settings in expanded_arms(config["arms"]).items():
                settings = {**config["shared"], **start_settings, **arm_settings, **arm_settings.get("by_start", {}).get(start, {})}
                recipe = settings.pop("recipe")
                settings.pop("by_start", None)
                run_dir = output_dir / f"{start}-{arm}-seed{seed}"
                settings |= {"arm": arm, "start": start, "seed": seed, "output_dir": run_dir}
                recipe_config = RECIPES / "configs" / f"{recipe}.yaml"
                command = [sys.executable, str(RECIPES / f"{recipe}.py"), "--config", str(recipe_config), *options_of(settings)]
                yield PlannedRun(run_dir, recipe_config, command)


def execute(run: PlannedRun) -> int:
    """Exit status of a run, started anew or resumed; its output goes to log.txt in its directory."""
    resume = [] if run.state() == "absent" else ["--resume_from_checkpoint", "last"]
    run.run_dir.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "TOKENIZERS_PARALLELISM": "false"}
    with open(run.run_dir / "log.txt", "a") as log:
        return subprocess.run([*run.command, *resume, "--disable_tqdm", "true"], stdout=log, stderr=log, env=environment).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=RECIPES / "configs" / "study.yaml", help="starts, arms and seeds")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the runs and the report")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time (default: the number of cores)")
    options = parser.parse_args()
    if options.jobs < 1:
        sys.exit(f"error: --jobs must be at least 1, got {options.jobs}")
    try:
        config = yaml.safe_load(options.config.read_text())
        runs = list(planned_runs(config, options.output_dir))
        recipe_configs = {run.recipe_config.name: run.recipe_config.read_text() for run in runs}
    except KeyError as error:
        sys.exit(f"error: {options.config} has no {error}")
    except (OSError, yaml.YAMLError, TypeError, AttributeError) as error:
        sys.exit(f"error: {options.config} is not the configuration of a study: {' '.join(str(error).split())}")
    kept_config, whole_config = options.output_dir / "study.json", {"study": config, "recipes": recipe_configs}
    begun = any(options.output_dir.glob("*/manifest.json"))
    if begun and json.loads(kept_config.read_text()) != whole_config:
        sys.exit(f"error: {options.output_dir} holds a study of another configuration: name another --output_dir")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write_json_atomically(kept_config, whole_config)

    waiting = [run for run in runs if run.state() != "finished"]
    if len(waiting) < len(runs):
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished and kept")
    failed = []
    with (
        ThreadPoolExecutor(options.jobs) as pool,
        tqdm(total=len(runs), initial=len(runs) - len(waiting), unit="run", desc="study") as bar,
    ):
        started = {pool.submit(execute, run): run for run in waiting}
        for done in as_completed(started):
            run = started[done]
            if done.result() != 0:
                failed.append(run)
                for other in started:
                    other.cancel()
                break
            bar.set_postfix_str(run.run_dir.name)
            bar.update()
    if failed:
        log = failed[0].run_dir / "log.txt"
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        sys.exit(f"error: {failed[0].run_dir.name} failed: {last} (all of it: {log}); the same command goes on from here")
    study_dir = options.output_dir.resolve()
    report = [sys.executable, "-m", "eval.report", str(study_dir), "--output_dir", str(study_dir / "report")]
    sys.exit(subprocess.run(report, cwd=RECIPES.parent).returncode)


if __name__ == "__main__":
    main()
