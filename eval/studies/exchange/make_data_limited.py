"""Trains from every start on few labels, or on few rollouts with their verdicts, and writes down what each run gained.

    python -m eval.studies.exchange.make_data_limited --output_dir runs/exchange/data_limited

README.md says what is compared and how settings are chosen, data_limited.yaml which starts and sizes. One process per start, as many at a
time as `--jobs` says. One line per run in `<rung>-<model>.jsonl`; the same command goes on where it stopped.
"""

import argparse
import json
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path

import datasets
import torch
import transformers
import yaml
from tqdm import tqdm

from eval.studies.exchange.gains import TUNED_AS_LABELS, chosen_setting, nearest_size
from eval.studies.exchange.make_bench import Bench, Cell, Start

FOLDER = Path(__file__).resolve().parent


def starts_of(config: dict) -> list[Start]:
    """All starts, those of the rungs that come first first."""
    starts = []
    for rung, facts in config["rungs"].items():
        models = config["models"][facts["reason"]]
        for model in facts.get("models", models):
            latent = facts["reason"] == "latent"
            folder = models[model] if latent else f"{models[model]}/ladder/{facts['checkpoint']}"
            starts.append(Start(rung, model, facts["reason"], folder, facts.get("mark", "E"), 3 if latent else 2))
    return starts


def sizes(bench: Bench, config: dict, is_wide: bool) -> list[tuple[str, int]]:
    """Arms and their n at a start: labels and passes, or the other arms; no more than there are training problems."""
    start, pass_rate, num_problems = bench.start, bench.before[False][2], len(bench.problems(4096, 0))
    if is_wide:
        wide = config["wide"]
        return [(arm, n) for n in wide["num_samples"] for arm in wide["arms"]] if start.rung in wide["starts"] else []
    labels = [("labels", n) for n in config["num_labels"][start.reason] if n <= num_problems]
    most_passes = 60 if start.reason == "latent" else 1000
    num_rollouts = [n for n in config["num_rollouts"] if 0.2 <= n * pass_rate <= most_passes and n <= num_problems]
    return [*labels, *((arm, n) for arm in ("passes", "as_many_labels") for n in num_rollouts)]


def next_rates(lines: list[dict], config: dict) -> list[float]:
    """Learning rates that the search of one arm and n has to try next: the first ones, then the neighbour of a best at an edge."""
    grid, tried_by = config["learning_rates"], Counter(line["learning_rate"] for line in lines)
    tried = {rate for rate, num in tried_by.items() if num == len(config["tuning_seeds"])}
    if missing := [rate for rate in config["first_learning_rates"] if rate not in tried]:
        return missing
    best, *_ = chosen_setting(lines)
    place = grid.index(best)
    return [rate for rate in grid[max(place - 1, 0) : place + 2] if rate not in tried]


def read_lines(path: Path) -> list[dict]:
    """Whole lines of a file; a kill may leave a torn last one, whose run is done again."""
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def run_start(start: Start, config: dict, output_dir: Path, is_tuning: bool, is_wide: bool) -> None:
    """Run the cells of a start that are missing."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    bench = Bench(start, config)
    path = output_dir / f"{start.name}.jsonl"
    lines = read_lines(path)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tuned_at = next(other for other in starts_of(config) if other.rung == start.rung)
    tuning_lines = lines if tuned_at == start else read_lines(output_dir / f"{tuned_at.name}.jsonl")
    for arm, n in sizes(bench, config, is_wide):
        done = {(line["seed"], line["learning_rate"]) for line in lines if (line["arm"], line["n"]) == (arm, n)}

        def run(cell: Cell) -> list[dict]:
            if (cell.seed, cell.learning_rate) in done:  # noqa: B023 - called in this turn of the loop only
                return []
            line = bench.run(cell)
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            return [line]

        if is_tuning and arm not in TUNED_AS_LABELS:
            searched = tuning_lines_of(tuning_lines, arm, n)
            while rates := next_rates(searched, config):
                cells = [Cell(arm, n, seed, rate, True) for rate in rates for seed in config["tuning_seeds"]]
                searched += [line for cell in cells for line in run(cell)]
        elif not is_tuning:
            for seed in config["seeds"]:
                cell = Cell(arm, n, seed, 0.0, False)
                tuned = (arm, n)
                if arm in TUNED_AS_LABELS:
                    num_passed = len(bench.labelled(cell))
                    tuned = "labels", nearest_size(config["num_labels"][start.reason], num_passed)
                rate, *_ = chosen_setting(tuning_lines_of(tuning_lines, *tuned))
                run(replace(cell, learning_rate=rate))


def tuning_lines_of(lines: list[dict], arm: str, n: int) -> list[dict]:
    """The lines of the search for an arm and n."""
    return [line for line in lines if line["is_tuning"] and (line["arm"], line["n"]) == (arm, n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=FOLDER / "data_limited.yaml")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="starts at a time")
    parser.add_argument("--wide", action="store_true", help="the arms that run at few starts")
    parser.add_argument("--only", nargs="*", help="rungs to run, such as 'latent E'")
    options = parser.parse_args()
    config = yaml.safe_load(options.config.read_text())
    options.output_dir.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    starts = [start for start in starts_of(config) if options.only is None or start.rung in options.only]
    if missing := [start for start in starts if not Path(start.folder).is_dir()]:
        folders = ", ".join(sorted({start.folder for start in missing}))
        print(f"left out, there is no model: {folders} (README.md says how to make it)", file=sys.stderr)
    starts = [start for start in starts if start not in missing]
    tuned = {start.rung: start for start in reversed(starts)}
    with ProcessPoolExecutor(options.jobs) as pool:
        for is_tuning, asked in ((True, [start for start in starts if tuned[start.rung] == start]), (False, starts)):
            run = partial(run_start, config=config, output_dir=options.output_dir, is_tuning=is_tuning, is_wide=options.wide)
            waiting = [pool.submit(run, start) for start in asked]
            for done in tqdm(as_completed(waiting), total=len(waiting), desc="tuning" if is_tuning else "runs", unit="start"):
                done.result()


if __name__ == "__main__":
    main()
