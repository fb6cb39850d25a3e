"""Search the settings of a study's arms: `python -m eval.search SEARCH.yaml --output_dir FOLDER --output_file tuned.yaml`.

The configuration is a study's, whose arms may have a `grid` of their own; over it goes one grid of learning rates for all arms and
starts (`learning_rates`), from `first_learning_rates` on. Of each start and arm the whole grid runs with the first tuning seed, with the next rate
wherever the best one has no neighbour that was tried; then the better half with the second seed, the better half of that with the third and the fourth.
The setting whose worst seed is best is chosen; its rate has both neighbours tried. Seeds go round the models of a start, since a setting
that is best at one pretraining seed may fail at another. What is small is good: `mean_log_price`.

Each round is a study of its own under --output_dir, so the same command goes on where it stopped.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path

import yaml

from bitsample_llm.records import RecordError
from bitsample_llm.report.prices import PricedRun, mean_log_price, read_prices

REPOSITORY = Path(__file__).resolve().parents[1]
RATE = "learning_rate"


@dataclass
class Search:
    """The search for the setting of one arm at one start.

    Attributes:
        rates: the grid of learning rates.
        first_rates: those that are tried at first.
        others: the other options of each point of the arm's own grid.
        num_seeds: tuning seeds.
        scores: (learning rate, number of the other options) -> score by tuning seed, in their order.
    """

    rates: Sequence[float]
    first_rates: Sequence[float]
    others: Sequence[dict]
    num_seeds: int
    scores: dict[tuple[float, int], list[float]] = field(default_factory=lambda: defaultdict(list))

    def worst(self, point: tuple[float, int]) -> float:
        """The score of a point's worst seed so far."""
        return max(self.scores[point])

    def untried_neighbours(self, point: tuple[float, int]) -> list[tuple[float, int]]:
        """The points at the rates beside it that were not tried."""
        place = self.rates.index(point[0])
        beside = [(rate, point[1]) for rate in self.rates[max(place - 1, 0) : place + 2]]
        return [other for other in beside if other not in self.scores]

    def next_runs(self) -> list[tuple[tuple[float, int], int]]:
        """(point, number of the seed) of the runs to do next; none where the search is over."""
        first = [(rate, number) for rate in self.first_rates for number in range(len(self.others))]
        if missing := [point for point in first if point not in self.scores]:
            return [(point, 0) for point in missing]
        standing = sorted(self.scores, key=lambda point: self.scores[point][0])
        if more := self.untried_neighbours(standing[0]):
            return [(point, 0) for point in more]
        for seed in range(1, self.num_seeds):
            standing = standing[: max(math.ceil(len(standing) / 2), 2)]
            if missing := [point for point in standing if len(self.scores[point]) <= seed]:
                return [(point, seed) for point in missing]
            standing.sort(key=lambda point: max(self.scores[point][: seed + 1]))
        return [(point, 0) for point in self.untried_neighbours(self.best())]

    def best(self) -> tuple[float, int]:
        """The point whose worst seed is best, of those that all seeds ran."""
        whole = [point for point, scores in self.scores.items() if len(scores) == self.num_seeds]
        return min(whole, key=self.worst)

    def chosen(self) -> dict:
        """The options of the best point."""
        rate, number = self.best()
        return {RATE: rate} | self.others[number]


def searches_of(config: dict) -> dict[tuple[str, str], Search]:
    """(start, arm) -> its search, before any run."""
    grid = config["learning_rates"], config["first_learning_rates"]
    return {
        (start, arm): Search(*settings.get("rates", grid), points_of(settings["grid"]), len(config["seeds"]))
        for arm, settings in config["arms"].items()
        for start in settings.get("only", config["starts"])
    }


def points_of(grid: dict[str, list]) -> list[dict]:
    """All points of an arm's grid; options that go together are one entry, separated by spaces, with a list of their values in each point."""
    points = []
    for values in product(*grid.values()):
        pairs = zip(grid, values, strict=True)
        points.append(
            {
                name: one
                for names, value in pairs
                for name, one in zip(names.split(), value if " " in names else [value], strict=True)
            }
        )
    return points


def with_scores(searches: dict[tuple[str, str], Search], runs: Sequence[PricedRun], seeds: Sequence[int]) -> None:
    """Give the searches what the runs so far scored."""
    scores: dict[tuple, dict[int, float]] = defaultdict(dict)
    for run in runs:
        rate, number = json.loads(run.tags["search_point"])
        scores[run.rung, run.tags["search_arm"], (rate, number)][run.seed] = mean_log_price(run)
    for (start, arm, point), by_seed in scores.items():
        searches[start, arm].scores[point] = [by_seed[seed] for seed in seeds if seed in by_seed]


def round_of(config: dict, searches: dict[tuple[str, str], Search]) -> dict | None:
    """The study of the runs to do next, those of the earliest seed; None where all searches are over."""
    waiting = [(place, point, seed) for place, search in searches.items() for point, seed in search.next_runs()]
    if not waiting:
        return None
    number = min(seed for _, _, seed in waiting)
    arms: dict[str, dict] = {}
    for (start, arm), (rate, other), seed in waiting:
        if seed == number:
            options = {RATE: rate} | searches[start, arm].others[other]
            tags = {"search_arm": arm, "search_point": json.dumps([rate, other])}
            rest = {key: value for key, value in config["arms"][arm].items() if key not in ("grid", "only", "rates")}
            new = rest | options | {"only": [], "tags": rest.get("tags", {}) | tags}
            arms.setdefault(f"{arm} {rate:g} {other}", new)["only"].append(start)
    used = {start for settings in arms.values() for start in settings["only"]}
    starts = {}
    for start in sorted(used):
        models = list(config["starts"][start]["models"].items())
        starts[start] = config["starts"][start] | {"models": dict([models[number % len(models)]])}
    return {"seeds": [config["seeds"][number]], "report": False, "shared": config["shared"], "starts": starts, "arms": arms}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.search", description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="starts, arms with their grids, learning rates and tuning seeds")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the rounds")
    parser.add_argument("--output_file", type=Path, required=True, help="YAML file to write: start, arm, options")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time (default: the number of cores)")
    options = parser.parse_args(arguments)
    try:
        config = yaml.safe_load(options.config.read_text())
        files = [yaml.safe_load((options.config.parent / name).read_text()) for name in config["starts"]]
        config["starts"] = {name: start for of_file in files for name, start in of_file.items()}
        runs: list[PricedRun] = []
        for number in count(1):
            searches = searches_of(config)
            with_scores(searches, runs, config["seeds"])
            study = round_of(config, searches)
            if study is None:
                break
            folder = options.output_dir / f"round-{number:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "round.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
            print(
                f"round {number}: {sum(len(arm['only']) for arm in study['arms'].values())} runs, seed {study['seeds'][0]}",
                flush=True,
            )
            program = [sys.executable, str(REPOSITORY / "recipes" / "study.py"), "--jobs", str(options.jobs)]
            done = subprocess.run([*program, "--config", str(folder / "round.yaml"), "--output_dir", str(folder)])
            if done.returncode:
                sys.exit(done.returncode)
            runs += read_prices([folder])
        write_settings(
            searches, runs, options.output_file, " ".join(map(str, [options.config, "--output_dir", options.output_dir]))
        )
    except (RecordError, OSError, yaml.YAMLError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def write_settings(searches: dict[tuple[str, str], Search], runs: Sequence[PricedRun], path: Path, how: str) -> None:
    """Write the chosen settings, and how far each search had to look."""
    lines = [f"# Made by: python -m eval.search {how}; {len(runs)} runs."]
    chosen: dict[str, dict[str, dict]] = defaultdict(dict)
    for (start, arm), search in searches.items():
        chosen[start][arm] = search.chosen()
        best = search.best()
        if best[0] in (search.rates[0], search.rates[-1]):
            lines.append(f"# {start}, {arm}: the rate is at the end of the grid")
    path.write_text("\n".join([*lines, yaml.safe_dump(dict(chosen), sort_keys=False)]))
    print(f"{len(runs)} runs; settings in {path}")


if __name__ == "__main__":
    main()
