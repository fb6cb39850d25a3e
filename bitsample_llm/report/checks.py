"""Do the records hold what a reader needs? Asked before any number is computed, so that a damaged run is one line.

Manifests are edited and copied, tables get lost: what the reader takes may still lack what is asked for.
"""

import math

from bitsample_llm.records import RecordError, Run
from bitsample_llm.records.glossary import TRAINING_PHASES

WORDS = {str: "a text", int: "a whole number", dict: "an object"}
COUNTED = ("flops/total", "seconds/total", "samples/total")


def check_manifest(run: Run, fields: dict[str, type]) -> None:
    """Refuse a manifest without these fields (dots lead inside), or with other types in them: a RecordError names the first."""
    for path, kind in fields.items():
        value = run.manifest
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RecordError(f"{run.run_dir}/manifest.json has no {path!r} that is {WORDS[kind]}: restore it or run again")


def check_steps(run: Run, keys: tuple[str, ...] = COUNTED, last: tuple[str, ...] = ()) -> None:
    """Refuse a run without step lines, or whose lines lack one of these numbers: a RecordError names the first. `last` are needed
    in the last line only.
    """
    if not run.steps:
        raise RecordError(f"{run.run_dir} has no steps: nothing was recorded, or its steps.jsonl is gone")
    for line in run.steps:
        for key in keys if line is not run.steps[-1] else keys + last:
            value = line.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise RecordError(f"step {line['step']} of {run.run_dir} has no number for {key}: restore steps.jsonl or run again")


def check_finished(run: Run, kind: str = "run", so: str = "only finished runs are reported") -> None:
    """Refuse what is not finished: a RecordError says its state, the reason, and what follows (`so`)."""
    state, reason = run.manifest["state"], run.manifest.get("reason")
    if state != "finished":
        why = f" ({' '.join(str(reason).split())})" if reason else ", killed or still under way" if state == "running" else ""
        raise RecordError(f"{run.run_dir} holds a {state} {kind}{why}: {so}")


def check_reported(run: Run) -> None:
    """Refuse what no report can be made of: a RecordError names what is wrong."""
    check_finished(run)
    check_manifest(run, {"trainer": str, "regime": str, "seed": int})
    if run.manifest["regime"] == "measure":
        raise RecordError(f"{run.run_dir} is a measurement: its report is bitsample plan {run.run_dir}")
    for key, kind in (("start", str), ("arm", str), ("config", dict)):
        if run.manifest.get(key) is not None:  # a run of the meter alone has none
            check_manifest(run, {key: kind})
    check_steps(run, last=tuple(f"{kind}/{phase}" for kind in ("flops", "flops_useful") for phase in TRAINING_PHASES))
    for name in ("evals", "prompts", "rollouts"):
        run.check_table(name)


def check_planned(run: Run) -> None:
    """Refuse what is no finished measurement, or one whose records are not whole: a RecordError names what is wrong."""
    if run.manifest.get("regime") != "measure":
        raise RecordError(f"{run.run_dir} is a run of {run.manifest.get('trainer')}: a plan needs one of recipes/measure.py")
    check_finished(run, "measurement", "go on with --resume_from_checkpoint last")
    prices = ("rollout_prefill", "rollout_decode", "rollout_training", "label_training")
    check_manifest(run, {"flops_per_sample": dict, "config.model.model_name_or_path": str})
    costs = run.manifest["flops_per_sample"]
    for name in prices:
        is_known = isinstance(costs.get(name), int | float) or (name == "label_training" and costs.get(name, 0) is None)
        if not is_known:
            raise RecordError(f"{run.run_dir}/manifest.json has no number for {name} in 'flops_per_sample': measure again")
    check_steps(run)
    asked: dict[int, list[str]] = {}
    for row in run.table("prompts").to_pylist():
        passed, drawn = row["num_passed"], row["group_size"]
        if passed is None or not drawn or not 0 <= passed <= drawn:
            raise RecordError(f"table prompts of {run.run_dir} has {passed} passes of {drawn} rollouts in a row: measure again")
        if row["probe"] is None:
            asked.setdefault(row["generation_step"], []).append(row["problem_id"])
    if sorted(asked) != [1, 2] or sorted(asked[1]) != sorted(asked[2]):
        raise RecordError(f"table prompts of {run.run_dir} does not hold two halves of the same prompts: measure again")
    known = set(run.table("problems")["problem_id"].to_pylist())
    if missing := sorted(set(asked[1]) - known):
        raise RecordError(f"table problems of {run.run_dir} lacks {len(missing)} prompts, {missing[0]} for one: measure again")
