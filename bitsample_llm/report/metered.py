"""Runs of the meter on somebody's own script: no held-out evaluation, no arm, no start. What can be reported of them?

Samples, offered bits, FLOPs by phase and the pass rates of their rollouts; what a held-out evaluation would say is a dash.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from bitsample_llm.records import Run
from bitsample_llm.records.glossary import TRAINING_PHASES
from bitsample_llm.report.columns import PETA
from bitsample_llm.report.estimates import number_text
from bitsample_llm.report.study import Table

TITLE = "Runs without held-out evaluations"
NOTE = "Pass rates are those of the training prompts (known where one answer passes, else the share of rollouts that passed)."


def with_names(run: Run) -> Run:
    """The run with a name for what its manifest leaves out: the trainer for an arm, the model or the folder for a start."""
    manifest = run.manifest
    model = ((manifest.get("config") or {}).get("model") or {}).get("model_name_or_path")
    defaults = {"arm": manifest["trainer"], "start": PurePath(model).name if isinstance(model, str) else run.run_dir.name}
    defaults |= {"git_commit": None, "git_dirty": None, "packages": {}, "device": "unknown", "heldout_problems_sha256": None}
    named = defaults | {key: value for key, value in manifest.items() if value is not None}
    for key in ("arm", "start"):
        named[key] = "".join(letter if letter.isprintable() else "?" for letter in named[key])
    return dataclasses.replace(run, manifest=named)


def metered_facts(run: Run) -> dict:
    """A run in numbers; what was not measured is None."""
    last, tenth = run.steps[-1], max(len(run.steps) // 10, 1)
    offered = last.get("bits/offered_total")
    rates = [line.get("group/pass_rate", line.get("group/pass_rate_estimate")) for line in run.steps]
    known = [rate for rate in rates if rate is not None]
    return {
        "run": str(run.run_dir),
        "start": run.manifest["start"],
        "arm": run.manifest["arm"],
        "seed": run.manifest["seed"],
        "steps": len(run.steps),
        "samples": last["samples/total"],
        "offered_bits_per_sample": offered / last["samples/total"] if offered is not None and last["samples/total"] else None,
        "offered_bits_per_petaflop": offered / last["flops/total"] * PETA if offered is not None and last["flops/total"] else None,
        "absorbed_bits": None,
        "pass_rate_first_tenth": float(np.mean(known[:tenth])) if known else None,
        "pass_rate_last_tenth": float(np.mean(known[-tenth:])) if known else None,
        "total_flops": last["flops/total"],
        **{f"flops_{phase}": last[f"flops/{phase}"] for phase in TRAINING_PHASES},
    }


def metered_table(facts: Sequence[dict]) -> Table:
    """A row for each run; phases that no run has are left out."""
    phases = [phase for phase in TRAINING_PHASES if any(fact[f"flops_{phase}"] for fact in facts)]
    keys = {
        "steps": "steps",
        "samples": "samples",
        "offered bits per sample": "offered_bits_per_sample",
        "offered bits per PFLOP": "offered_bits_per_petaflop",
        "absorbed bits": "absorbed_bits",
        "pass rate, first tenth of steps": "pass_rate_first_tenth",
        "pass rate, last tenth": "pass_rate_last_tenth",
    }
    rows = [["start", "arm", "seed", *keys, "GFLOP", *[f"{phase} (GFLOP)" for phase in phases]]]
    for fact in facts:
        flops = [fact["total_flops"], *[fact[f"flops_{phase}"] for phase in phases]]
        cells = [number_text(fact[key]) for key in keys.values()] + [number_text(value * 1e-9) for value in flops]
        rows.append([fact["start"], fact["arm"], str(fact["seed"]), *cells])
    return Table(TITLE, rows, NOTE)


def for_terminal(table: Table) -> Table:
    """The columns up to the absorbed bits, which fit a terminal."""
    return Table(table.title, [row[:8] for row in table.rows])
