"""One recorded run in a few lines for a terminal."""

import sys

from bitsample_llm.options import OneLineArgumentParser
from bitsample_llm.records import RecordError, Run, read_run
from bitsample_llm.records.glossary import GLOSSARY, TRAINING_PHASES
from bitsample_llm.report.checks import check_manifest, check_steps

WHOLE_RUN = (
    "samples/total",
    "bits/offered_total",
    "bits/offered_per_petaflop",
    "flops/dead_group_fraction",
    "flops/total",
    "flops/lost",
    "seconds/total",
)


LAST_STEP = (
    "bits/offered_per_sample",
    "bits/first_error_per_sample",
    "bits/surprisal_per_sample",
    "group/pass_rate",
    "group/pass_rate_estimate",
    "group/informative_fraction",
    "group/informative_fraction_predicted",
)


def _metric_lines(line: dict, keys: tuple[str, ...]) -> list[str]:
    units = {key: "" if GLOSSARY[key].unit == "1" else GLOSSARY[key].unit for key in keys}
    return [f"  {key:<36} {line[key]:>10.4g} {units[key]}".rstrip() for key in keys if line.get(key) is not None]


def _diverged_since(run: Run) -> int | None:
    """The step from which on no training loss was finite, which the records hold as null; None if the last one was."""
    step = None
    for line in reversed(run.steps):
        if line.get("train/loss") is not None:
            break
        step = line["step"]
    return step


def summary_lines(run: Run) -> list[str]:
    """The run in a few lines: what it was, its totals, where its FLOPs went, its last step."""
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
    if manifest.get("regime") != "measure" and (step := _diverged_since(run)) is not None:
        lines.append(f"  diverged: train/loss was not finite from step {step} on, what it makes unknown is null")
    lines += ["whole run", *_metric_lines(last, WHOLE_RUN)]
    for phase in TRAINING_PHASES:
        if last[f"flops/{phase}"]:
            lines.append(f"  flops/{phase:<30} {last[f'flops/{phase}'] / last['flops/total']:>10.1%} of the training FLOPs")
    if step_lines := _metric_lines(last, LAST_STEP):
        lines += [f"last step ({last['step']}), mean over its samples", *step_lines]
    return lines


def summary(arguments: list[str] | None = None, prog: str = "bitsample summary") -> None:
    """Print the summary of a run; one line and exit status 1 for what cannot be read."""
    parser = OneLineArgumentParser(prog=prog, description="Print the summary of one recorded run.")
    parser.add_argument("run", metavar="RUN", help="run directory")
    try:
        run = read_run(parser.parse_args(arguments).run)
        check_manifest(run, {"trainer": str, "seed": int})
        if run.steps:
            shown = {key for key in (*WHOLE_RUN, *LAST_STEP) if run.steps[-1].get(key) is not None}
            check_steps(run, (), ("flops/total", *[f"flops/{phase}" for phase in TRAINING_PHASES], *sorted(shown)))
    except RecordError as error:
        sys.exit(f"error: {error}")
    print("\n".join(summary_lines(run)))
