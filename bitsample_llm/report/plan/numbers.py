"""The plan in numbers, from the records of a measurement: what to keep, at which group size, and whether RL would pay."""

import json

import numpy as np

from bitsample_llm.records import Run
from bitsample_llm.report.checks import check_planned
from bitsample_llm.report.plan.advice import advice, probe_finding
from bitsample_llm.report.plan.completions import completions_of
from bitsample_llm.report.plan.pass_rates import (
    REPORT,
    SELECTION,
    Counts,
    best_group_sizes,
    counts_of,
    group_table,
    kept_prompts,
    mean_pass_rate,
    over_prompts,
    prices,
    rollouts_needed,
)

# probe in the records -> what it is compared with; the short RL branch is measured on held-out prompts
BASE_OF_PROBE = {"prefix": None, "mark": None, "shots": None, "updates": "heldout"}
DEFAULT_GROUP_SIZE = 8  # TRL's


def plan_of(run: Run, group_size: int = DEFAULT_GROUP_SIZE, training: dict | None = None) -> tuple[dict, Counts, np.ndarray]:
    """The plan in numbers, the counts of all prompts, and which of them are worth keeping for groups of `group_size`; a RecordError
    for what is no finished measurement. `training` is what short runs say of its cost (`forecast.training_costs`).
    """
    check_planned(run)
    rng = np.random.default_rng(0)
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
    completions = completions_of(run, np.random.default_rng(0))
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
        "training": training,
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
