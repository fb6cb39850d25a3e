"""Run a study: every arm from every start with every seed, as one run of a recipe each, then its page.

    python recipes/study.py --config eval/studies/quick/study.yaml --output_dir runs/study

Each run is a process of its own, single-threaded, as many at a time as there are cores (on GPUs: one), forked from a server
that has imported the libraries once: importing takes longer than a short run. Finished runs are kept and interrupted ones
resumed, so the same command goes on where it stopped. Runs end with the study, even where that is killed.
"""

import argparse
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import yaml
from tqdm import tqdm

from bitsample_llm.options import START_EVALUATIONS, check_output_dir
from bitsample_llm.records.writer import write_json_atomically
from bitsample_llm.training.planned_runs import PlannedRun, check_config, planned_runs, study_config

RECIPES = Path(__file__).resolve().parent
REPOSITORY = RECIPES.parent
QUICK_STUDY = REPOSITORY / "eval" / "studies" / "quick" / "study.yaml"


# What every run needs, imported before the fork; no thread is started and no device touched by an import.
PRELOADED = ["trl.trainer.sft_trainer", "trl.trainer.grpo_trainer", "trl.trainer.rloo_trainer", "bitsample_llm.training.run"]
# For the runs alone, not for this process. glibc keeps what a run frees, up to a gigabyte: giving every large tensor back to the
# system and asking for it again costs a tenth of a run's time.
ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


def end_with_parent() -> None:
    """End this process as soon as the study's process is gone, however it went: SIGKILL gives it no time to say so."""

    def watch() -> None:
        multiprocessing.parent_process().join()  # returns when the pipe that the study holds the other end of is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_recipe(command: list[str], log_path: Path) -> None:
    """Run a recipe with its options in this process, whose output goes to the end of a log."""
    import torch  # noqa: PLC0415 - loaded before the fork, and not by the study itself

    # or transformers' threads make torch's pool anew after the fork, all at once, and now and then torch aborts
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    end_with_parent()
    with open(log_path, "a") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    sys.argv = command
    sys.path.insert(0, str(REPOSITORY))  # a study's own program imports `eval.studies.NAME`
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
        folder = options.config.resolve().parent
        check_config(config, folder)
        runs = list(planned_runs(config, options.output_dir, folder))
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
    os.environ |= ENVIRONMENT  # this process has read its own before
    os.environ.setdefault(START_EVALUATIONS, str((options.output_dir / "start_evaluations").resolve()))
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
