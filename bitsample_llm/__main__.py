"""Print the summary of one recorded run: `python -m bitsample_llm RUN`."""

import sys

from bitsample_llm.glossary import GLOSSARY, TRAINING_PHASES
from bitsample_llm.options import OneLineArgumentParser
from bitsample_llm.record_checks import check_manifest, check_steps
from bitsample_llm.records import RecordError, Run, read_run

SHOWN = (
    "samples/total",
    "bits/offered_per_sample",
    "bits/offered_total",
    "bits/offered_per_petaflop",
    "bits/first_error_per_sample",
    "bits/surprisal_per_sample",
    "group/pass_rate",
    "group/pass_rate_estimate",
    "group/informative_fraction",
    "group/informative_fraction_predicted",
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
    sampling = manifest.get("sampling") or {}
    if sampling.get("is_truncated"):
        settings = ", ".join(f"{name} {value}" for name, value in sampling.items() if value and not name.startswith("is_"))
        lines.append(f"  sampling is truncated ({settings}): surprisal is not that of the distribution sampled from")
    if not run.steps:
        return [*lines, "  no step was recorded"]
    last = run.steps[-1]
    for key in SHOWN:
        if last.get(key) is not None:
            unit = "" if GLOSSARY[key].unit == "1" else GLOSSARY[key].unit
            lines.append(f"  {key:<36} {last[key]:>10.4g} {unit}".rstrip())
    for phase in TRAINING_PHASES:
        if last[f"flops/{phase}"]:
            lines.append(f"  flops/{phase:<30} {last[f'flops/{phase}'] / last['flops/total']:>10.1%} of the training FLOPs")
    return lines


def main() -> None:
    """Command line of the summary."""
    parser = OneLineArgumentParser(prog="python -m bitsample_llm", description="Print the summary of one recorded run.")
    parser.add_argument("run", metavar="RUN", help="run directory")
    try:
        run = read_run(parser.parse_args().run)
        check_manifest(run, {"trainer": str, "seed": int})
        if run.steps:
            shown = {key for key in SHOWN if run.steps[-1].get(key) is not None}
            check_steps(run, (), ("flops/total", *[f"flops/{phase}" for phase in TRAINING_PHASES], *sorted(shown)))
    except RecordError as error:
        sys.exit(f"error: {error}")
    print("\n".join(summary_lines(run)))


if __name__ == "__main__":
    main()
