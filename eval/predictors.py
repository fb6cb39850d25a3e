"""Which number known before training tells what a FLOP will buy? Rank correlations and left-out errors over cells."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from eval.ladder import Cell

NUM_RESAMPLES = 2000


def log_rate(cell: Cell, arm: str) -> float | None:
    """Natural log of absorbed bits per FLOP up to the target, mean over seeds; None unless every seed got there."""
    found = cell.arms.get(arm)
    if found is None or len(found.measured("flops_to_target")) < len(found.results):
        return None
    return float(np.mean([math.log(r.values["target_bits"] / r.values["flops_to_target"]) for r in found.results]))


def _mean_first(cell: Cell, arm: str, key: str) -> float | None:
    """Mean over seeds of a metric of the first step, before anything was learned."""
    values = [result.run.steps[0].get(key) for result in cell.arms[arm].results]
    return None if None in values or not values else float(np.mean(values))


def predictors_of(cell: Cell, arm: str) -> dict[str, float | None]:
    """Every definition of bits, what else is known of a start, and what any of them is to be held against."""
    is_label = arm in ("sft", "pass_rate")
    offered = cell.surprisal_bits if is_label else cell.entropy_bits
    run = cell.arms[arm].results[0].run
    first = run.steps[0]
    flops_a_sample = first["flops/total"] / first["samples/total"]
    believed = _mean_first(cell, arm, "bits/surprisal_per_sample" if is_label else "bits/believed_per_sample")
    noise = cell.noise_scale("sft_0" if is_label else f"{arm}_expected")
    return {
        "offered bits a sample": offered,
        "offered bits a FLOP": offered / flops_a_sample,
        "believed bits a sample": believed,
        "pass rate": cell.pass_rate,
        "surprisal": cell.surprisal_bits,
        "coherence": cell.coherence,
        "1 / noise scale": None if noise is None else 1 / noise["mean"],
        "a constant": 1.0,
        "learning rate": run.manifest.get("config", {}).get("training", {}).get("learning_rate"),
        "unacquired or not": math.e if cell.reason == "unacquired" else 1.0,  # 1 or 0 in the log
    }


def left_out_error(x: np.ndarray, y: np.ndarray) -> float:
    """Root mean square error of y predicted by a line through all other points."""
    errors = []
    for index in range(len(x)):
        kept = np.delete(np.arange(len(x)), index)
        degree = 1 if len(set(x[kept])) > 1 else 0  # what is the same everywhere tells the mean
        errors.append(y[index] - np.polyval(np.polyfit(x[kept], y[kept], degree), x[index]))
    return float(np.sqrt(np.mean(np.square(errors))))


def rank_correlation(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> dict:
    """Spearman's rho with its bootstrap interval over cells; None where either is the same in all of them."""
    if len(set(x)) == 1 or len(set(y)) == 1:
        return {"mean": None, "interval": None, "n": len(x)}
    rho = float(stats.spearmanr(x, y).statistic)
    drawn = []
    for _ in range(NUM_RESAMPLES):
        rows = rng.integers(0, len(x), len(x))
        if len(set(x[rows])) > 1 and len(set(y[rows])) > 1:
            drawn.append(stats.spearmanr(x[rows], y[rows]).statistic)
    return {"mean": rho, "interval": [float(bound) for bound in np.quantile(drawn, [0.025, 0.975])], "n": len(x)}


def predictor_table(cells: Sequence[Cell], arms: Sequence[str], rng: np.random.Generator) -> list[dict]:
    """A row an arm and predictor: rank correlation with the log of absorbed bits per FLOP, and the left-out error of a line in the
    predictor's log, all predictors of an arm on the same cells."""
    rows = []
    for arm in arms:
        known = [(predictors_of(cell, arm), rate) for cell in cells if (rate := log_rate(cell, arm)) is not None]
        names = [name for name in predictors_of(cells[0], arm) if all(p[name] for p, _ in known)] if known else []
        if len(known) < 5:
            continue
        y = np.array([rate for _, rate in known])
        for name in names:
            x = np.log([values[name] for values, _ in known])
            rows.append({"arm": arm, "predictor": name, **rank_correlation(x, y, rng), "left_out_error": left_out_error(x, y)})
    return rows


def bits_verdict(rows: Sequence[dict], arm: str) -> str:
    """Whether any definition of bits tells more of left-out cells than whatever is no bits, a constant included, in a sentence."""
    of_arm = {row["predictor"]: row["left_out_error"] for row in rows if row["arm"] == arm}
    bits = {name: error for name, error in of_arm.items() if "bits" in name}
    if not bits or "pass rate" not in of_arm:
        return f"{arm}: too few cells to tell what predicts its absorbed bits per FLOP."
    best = min(bits, key=bits.get)
    others = {name: of_arm[name] for name in ("pass rate", "a constant", "learning rate", "unacquired or not") if name in of_arm}
    rival = min(others, key=others.get)
    errors = ", ".join(f"{name} {error:.2f}" for name, error in others.items())
    return (
        f"{arm}: of the definitions of bits, {best} predicts the log of absorbed bits per FLOP of left-out cells best, with an error of "
        f"{bits[best]:.2f}; errors of others: {errors}. "
        + ("Bits do better than these." if bits[best] < others[rival] else f"So bits predict no better than this: {rival}.")
    )
