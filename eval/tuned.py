"""Choose the settings of a study from its search: `python -m eval.tuned SEARCH... --output_file tuned.yaml`.

A point of the search says in its tags of which arm it is one and what it sets. Of each arm and start the point with the fewest FLOPs
to the run's target is taken (geometric mean over seeds, all of which must get there), or where none gets there the one that gained
most bits.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import yaml

from bitsample_llm.records import RecordError
from bitsample_llm.report.columns import ABSORBED_BITS, TARGET, flops_to_gain
from bitsample_llm.report.command import recorded_arms
from bitsample_llm.report.runs import Arm


def preference(point: Arm, part: float) -> tuple[bool, float]:
    """What a better point has less of: whether it missed that part of the target, then FLOPs to it or bits not gained."""
    flops = [flops_to_gain(run, part * run.value(TARGET)) for run in point.runs]
    if None not in flops:
        return False, sum(map(math.log, flops))
    return True, -point.estimate(ABSORBED_BITS).mean


def best_points(points: Sequence[Arm], part: float = 1.0) -> dict[tuple[str, str], Arm]:
    """(start, arm) -> the best point of its search.

    Raises:
        RecordError: for a run that is no point of a search.
    """
    candidates: dict[tuple[str, str], list[Arm]] = defaultdict(list)
    for point in points:
        if "grid_arm" not in point.tags:
            raise RecordError(f"{point.runs[0].run.run_dir} has no tag `grid_arm`: it is no point of a search (`grid` in an arm)")
        candidates[point.start, point.tags["grid_arm"]].append(point)
    return {place: min(found, key=lambda point: preference(point, part)) for place, found in candidates.items()}


def settings_of(best: dict[tuple[str, str], Arm]) -> dict[str, dict[str, dict]]:
    """Start -> arm -> options."""
    chosen: dict[str, dict[str, dict]] = defaultdict(dict)
    for (start, arm), point in best.items():
        chosen[start][arm] = json.loads(point.tags["grid_point"])
    return dict(chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.tuned", description=__doc__.splitlines()[0])
    parser.add_argument("searches", nargs="+", metavar="SEARCH", help="folders of the runs of a search")
    parser.add_argument("--part", type=float, default=1.0, help="judge by the FLOPs to this part of the searched runs' target")
    parser.add_argument("--output_file", type=Path, required=True, help="YAML file to write: start, arm, options")
    options = parser.parse_args(arguments)
    try:
        points = recorded_arms(options.searches)
        best = best_points(points, options.part)
        header = f"# Made by: python -m eval.tuned {' '.join(options.searches)} --part {options.part:g}\n"
        options.output_file.write_text(header + yaml.safe_dump(settings_of(best), sort_keys=False))
    except (RecordError, OSError) as error:
        sys.exit(f"error: {error}")
    missed = [f"{start} {arm}" for (start, arm), point in best.items() if preference(point, options.part)[0]]
    found = f"{len(points)} points; settings in {options.output_file}"
    print(f"{found}; no point of these reached the target: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
