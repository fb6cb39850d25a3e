"""From run directories to a page: the command line that every study shares."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bitsample_llm.records import RecordError, read_run
from bitsample_llm.report.comparison import comparison_study
from bitsample_llm.report.page import terminal_text, write_page
from bitsample_llm.report.runs import Arm, arms_of, measured_run, run_dirs_in
from bitsample_llm.report.study import Study


def recorded_arms(paths: Sequence[str | Path]) -> list[Arm]:
    """Arms of the runs at the paths.

    Raises:
        RecordError: for a path without runs, or runs that cannot be compared.
    """
    return arms_of([measured_run(read_run(run_dir)) for run_dir in run_dirs_in(paths)])


def report(
    study_of: Callable[..., Study] = comparison_study,
    arguments: Sequence[str] | None = None,
    prog: str = "bitsample report",
    description: str = "Compare recorded runs on one page.",
    read: Callable[[Sequence[str]], object] = recorded_arms,
) -> None:
    """Write the page of a study and print what it found; one line and exit status 1 for what cannot be read or written. `read`
    makes of the paths what `study_of` takes, where that is more than arms.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or folders of run directories")
    parser.add_argument("--output_dir", type=Path, help="where the report goes (default: report/ in the first RUN)")
    options = parser.parse_args(arguments)
    output_dir = options.output_dir or Path(options.runs[0]) / "report"
    try:
        study = study_of(read(options.runs), f"{prog} {' '.join(options.runs)}")
        path = write_page(study, output_dir)
    except (RecordError, OSError) as error:
        sys.exit(f"error: {error}")
    print(terminal_text(study, os.path.relpath(path)))
