"""Part D: what each form of an answer pays. Pass rates of worked steps come from rollouts, which the prices of the other parts cannot be of."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitsample_llm.estimators import first_kept
from bitsample_llm.records import read_run
from bitsample_llm.report.claims import Claim
from bitsample_llm.report.estimates import Estimate, number_text
from bitsample_llm.report.prices import KEEP_FOR
from bitsample_llm.report.runs import run_dirs_in
from bitsample_llm.report.study import Table

TARGET = 0.5
FILE = "worked.jsonl"


def curve_of(run) -> dict:
    """A finished run: mean held-out pass rate at each evaluation, exact or from rollouts, FLOPs so far, and what a rollout and its update cost."""
    rows = [row for row in run.table("evals").to_pylist() if row["split"] == "heldout"]
    flops = sorted({row["total_flops"] for row in rows})
    at = {spent: [row for row in rows if row["total_flops"] == spent] for spent in flops}
    rates = [float(np.mean([share_of(row) for row in at[spent]])) for spent in flops]
    last = run.steps[-1]
    drawn, trained = (
        sum(last[f"flops/{phase}"] for phase in phases) for phases in (("prefill", "decode"), ("train_forward", "train_backward"))
    )
    about = {"rung": run.manifest["tags"]["rung"], "arm": run.manifest["arm"], "seed": run.manifest["seed"]}
    per_sample = {"draw": drawn / last["samples/total"], "train": trained / last["samples/total"]}
    return about | {"flops": flops, "pass_rate": rates, "is_exact": rows[0]["num_rollouts"] is None} | per_sample


def share_of(row: dict) -> float:
    """The pass rate of a held-out problem."""
    return 2 ** row["log2_pass_rate"] if row["num_rollouts"] is None else row["num_passed"] / row["num_rollouts"]


def pack(folder: Path, file: Path) -> None:
    """Write the curves of the finished runs into a file of a record."""
    runs = [read_run(run_dir) for run_dir in run_dirs_in([folder])]
    lines = [json.dumps(curve_of(run)) for run in runs if run.manifest["state"] == "finished"]
    file.write_text("".join(line + "\n" for line in lines))


def price(curve: dict) -> tuple[float, bool]:
    """FLOPs at the first evaluation from which the target is kept, and True; or up to which it cannot have been, and False."""
    spent = first_kept(curve["flops"], curve["pass_rate"], TARGET, KEEP_FOR)
    if spent is not None:
        return spent, True
    return max(flops for flops in curve["flops"] if flops * KEEP_FOR <= curve["flops"][-1]), False


def worked_table(curves: Sequence[dict]) -> Table:
    """What each form paid."""
    rows = [
        ["author and form", "learns by", "seed", "pass rate", f"GFLOP to p = {TARGET:g}", "MFLOP per rollout", "per update on it"]
    ]
    for curve in curves:
        amount, is_kept = price(curve)
        ends = f"{number_text(curve['pass_rate'][0])} → {number_text(curve['pass_rate'][-1])}"
        costs = [number_text(curve[name] / 1e6) for name in ("draw", "train")]
        rows.append(
            [curve["rung"], curve["arm"], str(curve["seed"]), ends, f"{'' if is_kept else '> '}{number_text(amount / 1e9)}", *costs]
        )
    return Table(
        "Worked steps and direct answers, one checkpoint",
        rows,
        "Pass rates of worked steps are of 8 rollouts per held-out problem.",
    )


def worked_claims(curves: Sequence[dict]) -> list[Claim]:
    """Questions 10 and 11."""
    by = {
        (rung, arm): [price(curve) for curve in curves if (curve["rung"], curve["arm"]) == (rung, arm)]
        for rung, arm in {(curve["rung"], curve["arm"]) for curve in curves}
    }
    claims = []
    if by.get(("worked E", "grpo")) and by.get(("direct E", "grpo")):
        worked, direct = by["worked E", "grpo"], by["direct E", "grpo"]
        is_so = all(kept for _, kept in worked) and not any(kept for _, kept in direct)
        amounts = [amount / 1e9 for amount, _ in worked]
        text = f"GRPO reaches p = {TARGET:g} with worked steps and not with direct answers."
        statistic = "GFLOP with worked steps (direct: kept by " + f"{sum(kept for _, kept in direct)} of {len(direct)} runs)"
        verdict = "supported" if is_so else "not supported"
        claims.append(Claim(text, statistic, Estimate(float(np.mean(amounts)), None, len(amounts), tuple(amounts)), verdict))
    if by.get(("direct A", "sft")) and by.get(("direct A", "grpo")) and by.get(("worked E", "grpo")):
        labels, direct = by["direct A", "sft"], by["direct A", "grpo"]
        of_label = next(curve["train"] for curve in curves if (curve["rung"], curve["arm"]) == ("direct A", "sft"))
        of_rollout = np.mean([curve["draw"] for curve in curves if (curve["rung"], curve["arm"]) == ("worked E", "grpo")])
        amounts = [amount / 1e9 * (1 + of_rollout / of_label) for amount, _ in labels]
        is_cheaper = all(kept for _, kept in labels) and max(amounts) < min(amount / 1e9 for amount, _ in direct)
        text = "Distilling worked answers into direct ones is cheaper than GRPO on direct answers."
        statistic = (
            f"computed GFLOP to p = {TARGET:g}; GRPO {'pays' if all(kept for _, kept in direct) else 'pays more than'} "
            + " and ".join(number_text(amount / 1e9) for amount, _ in direct)
        )
        verdict = "supported" if is_cheaper else "not known to be"
        claims.append(Claim(text, statistic, Estimate(float(np.mean(amounts)), None, len(amounts), tuple(amounts)), verdict))
    return claims
