"""From a measurement to a plan: the command line. Reads records alone."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bitsample_llm.options import OneLineArgumentParser, check_output_dir, value_fault
from bitsample_llm.records import RecordError, read_run
from bitsample_llm.report.page import write_page
from bitsample_llm.report.plan.forecast import Money, short_run, training_costs
from bitsample_llm.report.plan.numbers import DEFAULT_GROUP_SIZE, kept_lines, plan_of
from bitsample_llm.report.plan.page import plan_study, terminal_plan


def plan(arguments: Sequence[str] | None = None) -> None:
    """Write plan.html, plan.json, keep.jsonl and the figures, and print the plan."""
    parser = OneLineArgumentParser(prog="bitsample plan", description="Would RL pay on this model and these prompts?")
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory of recipes/measure.py")
    parser.add_argument(
        "--group_size",
        type=int,
        default=DEFAULT_GROUP_SIZE,
        help="rollouts per group that prompts are kept for (default: %(default)s)",
    )
    parser.add_argument(
        "--short_runs",
        nargs="*",
        default=[],
        metavar="SHORT_RUN",
        type=Path,
        help="runs of some twenty updates on the same problems, by labels (sft.py) and by rollouts (grpo.py), that forecast what training would cost",
    )
    parser.add_argument("--flop_budget", type=float, help="FLOPs of a training: how likely is half of the bits within it?")
    parser.add_argument("--label_cost", type=float, help="of one label: in FLOPs, or in money with the next two")
    parser.add_argument("--gpu_hour_price", type=float, help="in the money of --label_cost")
    parser.add_argument("--gpu_flops_per_second", type=float, help="that the training reaches on such a GPU")
    parser.add_argument("--output_dir", type=Path, help="where the plan goes (default: plan/ in RUN)")
    options = parser.parse_args(arguments)
    if options.group_size < 2:
        parser.error(f"--group_size must be at least 2, got {options.group_size}")
    for name in ("flop_budget", "label_cost", "gpu_hour_price", "gpu_flops_per_second"):
        if fault := value_fault(name, getattr(options, name)):
            parser.error(fault)
    if (options.gpu_hour_price is None) != (options.gpu_flops_per_second is None):
        parser.error("--gpu_hour_price and --gpu_flops_per_second go together: a FLOP costs the one over the other")
    money = Money.of(options.gpu_hour_price, options.gpu_flops_per_second)
    output_dir = options.output_dir or options.run / "plan"
    try:
        check_output_dir(output_dir)
        run = read_run(options.run)
        short_runs = [short_run(read_run(path)) for path in options.short_runs]
        training = training_costs(short_runs, options.flop_budget, options.label_cost, money)
        numbers, counts, keep = plan_of(run, options.group_size, training)
        write_page(plan_study(numbers, counts), output_dir, page="plan", results="plan")
        kept = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept_lines(run, keep))
        (output_dir / "keep.jsonl").write_text(kept)
    except (RecordError, OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    print(terminal_plan(numbers, output_dir))
