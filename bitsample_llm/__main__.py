"""The command line of whoever installed the package alone: `bitsample`, or `python -m bitsample_llm`.

    bitsample summary RUN          one recorded run in a few lines; `bitsample RUN` does the same
    bitsample report RUN...        compare runs on one page
    bitsample plan RUN             would RL pay? from a measurement
    bitsample measure ...          measure a model's pass rates, probes and prices

Each command says more with --help. The first three read records alone and load neither torch nor TRL.
"""

import os
import sys

os.environ["MPLBACKEND"] = "agg"  # pictures are files; a notebook hands its own backend down, which may not be installed here

from bitsample_llm.report.command import report
from bitsample_llm.report.plan.command import plan
from bitsample_llm.report.summary import summary


def measure(arguments: list[str]) -> None:
    """Measure a model; the options are those of `recipes/measure.py`."""
    from bitsample_llm.measure.command import main  # noqa: PLC0415 - torch and TRL only where they are wanted

    sys.argv = ["bitsample measure", *arguments]
    main()


COMMANDS = {
    "summary": summary,
    "report": lambda arguments: report(arguments=arguments),
    "plan": plan,
    "measure": measure,
}


def run_command() -> None:
    """Run the command that the first word names; a run directory in its place means its summary."""
    first, *others = sys.argv[1:] or ["--help"]
    if first in ("-h", "--help"):
        print(__doc__.strip())
    elif first in COMMANDS:
        COMMANDS[first](others)
    else:
        summary(sys.argv[1:], prog="bitsample")


def main() -> None:
    """The command line; ends quietly where what it prints is read only in part, as by `head`."""
    try:
        run_command()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python flushes once more at its end, and complains
        sys.exit(1)


if __name__ == "__main__":
    main()
