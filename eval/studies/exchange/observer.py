"""An ideal observer over the authors: what labels teach a reader who knows how every author writes, and asks only who is wanted.

With weights w over authors the observer gives an answer y the probability sum_a w_a p_a(y), and a label y multiplies w_a by p_a(y). The
p_a are the model's own, under each mark (`make_observer.py`). A rollout that passed is a label; one that failed multiplies w_a by
1 - p_a(what it said), which is left out here as next to nothing where wrong answers are many.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SIZES = (0, 1, 2, 4, 8, 16, 32, 64)


def log2_predictive(log2_weights_A: np.ndarray, log2_p_AP: np.ndarray) -> np.ndarray:
    """log2 of the probability of each problem's answer under a mixture of A authors, of shape (P,)."""
    return np.logaddexp2.reduce(log2_weights_A[:, None] + log2_p_AP, axis=0)


def prior(marks: Sequence[str], own: str, own_share: float | None) -> np.ndarray:
    """log2 weights: equal ones, or `own_share` on the start's own author and the rest on the others alike."""
    if own_share is None:
        return np.full(len(marks), -np.log2(len(marks)))
    rest = (1 - own_share) / (len(marks) - 1)
    return np.log2([own_share if mark == own else rest for mark in marks])


def observer_gains(lines: Sequence[dict], mark: str, own_share: float | None = None) -> list[tuple[int, float]]:
    """(n, share of the available held-out bits after n labels), mean over models and seeds."""
    shares: dict[int, list[float]] = defaultdict(list)
    heldout = {line["model"]: line["log2_p"] for line in lines if line["split"] == "heldout"}
    for line in lines:
        if line["split"] != "train" or mark not in line["log2_p"]:
            continue
        marks = list(line["log2_p"])
        train_AN, heldout_AP = (np.array([table[a] for a in marks]) for table in (line["log2_p"], heldout[line["model"]]))
        before = np.array(heldout[line["model"]][mark]).mean()
        for n in SIZES:
            weights = prior(marks, mark, own_share) + train_AN[:, :n].sum(axis=1)
            after = log2_predictive(weights - np.logaddexp2.reduce(weights), heldout_AP).mean()
            shares[n].append((after - before) / -before)
    return [(n, float(np.mean(values))) for n, values in shares.items()]


def read_observer(folders: Sequence[Path]) -> dict[str, list[tuple[int, float]]]:
    """Mark -> the observer's curve under equal weights, from `observer.json` in a folder; empty where no folder has one."""
    for folder in folders:
        if (path := folder / "observer.json").is_file():
            lines = json.loads(path.read_text())
            marks = {mark for line in lines for mark in line["log2_p"]}
            return {mark: observer_gains(lines, mark) for mark in sorted(marks)}
    return {}
