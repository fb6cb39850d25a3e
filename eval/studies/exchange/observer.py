"""An ideal observer over the authors: what labels teach a reader who knows how every author writes, and asks only who is wanted.

With weights w over authors the observer gives an answer y the probability sum_a w_a p_a(y), and a label y multiplies w_a by p_a(y). The
p_a are the model's own, under each mark (`make_observer.py`). A rollout that passed is a label; one that failed multiplies w_a by
1 - p_a(what it said), which is left out here as next to nothing where wrong answers are many.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

SCEPTICAL = 0.99  # an observer who begins with it begins where the start is
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
    """(n, share of the available held-out bits after n labels), mean over models and seeds, of an observer who asks which author is
    wanted.
    """

    def after(train: dict, heldout: dict, n: int) -> np.ndarray:
        marks = list(train["log2_p"])
        train_AN, heldout_AP = (np.array([line["log2_p"][a] for a in marks]) for line in (train, heldout))
        weights = prior(marks, mark, own_share) + train_AN[:, :n].sum(axis=1)
        return log2_predictive(weights - np.logaddexp2.reduce(weights), heldout_AP)

    return _mean_gains(lines, mark, after)


def gate_gains(lines: Sequence[dict], mark: str, own_share: float) -> list[tuple[int, float]]:
    """The same of an observer who asks at each gate alone whether the start's author or the always right one is wanted, and begins with
    `own_share` on the start's.
    """

    def after(train: dict, heldout: dict, n: int) -> np.ndarray:
        (own_N, right_N), (own_P, right_P) = ([np.array(line["log2_p"][a]) for a in (mark, "A")] for line in (train, heldout))
        gates_N, gates_P = np.array(train["gates"][:n]), np.array(heldout["gates"])
        of_gate = {gate: (right_N - own_N)[:n][gates_N == gate].sum() for gate in set(heldout["gates"])}
        log2_odds_P = np.array([of_gate[gate] for gate in gates_P]) + np.log2((1 - own_share) / own_share)
        log2_right_P, log2_own_P = -np.logaddexp2(0, -log2_odds_P), -np.logaddexp2(0, log2_odds_P)
        return np.logaddexp2(log2_right_P + right_P, log2_own_P + own_P)

    return _mean_gains(lines, mark, after)


def _mean_gains(lines: Sequence[dict], mark: str, after: Callable[[dict, dict, int], np.ndarray]) -> list[tuple[int, float]]:
    shares: dict[int, list[float]] = defaultdict(list)
    heldout = {line["model"]: line for line in lines if line["split"] == "heldout"}
    for line in lines:
        if line["split"] == "train" and mark in line["log2_p"]:
            before = np.mean(heldout[line["model"]]["log2_p"][mark])
            for n in SIZES:
                shares[n].append((after(line, heldout[line["model"]], n).mean() - before) / -before)
    return [(n, float(np.mean(values))) for n, values in shares.items()]


def read_observer(folders: Sequence[Path]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Reason -> label -> an observer's curve, from `observer.json` in a folder; empty where no folder has one."""
    for folder in folders:
        if (path := folder / "observer.json").is_file():
            lines = json.loads(path.read_text())
            by_reason = {reason: [line for line in lines if line.get("reason", "latent") == reason] for reason in OBSERVED}
            return {reason: draw(by_reason[reason]) for reason, draw in OBSERVED.items() if by_reason[reason]}
    return {}


# Reason -> label -> the curve of an observer of author E's start.
OBSERVED = {
    "latent": lambda lines: {
        "observer of authors, E": observer_gains(lines, "E"),
        f"the same, begins at E ({SCEPTICAL:g})": observer_gains(lines, "E", SCEPTICAL),
    },
    "gates": lambda lines: {
        "observer of authors": observer_gains(lines, "E"),
        f"observer of gates ({SCEPTICAL:g}: shut)": gate_gains(lines, "E", SCEPTICAL),
    },
}
