"""The plan as a page and as lines for a terminal: the verdict first, then the facts it rests on."""

import os
from pathlib import Path

from bitsample_llm.report.estimates import Estimate, number_text
from bitsample_llm.report.page import aligned_table
from bitsample_llm.report.plan.advice import LATENT_FACTOR, MOST_END
from bitsample_llm.report.plan.completions import completion_rows, completions_sentence
from bitsample_llm.report.plan.forecast import calibration
from bitsample_llm.report.plan.pass_rates import ENOUGH_PUSH, KEEP_SHARE, TARGET_HALF_WIDTH, Counts
from bitsample_llm.report.plan.pictures import calibration_figure, essay_figure, group_figure, pass_rate_figure, probe_figure
from bitsample_llm.report.study import Headline, Picture, Study, Table

GIGA = 1e9
HOW_TO_READ = (
    "A pass rate is the probability that a rollout passes. A group of G rollouts informs if it holds a pass and a fail; GRPO learns "
    "nothing from any other. Offered bits are the essay's: -log2 p for a label, H(p) for a verdict. A probe asks whether the skill is latent: "
    "does the pass rate rise under a better prompt, after solved examples, or by a few updates?"
)


def _text(summary: dict, scale: float = 1.0) -> str:
    """A mean with its interval, of a part of the plan, times `scale`."""
    return Estimate.of(summary).text(scale)


def group_rows(plan: dict) -> list[list[str]]:
    """Group sizes as a table, heading first."""
    is_exact = plan["pass_rate"]["is_exact"]
    rows = [["G", *["informative groups, exact"] * is_exact, "informative groups, from rollouts", "by", "per PFLOP"]]
    rows[0] += ["per PFLOP, shared prefill", "push per rollout"]
    for row, estimated in zip(plan["groups"], plan["groups_estimated"], strict=True):
        cells = [str(row["group_size"]), *[number_text(row["informative_fraction"]["mean"])] * is_exact]
        cells += [
            _text(estimated["informative_fraction"]),
            estimated["source"],
            number_text(row["informative_groups_per_petaflop"]),
        ]
        rows.append(cells + [number_text(row["informative_groups_per_petaflop_shared_prefill"]), number_text(row["push"]["mean"])])
    return rows


def probe_rows(plan: dict) -> list[list[str]]:
    """Probes as a table, heading first."""
    rows = [["probe", "as asked", "under the probe", "says", "what it was"]]
    for probe in plan["probes"]:
        rates = [_text(probe[key]) for key in ("pass_rate_as_asked", "pass_rate_probed")]
        rows.append([probe["name"], *rates, probe["verdict"], probe["description"]])
    return rows


def forecast_rows(training: dict) -> list[list[str]]:
    """The short runs and what they forecast of themselves, heading first."""
    budget = training["flop_budget"]
    rows = [
        [
            "short run",
            "learns from",
            "updates",
            "learning rate",
            "bits gained, of all",
            "GFLOP to half of the bits",
            "samples to it",
        ]
    ]
    rows[0] += [] if budget is None else [f"within {number_text(budget / GIGA)} GFLOP"]
    for run in training["short_runs"]:
        cells = [
            run["arm"],
            run["learns_from"],
            f"{run['updates']:.0f}",
            number_text(run["learning_rate"]),
            f"{run['share_gained']:.1%}",
        ]
        cells += [_text(run["flops_to_half"] | {"mean": run["flops_to_half"]["median"]}, 1 / GIGA)]
        cells += [_text(run["samples_to_half"] | {"mean": run["samples_to_half"]["median"]})]
        rows.append(cells + ([] if budget is None else [f"{run['probability_within_budget']:.0%}"]))
    return rows


def forecast_note(training: dict) -> str:
    """How forecasts were made, and how good they were."""
    told = [
        f"for {kind} {score['coverage']:.0%} of the prices lay within the interval, and ln price was off by {number_text(score['rms_error'])} ({score['starts']} starts)"
        for kind, score in training["scores"].items()
    ]
    return (
        f"By a straight line through each run's beginning; brackets: 80 %. On recorded runs, each start left out, {'; '.join(told)}. A run that has gained next to nothing "
        "forecasts little more than that it will take long."
    )


def label_price_sentence(training: dict) -> str | None:
    """What a label may cost; None without a short run of either kind."""
    if (price := training["label_price"]) is None:
        return None
    in_flops = price["unit"] == "FLOPs"
    text = _text(price | {"mean": price["median"]}, 1e-9 if in_flops else 1.0) + (" GFLOP" if in_flops else "")
    told = f"Below {text} per label half of the bits is cheaper by labels, above it by rollouts (80 % interval)"
    if price["label_cost"] is None:
        return f"{told}. --label_cost says what yours cost."
    cost = number_text(price["label_cost"] * (1e-9 if in_flops else 1.0)) + (" GFLOP" if in_flops else "")
    return f"{told}. At {cost} per label rollouts are cheaper with probability {price['probability_rollouts_cheaper']:.0%}."


def sentences(plan: dict) -> list[str]:
    """The plan in words, one fact a sentence."""
    priced, kept, need, best = plan["prices"], plan["kept"], plan["rollouts_needed"], plan["best_group_size"]
    how = "exact" if plan["pass_rate"]["is_exact"] else f"from {plan['rollouts_per_prompt']} rollouts per prompt"
    told = [] if plan["completions"] is None else [completions_sentence(plan["completions"])]
    told += [
        f"Pass rate: {_text(plan['pass_rate'])} ({how}; {plan['num_prompts']} prompts, of which {plan['prompts_never_passed']} "
        f"never and {plan['prompts_always_passed']} always passed in {plan['rollouts_per_prompt']} rollouts)."
    ]
    rollout = f"A rollout offers {_text(priced['offered_bits_per_rollout'])} bits ({priced['offered_bits_estimator']})"
    told.append(
        f"{rollout} for {number_text(priced['rollout_flops'] / 1e9)} GFLOP: {number_text(priced['offered_bits_per_petaflop_rollout'])} bits/PFLOP."
    )
    if priced["label_flops"] is not None:
        label = f"A label tells {_text(priced['offered_bits_per_label'])} bits for {number_text(priced['label_flops'] / 1e9)} GFLOP"
        times = (
            ""
            if priced["label_over_rollout"] is None
            else f", {number_text(priced['label_over_rollout'])} times as many as a rollout"
        )
        told.append(f"{label}: {number_text(priced['offered_bits_per_petaflop_label'])} bits/PFLOP{times}.")
        told.append(_break_even_sentence(priced))
    if best["enough_push"] is not None:
        told.append(
            f"Most informative groups per FLOP: G = {best['informative_groups']} of the sizes tried, as always, for their number "
            f"grows no faster than G (with the prompt put in once per group: G = {best['informative_groups_shared_prefill']}). "
            f"GRPO pushes harder per rollout in larger groups: {ENOUGH_PUSH:.0%} of the push of the largest from G = {best['enough_push']} on."
        )
    bits = _text(kept["offered_bits_per_rollout"])
    told.append(
        f"Worth keeping: {kept['num_prompts']} of {plan['num_prompts']} prompts ({kept['share']:.0%}), whose groups of "
        f"{kept['group_size']} should inform at least {KEEP_SHARE:g} times as often as the average prompt's. Selected on one half "
        f"of the rollouts, on the other half they pass {_text(kept['pass_rate_estimate'])} and offer {bits} bits per rollout."
    )
    if need["prompts_needed"] is not None:
        told.append(
            f"The mean offered bits are known to ±{need['half_width']:.0%} from the rollouts alone; ±{TARGET_HALF_WIDTH:.0%} takes "
            f"{need['prompts_needed']:,} prompts of {need['rollouts_per_prompt']} rollouts, {need['rollouts_needed']:,} in all."
        )
    if plan["training"] and (of_label := label_price_sentence(plan["training"])):
        told.append(of_label)
    cost = plan["measurement"]
    told.append(
        f"This measurement cost {number_text(cost['flops/total'] / 1e15)} PFLOP, probes included, for {cost['samples/total']:,} rollouts."
    )
    return told


def _break_even_sentence(priced: dict) -> str:
    """Where the essay's formula has RL pay, and what to make of it."""
    start = f"A rollout costs {number_text(priced['cost_ratio'])} labels. By the essay's formula a rollout tells more per FLOP"
    if priced["break_even_pass_rate"] is None:
        return f"{start} at no pass rate that leaves anything to tell."
    where = f"above a pass rate of {number_text(priced['break_even_pass_rate'])}, where {priced['share_of_prompts_above']:.0%} of the prompts are"
    return (
        f"{start} {where} (it sets a realised surprisal against an expected entropy; in one convention a label never tells less)."
    )


def pictures_of(plan: dict, counts: Counts) -> list[Picture]:
    """The pictures of a plan, the histogram of pass rates first."""
    blurred = "A histogram of shares that passed is wider than that of the pass rates: chance blurs it."
    if counts.exact is not None:
        blurred += " The line is the histogram of the exact pass rates."
    found = [
        Picture(
            "pass_rates",
            "How often are the prompts passed?",
            lambda: pass_rate_figure(counts),
            f"{blurred} Bars and prompts with 95 % Wilson intervals. The axis is stretched at both ends so that equal lengths are equally "
            "uncertain.",
        ),
        Picture(
            "groups",
            "Which group size?",
            lambda: group_figure(plan["groups"], plan["groups_estimated"]),
            "Beyond the rollouts at hand the share of groups that inform rests on a fitted Beta distribution, and is no better than that. Per "
            "FLOP informative groups are most in the smallest groups; GRPO, which divides by the group's deviation, pushes harder per "
            "rollout in larger ones (an optimizer that rescales, or a larger learning rate, hides that).",
        ),
        Picture(
            "essay",
            "What does a FLOP offer here, by the essay's formula?",
            lambda: essay_figure(counts, plan["prices"]),
            "Bits over the measured cost of sampling and the computed cost of training. The pass rate alone does not say whether RL will "
            "pay: a skill that is there and seldom shown is learned much faster than one that is not there.",
        ),
    ]
    if plan["probes"]:
        caption = (
            f"Means over prompts with 95 % bootstrap intervals. Latent: the odds of a pass rise by more than {LATENT_FACTOR} times, the "
            "whole interval."
        )
        found.append(Picture("probes", "Is the skill latent?", lambda: probe_figure(plan["probes"]), caption))
    return found


def headlines_of(plan: dict) -> list[Headline]:
    """Pass rate, what a label tells compared with a rollout, and the share of groups that inform."""
    eight = plan["groups"][1]
    found = [
        Headline(
            number_text(plan["pass_rate"]["mean"]), "mean pass rate", f"{plan['num_prompts']} prompts, {_text(plan['pass_rate'])}"
        ),
        Headline(
            number_text(eight["informative_fraction"]["mean"]),
            f"of the groups of {eight['group_size']} hold a pass and a fail",
            _text(eight["informative_fraction"]),
        ),
    ]
    if (ratio := plan["prices"]["label_over_rollout"]) is not None:
        found.append(Headline(f"× {number_text(ratio)}", "offered bits per FLOP, a label over a rollout", "by the essay's formula"))
    return found


def plan_study(plan: dict, counts: Counts) -> Study:
    """The page of a plan."""
    told, (main, *others) = plan["advice"], pictures_of(plan, counts)
    tables = [Table("Group sizes", group_rows(plan))]
    if plan["completions"]:  # where most rollouts do not end, they are all that is worth a look
        is_first = plan["completions"]["ended"] < MOST_END
        tables.insert(0 if is_first else 1, Table("Some rollouts", completion_rows(plan["completions"])))
    if plan["probes"]:
        tables.insert(1, Table("Probes", probe_rows(plan), "Brackets hold the 95 % bootstrap interval over prompts."))
    if plan["training"]:
        tables.insert(0, Table("What would training cost?", forecast_rows(plan["training"]), forecast_note(plan["training"])))
        others.append(
            Picture(
                "calibration",
                "How good are such forecasts?",
                lambda: calibration_figure(calibration()),
                "Recorded runs, each start left out: what was forecast from a beginning of 4 to 64 updates, and what was paid. On the line the forecast was right; the band is a factor of two.",
            )
        )
    return Study(
        title="Would RL pay?",
        question=f"Would RL pay on {plan['model']} and these {plan['num_prompts']} prompts?",
        answer=f"{told['verdict']}, because {told['reason']}. To do: {told['do']}.",
        main=main,
        table=tables[0],
        how_to_read=HOW_TO_READ,
        provenance=f"{plan['model']}, measured in {plan['run']} at commit {plan['git_commit']}.",
        headlines=headlines_of(plan),
        sentences=sentences(plan),
        tables=tables[1:],
        pictures=others,
        results=plan,
    )


def terminal_plan(plan: dict, output_dir: Path) -> str:
    """The verdict, the facts, the tables, and where the files are."""
    told = plan["advice"]
    lines = [told["verdict"].upper(), f"  because {told['reason']}", f"  to do: {told['do']}", ""]
    lines += [f"- {sentence}" for sentence in sentences(plan)]
    samples = completion_rows(plan["completions"]) if plan["completions"] else []
    forecasts = forecast_rows(plan["training"]) if plan["training"] else []
    lines += [f"\n{aligned_table(rows)}" for rows in (samples, forecasts, group_rows(plan), probe_rows(plan)) if len(rows) > 1]
    lines += [f"\n{name}: {os.path.relpath(output_dir / name)}" for name in ("plan.html", "keep.jsonl")]
    return "\n".join(lines)
