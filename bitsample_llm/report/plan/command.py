"""From a measurement to a plan: the command line. Reads records alone."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bitsample_llm.options import OneLineArgumentParser, check_output_dir
from bitsample_llm.records import RecordError, read_run
from bitsample_llm.report.page import write_page
from bitsample_llm.report.plan.numbers import DEFAULT_GROUP_SIZE, kept_lines, plan_of
from bitsample_llm.report.plan.page import plan_study, terminal_plan


def plan(arguments: Sequence[str] | None = None, prog: str = "bitsample plan") -> None:
    """Write plan.html, plan.json, keep.jsonl and the figures, and print the plan."""
    parser = OneLineArgumentParser(prog=prog, description="Would RL pay on this model and these prompts?")
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory of recipes/measure.py")
    parser.add_argument(
        "--group_size",
        type=int,
        default=DEFAULT_GROUP_SIZE,
        help="rollouts per group that prompts are kept for (default: %(default)s)",
    )
    parser.add_argument("--output_dir", type=Path, help="where the plan goes (default: plan/ in RUN)")
    options = parser.parse_args(arguments)
    if options.group_size < 2:
        parser.error(f"--group_size must be at least 2, got {options.group_size}")
    output_dir = options.output_dir or options.run / "plan"
    try:
        check_output_dir(output_dir)
        run = read_run(options.run)
        numbers, counts, keep = plan_of(run, options.group_size)
        write_page(plan_study(numbers, counts), output_dir, page="plan", results="plan")
        kept = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept_lines(run, keep))
        (output_dir / "keep.jsonl").write_text(kept)
    except (RecordError, OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    print(terminal_plan(numbers, output_dir))
