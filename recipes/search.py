"""Search the settings of a study's arms, by halving over tuning seeds and pretraining seeds (`bitsample_llm/training/search.py`).

    python recipes/search.py --config eval/studies/price/search_latent.yaml --output_dir runs/search --output_file tuned.yaml

The configuration is a study's; its arms may have a `grid`, over which goes one grid of learning rates for all arms and starts. What is small
is good: the mean log price of the targets (`mean_log_price` in `bitsample_llm/report/prices.py`). Each round is a study of its own
under --output_dir, so the same command goes on where it stopped.
"""

import argparse
import os
import subprocess
import sys
from collections import defaultdict
from itertools import count
from pathlib import Path

import yaml

from bitsample_llm.options import START_EVALUATIONS, check_output_dir
from bitsample_llm.records import RecordError
from bitsample_llm.report.prices import mean_log_price, read_prices
from bitsample_llm.training.planned_runs import study_config
from bitsample_llm.training.search import Search, add_scores, round_of, searches_of

STUDY = Path(__file__).resolve().parent / "study.py"


def write_settings(searches: dict[tuple[str, str], Search], path: Path, heading: str) -> None:
    """Write start, arm and options, and where a rate is at an end of its grid."""
    lines, chosen = [heading], defaultdict(dict)
    for (start, arm), search in searches.items():
        chosen[start][arm] = search.chosen()
        if search.best()[0] in (search.rates[0], search.rates[-1]):
            lines.append(f"# {start}, {arm}: the rate is at an end of the grid")
    path.write_text("\n".join([*lines, yaml.safe_dump(dict(chosen), sort_keys=False)]))


def run_round(study: dict, folder: Path, jobs: int) -> list[tuple[dict, int, float]]:
    """Run the study of a round, or what of it is missing; tags, seed and score of each run. Ends the search where a run fails."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "round.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    num_runs = sum(len(arm["only"]) for arm in study["arms"].values())
    print(f"{folder.name}: {num_runs} runs with seed {study['seeds'][0]}", flush=True)
    words = ["--config", folder / "round.yaml", "--output_dir", folder, "--jobs", jobs]
    shared = {START_EVALUATIONS: str((folder.parent / "start_evaluations").resolve())}
    if status := subprocess.run([sys.executable, STUDY, *map(str, words)], env=os.environ | shared).returncode:
        sys.exit(status)
    return [(run.tags, run.seed, mean_log_price(run)) for run in read_prices([folder])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="starts, arms with their grids, learning rates and tuning seeds")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the rounds")
    parser.add_argument("--output_file", type=Path, required=True, help="YAML file to write: start, arm, options")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time (default: the number of cores)")
    options = parser.parse_args()
    try:
        check_output_dir(options.output_dir)
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        config = study_config(options.config)
        searches_of(config)
        if bare := [start for start, settings in config["starts"].items() if not settings.get("models")]:
            raise ValueError(f"start {bare[0]} has no models")
    except KeyError as error:
        sys.exit(f"error: {options.config} has no {error}")
    except (OSError, yaml.YAMLError, TypeError, AttributeError, ValueError) as error:
        sys.exit(f"error: {options.config} is not the configuration of a search: {' '.join(str(error).split())}")
    scored: list[tuple[dict, int, float]] = []
    try:
        for number in count(1):
            searches = searches_of(config)
            add_scores(searches, scored, config["seeds"])
            study = round_of(config, searches)
            if study is None:
                break
            scored += run_round(study, options.output_dir / f"round-{number:02d}", options.jobs)
        how = f"# Made by: python recipes/search.py --config {options.config}; {len(scored)} runs."
        write_settings(searches, options.output_file, how)
    except (RecordError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    print(f"{len(scored)} runs; settings: {options.output_file}")


if __name__ == "__main__":
    main()
