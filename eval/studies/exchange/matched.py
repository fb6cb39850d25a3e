"""Do labels teach less at an unacquired start than at a latent one, on held-out problems of the same distribution of pass rates?

Means of p that agree hide distributions that do not: from each pair of starts those held-out problems are taken whose sorted pass rates agree
one by one within a factor, and gains are read on them alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bitsample_llm.report.estimates import Estimate, number_text, over_seeds
from bitsample_llm.report.gains import Rung
from bitsample_llm.report.study import Table

STARTS = "starts.parquet"
FACTOR = 1.25
PAIRS = (
    ("latent F", "unacquired 0.03"),
    ("latent E", "unacquired 0.1"),
    ("latent D", "unacquired 0.3"),
    ("latent I", "unacquired 0.6"),
)
LEAST_MATCHED = 16  # fewer problems say nothing

Starts = dict[tuple[str, str], np.ndarray]  # (rung, model) -> log2 p of each held-out problem before training


def read_starts(folders: Sequence[str | Path]) -> Starts:
    """The starts in the folders, as they were written or of a record; none where a record has none."""
    lines = []
    for folder in map(Path, folders):
        lines += [json.loads(path.read_text()) for path in sorted(folder.glob("*.start.json"))]
        if (folder / STARTS).is_file():
            lines += pq.read_table(folder / STARTS).to_pylist()
    return {(line["rung"], line["model"]): np.array(line["log2_p"]) for line in lines}


def pack_starts(folder: Path, record: Path) -> None:
    """Write the starts of a folder into one Parquet file of a record."""
    lines = [{"rung": rung, "model": model, "log2_p": log2_p.tolist()} for (rung, model), log2_p in read_starts([folder]).items()]
    pq.write_table(pa.Table.from_pylist(lines), record / STARTS)


def matched_problems(first: np.ndarray, second: np.ndarray, factor: float = FACTOR) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the problems of two starts whose pass rates agree pair by pair within the factor: as many as there are, each once.

    >>> [part.tolist() for part in matched_problems(np.log2([0.1, 0.5, 0.9]), np.log2([0.52, 0.2, 0.11]))]
    [[0, 1], [2, 0]]
    """
    a, b = np.argsort(first), np.argsort(second)
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if abs(first[a[i]] - second[b[j]]) <= np.log2(factor):
            pairs.append((a[i], b[j]))
            i, j = i + 1, j + 1
        elif first[a[i]] < second[b[j]]:
            i += 1
        else:
            j += 1
    return tuple(np.array(pairs, int).reshape(-1, 2).T)


@dataclass(frozen=True)
class Matched:
    """What n labels gain on matched problems, as a share of the bits there, over the pretraining seeds of either start.

    Attributes:
        num_problems: matched, mean over the pairs of pretraining seeds.
        spread_bits: standard deviation of log2 p of all problems and of the matched ones, at the latent and at the unacquired start.
    """

    rungs: tuple[str, str]
    n: int
    shares: tuple[Estimate, Estimate]
    num_problems: float
    spread_bits: tuple[tuple[float, float], tuple[float, float]]


def matched_gains(rungs: Sequence[Rung], starts: Starts) -> list[Matched]:
    """A row per pair of rungs and number of labels that both ran; each pretraining seed of one start is held against all of the other."""
    by_name, found = {rung.name: rung for rung in rungs}, []
    for names in PAIRS:
        if not set(names) <= by_name.keys():
            continue
        pair = [by_name[name] for name in names]
        for n in sorted(set(pair[0].sizes("labels")) & set(pair[1].sizes("labels"))):
            ends = [ends_of(rung, n, starts) for rung in pair]
            shares: tuple[dict, dict] = ({}, {})
            numbers, spreads = [], []
            for model in ends[0]:
                for other in ends[1]:
                    before = [starts.get((rung.name, name)) for rung, name in zip(pair, (model, other), strict=True)]
                    if before[0] is None or before[1] is None:
                        continue
                    picked = matched_problems(*before)
                    if len(picked[0]) < LEAST_MATCHED:
                        continue
                    numbers.append(len(picked[0]))
                    spreads.append([(log2_p.std(), log2_p[at].std()) for log2_p, at in zip(before, picked, strict=True)])
                    for side, name in enumerate((model, other)):
                        at, log2_p = picked[side], before[side]
                        gained = np.mean([end[at].mean() for end in ends[side][name]]) - log2_p[at].mean()
                        shares[side].setdefault(name, []).append(gained / -log2_p[at].mean())
            if numbers:
                means = [over_seeds([float(np.mean(of_model)) for of_model in side.values()]) for side in shares]
                spread = np.mean(spreads, axis=0)
                found.append(Matched(names, n, tuple(means), float(np.mean(numbers)), tuple(map(tuple, spread))))
    return found


def ends_of(rung: Rung, n: int, starts: Starts) -> dict[str, list[np.ndarray]]:
    """Model -> log2 p of each problem at the end of its runs on n labels that say it; of a run that chose no update, as it began."""
    ends: dict[str, list[np.ndarray]] = {}
    for run in rung.runs["labels", n]:
        log2_p = run.log2_p if run.updates else starts.get((rung.name, run.model))
        if log2_p is not None:
            ends.setdefault(run.model, []).append(log2_p)
    return ends


def matched_table(matched: Sequence[Matched]) -> Table:
    """What labels gain at starts whose held-out problems have the same distribution of pass rates."""
    rows = [
        [
            "starts",
            "labels",
            "matched problems",
            "spread of log2 p, all (bits)",
            "matched (bits)",
            "share of the bits gained, latent",
            "unacquired",
        ]
    ]
    for row in matched:
        (all_latent, latent), (all_other, other) = row.spread_bits
        spreads = [f"{number_text(a)} / {number_text(b)}" for a, b in ((all_latent, all_other), (latent, other))]
        names = " / ".join(row.rungs)
        rows.append([names, str(row.n), number_text(row.num_problems), *spreads, *(share.text() for share in row.shares)])
    return Table(
        "Labels at matched distributions of pass rates",
        rows,
        f"Of each pair of starts the held-out problems whose sorted pass rates agree within a factor of {FACTOR}. Spread: standard deviation of log2 p, latent / unacquired.",
    )
