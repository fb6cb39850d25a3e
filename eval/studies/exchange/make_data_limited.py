"""Trains from every start on few labels, or on few rollouts with their verdicts, and writes down what each run gained.

    python -m eval.studies.exchange.make_data_limited --output_dir runs/exchange/data_limited

README.md says what is compared and how settings are chosen, data_limited.yaml which starts and sizes. One process per start, as many at a
time as `--jobs` says. One line per run in `<rung>-<model>.jsonl`; the same command goes on where it stopped.
"""

import argparse
import gc
import itertools
import json
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import datasets
import torch
import transformers
import yaml
from tqdm import tqdm

from bitsample_llm.report.gains import TUNED_AS_LABELS, chosen_setting, longest_runs, nearest_size
from bitsample_llm.tasks.problem import NO_MARK
from eval.studies.exchange.make_bench import GROUP_SIZE, IN_GROUPS, Bench, Cell, Start

OF_START = ("mark", "difficulty", "accepted_digits", "dataset", "shots")  # what a rung says of its starts
FOLDER = Path(__file__).resolve().parent


def starts_of(config: dict) -> list[Start]:
    """All starts, those of the rungs that come first first."""
    starts = []
    for rung, facts in config["rungs"].items():
        models = config["models"][facts["reason"]]
        for model in facts.get("models", models):
            folder = f"{models[model]}/{facts['checkpoint']}" if "checkpoint" in facts else models[model]
            about = {"mark": NO_MARK} | {key: facts[key] for key in OF_START if key in facts}
            starts.append(Start(rung, model, facts["reason"], folder, **about))
    return starts


def cells_of(bench: Bench, config: dict, is_wide: bool) -> list[Cell]:
    """What is run at a start, without seed and rate: labels, passes and as many labels, or the other arms; no more rollouts or labels
    than there are training problems.
    """
    start, pass_rate, num_problems = bench.start, bench.before[False].rows[0][2], len(bench.problems(4096, 0))
    least, most = config["num_passes"][start.reason]
    num_rollouts = [n for n in bench.num_rollouts if least <= n * pass_rate <= most and n <= num_problems]
    if is_wide:
        wide = config["wide"]
        sizes, rounds = wide["starts"].get(start.rung, []), wide["rounds"].get(start.rung, [])
        cells = [Cell("passes_in_rounds", n, 0, 0.0, False, rounds=num) for n in sizes for num in rounds]
        cells += [Cell(arm, n, 0, 0.0, False) for arm in wide["arms"] for n in sizes]
        if sizes and set(wide["arms"]) & set(IN_GROUPS):  # what these are held against, at more sizes than theirs
            cells += [Cell("passes_of_groups", n, 0, 0.0, False) for n in num_rollouts if n >= 2 * GROUP_SIZE]
        return cells
    labels_per_pass = config["rungs"][start.rung].get("labels_per_pass", config["labels_per_pass"])
    num_labels = config["rungs"][start.rung].get("num_labels", config["num_labels"][start.reason])
    cells = [Cell("labels", n, 0, 0.0, False) for n in num_labels if n <= num_problems]
    for n in num_rollouts:
        cells.append(Cell("passes", n, 0, 0.0, False))
        factors = [factor for factor in labels_per_pass if factor * n * pass_rate <= num_problems]
        cells += [Cell("as_many_labels", n, 0, 0.0, False, factor) for factor in factors]
    return cells


def next_rates(lines: list[dict], config: dict) -> list[float]:
    """Learning rates that the search of one arm and n has to try next: the first ones, then the neighbour of a best at an edge."""
    grid, tried_by = config["learning_rates"], Counter(line["learning_rate"] for line in lines)
    tried = {rate for rate, num in tried_by.items() if num == len(config["tuning_seeds"])}
    if missing := [rate for rate in config["first_learning_rates"] if rate not in tried]:
        return missing
    place = grid.index(chosen_setting(lines).learning_rate)
    return [rate for rate in grid[max(place - 1, 0) : place + 2] if rate not in tried]


def read_lines(path: Path) -> list[dict]:
    """Whole lines of a file; a kill may leave a torn last one, whose run is done again."""
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def run_start(start: Start, config: dict, output_dir: Path, is_wide: bool) -> None:
    """Run the cells of a start that are missing: the searches, then the reported runs."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    bench = Bench(start, config)
    of_problems = {"rung": start.rung, "model": start.model, "log2_p": bench.before[False].log2_p.round(3).tolist()}
    (output_dir / f"{start.name}.start.json").write_text(json.dumps(of_problems) + "\n")
    gc.collect()
    gc.freeze()  # every trainer collects garbage, a tenth of a short run
    path = output_dir / f"{start.name}.jsonl"
    lines = longest_runs(read_lines(path))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))  # without a torn one
    done = {cell_of(line): line for line in lines}

    def run(cell: Cell) -> None:
        line = done.get(cell)
        if line is None or (line["num_trained"] and line["evaluations"][-1][0] < cell.most_updates):
            line = bench.run(cell)
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            lines[:] = longest_runs([*lines, line])

    cells = cells_of(bench, config, is_wide)
    for cell in cells:
        while is_searched(cell.arm, config) and (rates := next_rates(tuning_lines_of(lines, cell.arm, cell.n), config)):
            for rate, seed in itertools.product(rates, config["tuning_seeds"]):
                longest = most_updates(config, start.reason, cell.n)
                run(replace(cell, seed=seed, learning_rate=rate, is_tuning=True, most_updates=longest))

    def setting_of(num_labels: int) -> tuple[float, int]:
        sizes = {line["n"] for line in lines if line["is_tuning"] and line["arm"] == "labels"}
        setting = chosen_setting(tuning_lines_of(lines, "labels", nearest_size(sorted(sizes), num_labels)))
        return setting.learning_rate, max(setting.updates, 1)

    seeds = config["rungs"][start.rung].get("seeds", config["seeds"])
    for cell, seed in itertools.product(cells, seeds[: config["wide"]["seeds"]] if is_wide else seeds):
        cell = replace(cell, seed=seed)
        if cell.rounds:
            if not any(cell == replace(other, learning_rate=0.0) for other in map(cell_of, lines)):
                run(bench.with_rounds_run(cell, setting_of))
            continue
        if not is_searched(cell.arm, config):
            rate, updates = setting_of(bench.num_passed(cell))
        else:
            setting = chosen_setting(tuning_lines_of(lines, cell.arm, cell.n))
            rate, updates = setting.learning_rate, max(setting.updates, 1)
        run(replace(cell, learning_rate=rate, most_updates=updates))


def is_searched(arm: str, config: dict) -> bool:
    """Whether an arm has a search of its own; the others take what was chosen for as many labels."""
    return arm not in TUNED_AS_LABELS or arm in config.get("wide", {}).get("searched", [])


def most_updates(config: dict, reason: str, n: int) -> int:
    """How long a search trains on n samples: what the table says of the largest size that is not larger."""
    by_size = config["most_updates"][reason]
    return by_size[max(size for size in by_size if size <= n)]


def cell_of(line: dict) -> Cell:
    """The cell that a line is the run of."""
    return Cell(**{field.name: line.get(field.name) for field in fields(Cell)})


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
    with ProcessPoolExecutor(options.jobs) as pool:
        run = partial(run_start, config=config, output_dir=options.output_dir, is_wide=options.wide)
        waiting = [pool.submit(run, start) for start in starts]
        for done in tqdm(as_completed(waiting), total=len(waiting), unit="start"):
            done.result()


if __name__ == "__main__":
    main()
