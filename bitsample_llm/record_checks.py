"""Do the records hold what a reader needs? Asked before any number is computed, so that a damaged run is one line.

Manifests are edited and copied, tables get lost: what `records.py` can read may still lack what is asked for.
"""

import math

from bitsample_llm.records import RecordError, Run

WORDS = {str: "a text", int: "a whole number", dict: "an object"}
COUNTED = ("flops/total", "seconds/total", "samples/total")


def check_manifest(run: Run, fields: dict[str, type]) -> None:
    """Refuse a manifest without these fields (dots lead inside), or with other types in them.

    Raises:
        RecordError: naming the first.
    """
    for path, kind in fields.items():
        value = run.manifest
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RecordError(f"{run.run_dir}/manifest.json has no {path!r} that is {WORDS[kind]}: restore it or run again")


def check_steps(run: Run, keys: tuple[str, ...] = COUNTED, last: tuple[str, ...] = ()) -> None:
    """Refuse a run without step lines, or whose lines lack one of these numbers; `last` are needed in the last line only.

    Raises:
        RecordError: naming the first.
    """
    if not run.steps:
        raise RecordError(f"{run.run_dir} has no steps: nothing was recorded, or its steps.jsonl is gone")
    for line in run.steps:
        for key in keys if line is not run.steps[-1] else keys + last:
            value = line.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise RecordError(f"step {line['step']} of {run.run_dir} has no number for {key}: restore steps.jsonl or run again")


def check_finished(run: Run) -> None:
    """Refuse a run that is not finished.

    Raises:
        RecordError: with the state and its reason.
    """
    state, reason = run.manifest["state"], run.manifest.get("reason")
    if state != "finished":
        why = f" ({' '.join(str(reason).split())})" if reason else ", killed or still under way" if state == "running" else ""
        raise RecordError(f"{run.run_dir} holds a {state} run{why}: only finished runs are reported")
