"""Run a study: every arm from every start with every seed, as one run of a recipe each, then its page.

    python recipes/study.py --config eval/studies/quick/study.yaml --output_dir runs/study

Each run is a process of its own, single-threaded, as many at a time as there are cores (on GPUs: one), forked from a server
that has imported the libraries once: importing takes longer than a short run. Finished runs are kept and interrupted ones
resumed, so the same command goes on where it stopped. Runs end with the study, even where that is killed.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import yaml
from tqdm import tqdm

from bitsample_llm.options import check_name, check_output_dir
from bitsample_llm.records import read_manifest
from bitsample_llm.records.writer import write_json_atomically

RECIPES = Path(__file__).resolve().parent
REPOSITORY = RECIPES.parent
QUICK_STUDY = REPOSITORY / "eval" / "studies" / "quick" / "study.yaml"
# what every run needs, imported before the fork; no thread is started and no device touched by an import
PRELOADED = ["trl.trainer.sft_trainer", "trl.trainer.grpo_trainer", "trl.trainer.rloo_trainer", "bitsample_llm.training.run"]


def study_config(path: Path) -> dict:
    """A study's configuration; `starts` and `tuned` may be names of files beside it, or lists of such names."""
    config = yaml.safe_load(path.read_text())
    for key in ("starts", "tuned"):
        if isinstance(names := config.get(key, {}), (str, list)):
            config[key] = {}
            for name in [names] if isinstance(names, str) else names:
                config[key] |= yaml.safe_load((path.parent / name).read_text())
    return config


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its directory and the command that fills it."""

    run_dir: Path
    recipe_config: Path
    command: list[str]

    def state(self) -> str:
        """finished, failed, running (or killed), or absent."""
        return read_manifest(self.run_dir)["state"] if (self.run_dir / "manifest.json").is_file() else "absent"


def check_config(config: dict) -> None:
    """Refuse what would run nothing, something else than what is meant, or in another folder.

    Raises:
        ValueError: naming it.
    """
    starts, arms, tuned = config["starts"], expanded_arms(config["arms"]), config.get("tuned", {})
    for seed in config["seeds"]:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"seed {seed!r} is no whole number")
    for what, names in (("the name of a start", starts), ("the name of an arm", arms)):
        for name in names:
            check_name(what, name)
    recipes = {path.stem for path in RECIPES.glob("*.py")} - {Path(__file__).stem}
    known = sorted(name for name in recipes if (RECIPES / "configs" / f"{name}.yaml").is_file())
    for name, settings in arms.items():
        asked = {start: {**config["shared"], **starts[start], **settings}["recipe"] for start in starts}
        if unknown := [recipe for recipe in asked.values() if recipe not in known]:
            raise ValueError(f"arm {name} asks for the recipe {unknown[0]!r}; known: {', '.join(known)}")
        for key in ("only", "by_start"):
            if unknown := [start for start in settings.get(key, ()) if start not in starts]:
                raise ValueError(f"arm {name} names the unknown start {unknown[0]!r} in {key!r}; known: {', '.join(starts)}")
        tuned_arms = {arm for of_start in tuned.values() for arm in of_start}
        if (source := settings.get("tuned_as")) is not None and source not in tuned_arms:
            raise ValueError(f"arm {name} is tuned as the unknown arm {source!r}; known: {', '.join(sorted(tuned_arms))}")
    if not (config["seeds"] and starts and arms):
        raise ValueError("it plans no run: give it at least one seed, one start and one arm")


def options_of(settings: dict) -> list[str]:
    """Settings as command-line options; a list is one option with several words."""
    words = []
    for name, value in settings.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def expanded_arms(arms: dict) -> dict[str, dict]:
    """Arms by name; an arm with a `grid` (option -> values) becomes one arm for each point of it.

    Options that go together are one entry, separated by spaces, with a list of their values in each point. Its tags say of what
    arm a point is one and what it sets, in JSON.
    """
    expanded = {}
    for name, settings in arms.items():
        grid = settings.get("grid", {})
        rest = {key: value for key, value in settings.items() if key != "grid"}
        for point in itertools.product(*grid.values()):
            chosen: dict = {}
            for options, value in zip(grid, point, strict=True):
                names = options.split()
                chosen |= dict(zip(names, value if len(names) > 1 else [value], strict=True))
            label = "".join(f",{option}={value}" for option, value in chosen.items())
            expanded[name + label] = rest | chosen
            if grid:
                expanded[name + label]["tags"] = rest.get("tags", {}) | {"grid_arm": name, "grid_point": json.dumps(chosen)}
    return expanded


def planned_runs(config: dict, output_dir: Path) -> Iterator[PlannedRun]:
    """All runs of a study, seed by seed, so that an unfinished study has whole comparisons.

    An arm's settings go over its start's and those over the shared ones; `by_start` in an arm holds settings of one start, and
    the study's `tuned` the settings that a search found (start -> arm -> options). An arm that is not tuned itself but in
    another's place names it in `tuned_as`. `only` in an arm names the starts it is run from. `tags` of the study, the start and the
    arm go to the run's manifest together.
    """
    for seed in config["seeds"]:
        for start, start_settings in config["starts"].items():
            for arm, arm_settings in expanded_arms(config["arms"]).items():
                if start not in arm_settings.get("only", [start]):
                    continue
                found = config.get("tuned", {}).get(start, {}).get(arm_settings.get("tuned_as", arm), {})
                of_start = arm_settings.get("by_start", {}).get(start, {})
                settings = {**config["shared"], **start_settings, **arm_settings, **found, **of_start}
                recipe = settings.pop("recipe")
                for key in ("by_start", "tuned_as", "only", "tags"):
                    settings.pop(key, None)
                tags = {}
                for tagged in (config["shared"], start_settings, arm_settings):
                    tags |= tagged.get("tags", {})
                if tags:
                    settings["tags"] = [f"{key}={value}" for key, value in tags.items()]
                run_dir = output_dir / f"{start}-{arm}-seed{seed}"
                settings |= {"arm": arm, "start": start, "seed": seed, "output_dir": run_dir}
                recipe_config = RECIPES / "configs" / f"{recipe}.yaml"
                command = [str(RECIPES / f"{recipe}.py"), "--config", str(recipe_config), *options_of(settings)]
                yield PlannedRun(run_dir, recipe_config, command)


def end_with_parent() -> None:
    """End this process as soon as the study's process is gone, however it went: SIGKILL gives it no time to say so."""

    def watch() -> None:
        multiprocessing.parent_process().join()  # returns when the pipe that the study holds the other end of is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_recipe(command: list[str], log_path: Path) -> None:
    """Run a recipe with its options in this process, whose output goes to the end of a log."""
    end_with_parent()
    with open(log_path, "a") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def execute(run: PlannedRun, context) -> int:
    """Exit status of a run, started anew or resumed; its output goes to log.txt in its directory."""
    resume = [] if run.state() == "absent" else ["--resume_from_checkpoint", "last"]
    run.run_dir.mkdir(parents=True, exist_ok=True)
    command = [*run.command, *resume]
    process = context.Process(target=run_recipe, args=(command, run.run_dir / "log.txt"))
    process.start()
    process.join()
    return process.exitcode


def page_command(config: Path, output_dir: Path) -> list[str]:
    """The command that makes the page of a study's runs: its folder's own `__main__.py` where it has one, else the page of any runs."""
    folder, runs = config.resolve().parent, str(output_dir.resolve())
    if not (folder / "__main__.py").is_file():
        program = ["-m", "eval.report"]
    elif folder.is_relative_to(REPOSITORY):
        program = ["-m", ".".join(folder.relative_to(REPOSITORY).parts)]
    else:
        program = [str(folder)]
    return [sys.executable, *program, runs, "--output_dir", str(Path(runs) / "report")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=QUICK_STUDY, help="starts, arms and seeds")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the runs and the report")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time (default: the number of cores)")
    options = parser.parse_args()
    if options.jobs < 1:
        sys.exit(f"error: --jobs must be at least 1, got {options.jobs}")
    try:
        check_output_dir(options.output_dir)
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        config = study_config(options.config)
        check_config(config)
        runs = list(planned_runs(config, options.output_dir))
        recipe_configs = {run.recipe_config.name: run.recipe_config.read_text() for run in runs}
    except KeyError as error:
        sys.exit(f"error: {options.config} has no {error}")
    except (OSError, yaml.YAMLError, TypeError, AttributeError, ValueError) as error:
        sys.exit(f"error: {options.config} is not the configuration of a study: {' '.join(str(error).split())}")
    kept_config, whole_config = options.output_dir / "study.json", {"study": config, "recipes": recipe_configs}
    if any(options.output_dir.glob("*/manifest.json")):
        try:
            is_same = json.loads(kept_config.read_text()) == whole_config
        except (OSError, ValueError) as error:
            sys.exit(f"error: {options.output_dir} holds runs and no readable study.json ({error}): name another --output_dir")
        if not is_same:
            sys.exit(f"error: {options.output_dir} holds a study of another configuration: name another --output_dir")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write_json_atomically(kept_config, whole_config)

    waiting = [run for run in runs if run.state() != "finished"]
    if len(waiting) < len(runs):
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished and kept")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}  # of the runs: this process has read it before
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    failed = []
    with (
        ThreadPoolExecutor(options.jobs) as pool,
        tqdm(total=len(runs), initial=len(runs) - len(waiting), unit="run", desc="study") as bar,
    ):
        started = {pool.submit(execute, run, context): run for run in waiting}
        for done in as_completed(started):
            run = started[done]
            if (status := done.result()) != 0:
                failed.append((run, status))
                for other in started:
                    other.cancel()
                break
            bar.set_postfix_str(run.run_dir.name)
            bar.update()
    if failed:
        (run, status), log = failed[0], failed[0][0].run_dir / "log.txt"
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        sys.exit(f"error: {run.run_dir.name} failed ({status}): {last} (all of it: {log}); the same command goes on from here")
    if not config.get("report", True):
        return
    sys.exit(subprocess.run(page_command(options.config, options.output_dir), cwd=REPOSITORY).returncode)


if __name__ == "__main__":
    main()
