"""From run directories to a page: the command line that every study shares."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bitsample_llm.options import OneLineArgumentParser, check_output_dir
from bitsample_llm.records import RecordError, Run, read_run
from bitsample_llm.report.checks import check_reported
from bitsample_llm.report.comparison import comparison_study, metered_study
from bitsample_llm.report.metered import for_terminal, metered_facts, metered_table, with_names
from bitsample_llm.report.page import terminal_text, write_page
from bitsample_llm.report.runs import Arm, MeasuredRun, arms_of, measured_run, run_dirs_in
from bitsample_llm.report.study import Study


@dataclass(frozen=True)
class RecordedRuns:
    """What the runs of a report are: those that compare, those without evaluations, and those left out with the reason."""

    evaluated: list[MeasuredRun]
    metered: list[Run]
    left_out: list[str]


def recorded_runs(paths: Sequence[str | Path]) -> RecordedRuns:
    """The runs at the paths; a RecordError with the reason of each if none can be reported."""
    evaluated, metered, left_out = [], [], []
    for run_dir in run_dirs_in(paths):
        try:
            run = read_run(run_dir)
            check_reported(run)
            run = with_names(run)
            if not run.table("evals").num_rows:  # the meter alone
                metered.append(run)
            else:
                evaluated.append(measured_run(run))
        except RecordError as error:
            left_out.append(" ".join(str(error).split()))
    if not evaluated and not metered:
        raise RecordError("; ".join(left_out) if len(left_out) == 1 else f"nothing to report: {'; '.join(left_out)}")
    return RecordedRuns(evaluated, metered, left_out)


def study_of_runs(runs: RecordedRuns, study_of_arms: Callable[[Sequence[Arm], str], Study], command: str) -> Study:
    """The study of the arms; runs without evaluations have a table of their own, or the page where there are no others."""
    if not runs.evaluated:
        return replace(metered_study(runs.metered, command), left_out=runs.left_out)
    study = study_of_arms(arms_of(runs.evaluated), command)
    if runs.metered:
        facts = [metered_facts(run) for run in runs.metered]
        table = metered_table(facts)
        study = replace(
            study,
            tables=[*study.tables, table],
            terminal=[*(study.terminal or [study.table]), for_terminal(table)],
            results=study.results | {"metered": facts},
        )
    return replace(study, left_out=runs.left_out)


def report(
    study_of: Callable[..., Study] = comparison_study,
    arguments: Sequence[str] | None = None,
    prog: str = "bitsample report",
    description: str = "Compare recorded runs on one page.",
    read: Callable[[Sequence[str]], object] | None = None,
) -> None:
    """Write the page of a study and print what it found; one line and exit status 1 for what cannot be read or written. `read`
    makes of the paths what `study_of` takes, where that is more than arms.
    """
    parser = OneLineArgumentParser(prog=prog, description=description)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or folders of run directories")
    parser.add_argument("--output_dir", type=Path, help="where the report goes (default: report/ in the first RUN)")
    options = parser.parse_args(arguments)
    output_dir = options.output_dir or Path(options.runs[0]) / "report"
    command = f"{prog} {' '.join(options.runs)}"
    try:
        check_output_dir(output_dir)
        if read is None:
            study = study_of_runs(recorded_runs(options.runs), study_of, command)
        else:
            study = study_of(read(options.runs), command)
        path = write_page(study, output_dir)
    except (RecordError, OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    for line in study.left_out:
        print(f"left out: {line}", file=sys.stderr)
    print(terminal_text(study, os.path.relpath(path)))
