"""Print the summary of one recorded run: `python -m bitsample_llm RUN`."""

import argparse
import sys

from bitsample_llm.glossary import GLOSSARY, TRAINING_PHASES
from bitsample_llm.records import RecordError, Run, read_run

PETA = 1e15
SHOWN = (
    "samples/total",
    "bits/offered_per_sample",
    "bits/offered_total",
    "group/pass_rate",
    "group/pass_rate_estimate",
    "group/informative_fraction",
    "flops/dead_group_fraction",
    "flops/total",
    "flops/lost",
    "seconds/total",
)


def summary_lines(run: Run) -> list[str]:
    """The run in a few lines: what it was, its last step, where its FLOPs went."""
    manifest = run.manifest
    lines = [f"{run.run_dir}: {manifest['trainer']}, {manifest['state']}, {len(run.steps)} steps, seed {manifest['seed']}"]
    if manifest.get("reason"):
        lines.append(f"  reason: {manifest['reason']}")
    if not run.steps:
        return [*lines, "  no step was recorded"]
    last = run.steps[-1]
    for key in SHOWN:
        if last.get(key) is not None:
            lines.append(f"  {key:<28} {last[key]:>12.5g} {GLOSSARY[key].unit}")
    if last["flops/total"]:
        if last.get("bits/offered_total") is not None:
            per_petaflop = last["bits/offered_total"] / last["flops/total"] * PETA
            lines.append(f"  offered bits a petaFLOP      {per_petaflop:>12.5g} bits")
        for phase in TRAINING_PHASES:
            if last[f"flops/{phase}"]:
                lines.append(f"    {phase:<26} {last[f'flops/{phase}'] / last['flops/total']:>12.1%} of the training FLOPs")
    return lines


def main() -> None:
    """Command line of the summary."""
    parser = argparse.ArgumentParser(prog="python -m bitsample_llm", description="Print the summary of one recorded run.")
    parser.add_argument("run", metavar="RUN", help="run directory")
    try:
        run = read_run(parser.parse_args().run)
    except RecordError as error:
        sys.exit(f"error: {error}")
    print("\n".join(summary_lines(run)))


if __name__ == "__main__":
    main()
