"""Choose the settings of a study from its search: `python -m eval.tuned SEARCH... --output_file tuned.yaml`.

An arm of the search is named `arm,option=value,...`. Of each arm and start the point with the fewest FLOPs to the run's target
is taken (geometric mean over seeds, all of which must get there), or where none gets there the one that gained most bits.
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import yaml

from bitsample_llm.records import RecordError, read_run
from eval.arms import Arm, arms_of, flops_to_gain, run_result
from eval.report import find_runs


def options_of_arm(name: str) -> tuple[str, dict]:
    """The arm of a point of a search, and the options that the point sets.

    >>> options_of_arm("sft,per_device_train_batch_size=4,learning_rate=0.001")
    ('sft', {'per_device_train_batch_size': 4, 'learning_rate': 0.001})
    """
    arm, *settings = name.split(",")
    return arm, {key: yaml.safe_load(value) for key, value in (setting.split("=") for setting in settings)}


def preference(point: Arm, part: float) -> tuple[bool, float]:
    """What a better point has less of: whether it missed that part of the target, then FLOPs to it or bits not gained."""
    flops = [flops_to_gain(result.run, result.curve, part * result.values["target_bits"]) for result in point.results]
    if None not in flops:
        return False, sum(map(math.log, flops))
    return True, -point.summary("absorbed_bits")["mean"]


def tuned_settings(points: Sequence[Arm], part: float = 1.0) -> dict[str, dict[str, dict]]:
    """Start -> arm -> options."""
    candidates: dict[tuple[str, str], list[Arm]] = defaultdict(list)
    for point in points:
        candidates[point.start, options_of_arm(point.name)[0]].append(point)
    chosen: dict[str, dict[str, dict]] = defaultdict(dict)
    for (start, arm), found in candidates.items():
        chosen[start][arm] = options_of_arm(min(found, key=lambda point: preference(point, part)).name)[1]
    return dict(chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.tuned", description=__doc__.splitlines()[0])
    parser.add_argument("searches", nargs="+", metavar="SEARCH", help="folders of the runs of a search")
    parser.add_argument("--part", type=float, default=1.0, help="judge by the FLOPs to this part of the searched runs' target")
    parser.add_argument("--output_file", type=Path, required=True, help="YAML file to write: start, arm, options")
    options = parser.parse_args(arguments)
    try:
        points = arms_of([run_result(read_run(run_dir)) for run_dir in find_runs(options.searches)])
        chosen = tuned_settings(points, options.part)
        header = f"# Made by: python -m eval.tuned {' '.join(options.searches)} --part {options.part:g}\n"
        options.output_file.write_text(header + yaml.safe_dump(chosen, sort_keys=False))
    except (RecordError, OSError) as error:
        sys.exit(f"error: {error}")
    missed = [
        f"{point.start} {options_of_arm(point.name)[0]}"
        for point in points
        if options_of_arm(point.name)[1] == chosen[point.start][options_of_arm(point.name)[0]]
        and preference(point, options.part)[0]
    ]
    print(
        f"{len(points)} points; settings in {options.output_file}; no point of these reached the target: {', '.join(missed) or 'none'}"
    )


if __name__ == "__main__":
    main()
