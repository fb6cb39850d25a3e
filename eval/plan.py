"""Would RL pay on this model and these prompts? `python -m eval.plan RUN`, RUN being what `recipes/measure.py` recorded.

Prints the plan and writes plan.html (self-contained), plan.json, keep.jsonl (the prompts worth keeping) and the figures as PNG
files. Reads records alone: it imports neither torch nor TRL.
"""

import html
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitsample_llm.options import OneLineArgumentParser, check_output_dir
from bitsample_llm.records import RecordError, Run, read_run
from eval.advice import LATENT_FACTOR, advice, probe_finding
from eval.checks import check_planned
from eval.completions import completion_rows, completions_of, completions_sentence
from eval.findings import estimate, number
from eval.page import aligned_table, html_figure, html_page, html_table
from eval.pass_rates import (
    ENOUGH_PUSH,
    KEEP_SHARE,
    REPORT,
    SELECTION,
    TARGET_HALF_WIDTH,
    Counts,
    best_group_sizes,
    check_measured,
    counts_of,
    group_table,
    kept_prompts,
    mean_pass_rate,
    over_prompts,
    prices,
    rollouts_needed,
)
from eval.plan_figures import essay_figure, group_figure, pass_rate_figure, probe_figure

# probe in the records -> what it is compared with; the short RL branch is measured on held-out prompts
BASE_OF_PROBE = {"prefix": None, "mark": None, "shots": None, "updates": "heldout"}
DEFAULT_GROUP_SIZE = 8  # TRL's


def plan_of(run: Run, group_size: int = DEFAULT_GROUP_SIZE, seed: int = 0) -> tuple[dict, Counts, np.ndarray]:
    """The plan in numbers, the counts of all prompts, and which of them are worth keeping for groups of `group_size`.

    Raises:
        RecordError: for what is no finished measurement.
    """
    check_measured(run)
    check_planned(run)
    rng = np.random.default_rng(seed)
    counts = counts_of(run, None)
    first, second = (counts_of(run, None, step) for step in (SELECTION, REPORT))
    costs = run.manifest["flops_per_sample"]
    labels = [row["label_surprisal_bits"] for row in run.table("problems").to_pylist()]
    groups = group_table(counts, costs, rng)
    estimated = groups if counts.exact is None else group_table(counts.estimated(), costs, rng)
    keep = kept_prompts(first, group_size)
    probes = []
    for name, base in BASE_OF_PROBE.items():
        if (probed := counts_of(run, name)) is not None:
            moved = run.manifest.get("updates_moved_bits") if name == "updates" else None
            found = probe_finding(counts if base is None else counts_of(run, base), probed, rng, moved)
            probes.append({"name": name, "description": run.manifest.get("probes", {}).get(name, name), **found})
    priced = prices(counts, np.array([bits for bits in labels if bits is not None]), costs, rng)
    pass_rate = mean_pass_rate(counts, rng)
    completions = completions_of(run, np.random.default_rng(seed))
    plan = {
        "run": str(run.run_dir),
        "model": run.manifest["config"]["model"]["model_name_or_path"],
        "git_commit": run.manifest.get("git_commit"),
        "advice": advice(pass_rate, groups, probes, priced["label_over_rollout"], completions),
        "completions": completions,
        "pass_rate": pass_rate | {"is_exact": counts.exact is not None},
        "pass_rate_estimate": mean_pass_rate(counts.estimated(), rng),
        "num_prompts": len(counts.num_passed),
        "rollouts_per_prompt": int(counts.num_rollouts[0]),
        "prompts_never_passed": int((counts.num_passed == 0).sum()),
        "prompts_always_passed": int((counts.num_passed == counts.num_rollouts).sum()),
        "prices": priced,
        "flops_per_sample": costs,
        "groups": groups,
        "groups_estimated": estimated,
        "best_group_size": best_group_sizes(groups),
        "probes": probes,
        "kept": kept_facts(second, keep, rng) | {"group_size": group_size},
        "rollouts_needed": rollouts_needed(first, second),
        "measurement": {key: run.steps[-1][key] for key in ("samples/total", "flops/total", "seconds/total")},
    }
    return plan, counts, keep


def kept_facts(second: Counts, keep: np.ndarray, rng: np.random.Generator) -> dict:
    """The kept prompts' share, pass rate and offered bits, from the half of the rollouts that did not select them."""
    kept = second.of(keep).estimated()
    return {
        "num_prompts": int(keep.sum()),
        "share": float(keep.mean()),
        "reported_from": "second half of the rollouts, which selected nothing",
        "pass_rate_estimate": over_prompts(kept.pass_rates(), rng),
        "offered_bits_per_rollout": over_prompts(kept.offered_bits(), rng),
        "offered_bits_estimator": "jackknife",
    }


def source_prompt(recorded: str, is_chat: bool) -> str | list[dict]:
    """A recorded prompt as its data set has it: what a chat template took from one user's message alone is a text again.
    Without a template for texts (`is_chat`) only conversations are recorded as lists of messages.
    """
    try:
        messages = json.loads(recorded)
    except json.JSONDecodeError:
        return recorded
    is_conversation = isinstance(messages, list) and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages)
    if not is_conversation or not messages:
        return recorded
    is_text = is_chat and len(messages) == 1 and messages[0]["role"] == "user" and isinstance(messages[0]["content"], str)
    return messages[0]["content"] if is_text else messages


def kept_lines(run: Run, keep: np.ndarray) -> list[dict]:
    """The kept prompts as a data set, in the columns of the one they come from, so that the options that read that read these
    too; the pass rate is the one they were selected by, and so too flattering to report.
    """
    first = counts_of(run, None, SELECTION)
    row_of = {row["problem_id"]: row for row in run.table("problems").to_pylist()}
    is_chat = run.manifest.get("data", {}).get("prompt_format") == "chat"
    study = run.manifest["config"].get("study", {})
    prompt_column, answer_column = (study.get(f"{name}_column", name) for name in ("prompt", "answer"))
    return [
        {
            prompt_column: source_prompt(row_of[name]["prompt"], is_chat),
            answer_column: row_of[name]["answer"],
            "problem_id": name,
            "pass_rate_estimate": float(passed / drawn),
            "num_rollouts": int(drawn),
            "estimated_from": "selection half",
        }
        for name, passed, drawn, kept in zip(first.problem_ids, first.num_passed, first.num_rollouts, keep, strict=True)
        if kept
    ]


def group_rows(plan: dict) -> list[list[str]]:
    """Group sizes as a table, heading first."""
    is_exact = plan["pass_rate"]["is_exact"]
    rows = [["G", *["informative groups, exact"] * is_exact, "informative groups, from rollouts", "by", "per PFLOP"]]
    rows[0] += ["per PFLOP, shared prefill", "push per rollout"]
    for row, estimated in zip(plan["groups"], plan["groups_estimated"], strict=True):
        cells = [str(row["group_size"]), *[number(row["informative_fraction"]["mean"])] * is_exact]
        cells += [estimate(estimated["informative_fraction"]), estimated["source"], number(row["informative_groups_per_petaflop"])]
        rows.append(cells + [number(row["informative_groups_per_petaflop_shared_prefill"]), number(row["push"]["mean"])])
    return rows


def probe_rows(plan: dict) -> list[list[str]]:
    """Probes as a table, heading first."""
    rows = [["probe", "as asked", "under the probe", "says", "what it was"]]
    for probe in plan["probes"]:
        rates = [estimate(probe[key]) for key in ("pass_rate_as_asked", "pass_rate_probed")]
        rows.append([probe["name"], *rates, probe["verdict"], probe["description"]])
    return rows


def sample_rows(plan: dict) -> list[list[str]]:
    """Some completions as a table, heading first; empty where the records have none."""
    return [] if plan["completions"] is None else completion_rows(plan["completions"])


def sentences(plan: dict) -> list[str]:
    """The plan in words, one fact a sentence."""
    priced, kept, need, best = plan["prices"], plan["kept"], plan["rollouts_needed"], plan["best_group_size"]
    how = "exact" if plan["pass_rate"]["is_exact"] else f"from {plan['rollouts_per_prompt']} rollouts a prompt"
    told = [] if plan["completions"] is None else [completions_sentence(plan["completions"])]
    told += [
        f"Pass rate: {estimate(plan['pass_rate'])} ({how}; {plan['num_prompts']} prompts, of which {plan['prompts_never_passed']} "
        f"never and {plan['prompts_always_passed']} always passed in {plan['rollouts_per_prompt']} rollouts)."
    ]
    rollout = f"A rollout offers {estimate(priced['offered_bits_per_rollout'])} bits ({priced['offered_bits_estimator']})"
    told.append(
        f"{rollout} for {number(priced['rollout_flops'] / 1e9)} GFLOP: {number(priced['offered_bits_per_petaflop_rollout'])} bits/PFLOP."
    )
    if priced["label_flops"] is not None:
        label = f"A label tells {estimate(priced['offered_bits_per_label'])} bits for {number(priced['label_flops'] / 1e9)} GFLOP"
        times = "" if priced["label_over_rollout"] is None else f", {number(priced['label_over_rollout'])} times a rollout's"
        told.append(f"{label}: {number(priced['offered_bits_per_petaflop_label'])} bits/PFLOP{times}.")
        told.append(_break_even_sentence(priced))
    if best["enough_push"] is not None:
        told.append(
            f"Most informative groups per FLOP: G = {best['informative_groups']} of the sizes tried, as always, for their number "
            f"grows no faster than G (with the prompt put in once a group: G = {best['informative_groups_shared_prefill']}). "
            f"GRPO pushes harder per rollout in larger groups: {ENOUGH_PUSH:.0%} of the push of the largest from G = {best['enough_push']} on."
        )
    bits = estimate(kept["offered_bits_per_rollout"])
    told.append(
        f"Worth keeping: {kept['num_prompts']} of {plan['num_prompts']} prompts ({kept['share']:.0%}), whose groups of "
        f"{kept['group_size']} should inform at least {KEEP_SHARE:g} times as often as the average prompt's. Selected on one half "
        f"of the rollouts, on the other half they pass {estimate(kept['pass_rate_estimate'])} and offer {bits} bits a rollout."
    )
    if need["prompts_needed"] is not None:
        told.append(
            f"The mean offered bits are known to ±{need['half_width']:.0%} from the rollouts alone; ±{TARGET_HALF_WIDTH:.0%} takes "
            f"{need['prompts_needed']:,} prompts of {need['rollouts_per_prompt']} rollouts, {need['rollouts_needed']:,} in all."
        )
    cost = plan["measurement"]
    told.append(
        f"This measurement cost {number(cost['flops/total'] / 1e15)} PFLOP, probes included, for {cost['samples/total']:,} rollouts."
    )
    return told


def _break_even_sentence(priced: dict) -> str:
    """Where the essay's formula has RL pay, and what to make of it."""
    start = f"A rollout costs {number(priced['cost_ratio'])} labels. By the essay's formula a rollout tells more per FLOP"
    if priced["break_even_pass_rate"] is None:
        return f"{start} at no pass rate that leaves anything to tell."
    where = f"above a pass rate of {number(priced['break_even_pass_rate'])}, where {priced['share_of_prompts_above']:.0%} of the prompts are"
    return (
        f"{start} {where} (it sets a realised surprisal against an expected entropy; in one convention a label never tells less)."
    )


def figures_of(plan: dict, counts: Counts) -> list[tuple]:
    """(name, title, figure, sentence) of each figure."""
    blurred = "A histogram of shares that passed is wider than that of the pass rates: chance blurs it."
    if counts.exact is not None:
        blurred += " The line is the histogram of the exact pass rates."
    shown = [
        ("pass_rates", "How often are the prompts passed?", pass_rate_figure(counts), f"{blurred} Bars and prompts with 95 % Wilson intervals. The axis is stretched at both ends so that equal lengths are equally uncertain."),
        ("groups", "Which group size?", group_figure(plan["groups"], plan["groups_estimated"]), "A group informs if it holds a pass and a fail; beyond the rollouts at hand its share rests on a fitted Beta distribution, and is no better than that. Per FLOP informative groups are most in the smallest groups; GRPO, which divides by the group's deviation, pushes harder per rollout in larger ones (an optimizer that rescales, or a larger learning rate, hides that)."),
        ("essay", "What does a FLOP offer here, by the essay's formula?", essay_figure(counts, plan["prices"]), "Bits over the measured cost of sampling and the computed cost of training. The pass rate alone does not say whether RL will pay: a skill that is there and seldom shown is learned much faster than one that is not there."),
    ]  # fmt: skip
    if plan["probes"]:
        sentence = f"Means over prompts with 95 % bootstrap intervals. Latent: the odds of a pass rise by more than {LATENT_FACTOR} times, the whole interval."
        shown.append(("probes", "Is the skill latent?", probe_figure(plan["probes"]), sentence))
    return shown


def write_plan(plan: dict, counts: Counts, kept: list[dict], output_dir: Path) -> None:
    """Write plan.html, plan.json, keep.jsonl and figures/*.png."""
    (output_dir / "figures").mkdir(parents=True, exist_ok=True)
    parts = []
    for name, title, figure, sentence in figures_of(plan, counts):
        figure.savefig(output_dir / "figures" / f"{name}.png", dpi=120)
        parts.append(html_figure(figure, title, sentence))
        figure.clear()
    listed = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences(plan))
    told = plan["advice"]
    samples = f"<h2>Some rollouts</h2>{html_table(sample_rows(plan))}" if sample_rows(plan) else ""
    probes = f"<h2>Probes</h2>{html_table(probe_rows(plan))}" if plan["probes"] else ""
    body = f"""<p><strong>{html.escape(told["verdict"])}</strong>, because {html.escape(told["reason"])}. To do: {html.escape(told["do"])}.</p>
<ul>{listed}</ul>
{samples}
<h2>Group sizes</h2>{html_table(group_rows(plan))}
{probes}
{"".join(parts)}
<p>{html.escape(plan["model"])}, measured in {html.escape(plan["run"])} at commit {html.escape(str(plan["git_commit"]))}.</p>"""
    (output_dir / "plan.html").write_text(html_page("Would RL pay?", body))
    (output_dir / "plan.json").write_text(json.dumps(plan, indent=2, allow_nan=False) + "\n")
    (output_dir / "keep.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the plan."""
    parser = OneLineArgumentParser(prog="python -m eval.plan", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory of recipes/measure.py")
    parser.add_argument(
        "--group_size",
        type=int,
        default=DEFAULT_GROUP_SIZE,
        help="rollouts a group that prompts are kept for (default: %(default)s)",
    )
    parser.add_argument("--output_dir", type=Path, help="where the plan goes (default: plan/ in RUN)")
    options = parser.parse_args(arguments)
    if options.group_size < 2:
        parser.error(f"--group_size must be at least 2, got {options.group_size}")
    output_dir = options.output_dir or options.run / "plan"
    try:
        check_output_dir(output_dir)
        run = read_run(options.run)
        plan, counts, keep = plan_of(run, options.group_size)
        write_plan(plan, counts, kept_lines(run, keep), output_dir)
    except (RecordError, OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    told = plan["advice"]
    print(f"{told['verdict'].upper()}\n  because {told['reason']}\n  to do: {told['do']}\n")
    for sentence in sentences(plan):
        print(f"- {sentence}")
    for rows in (sample_rows(plan), group_rows(plan), probe_rows(plan)):
        if len(rows) > 1:
            print(f"\n{aligned_table(rows)}")
    for name in ("plan.html", "keep.jsonl"):
        print(f"\n{name}: {os.path.relpath(output_dir / name)}", end="")
    print()


if __name__ == "__main__":
    main()
