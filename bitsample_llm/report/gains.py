"""From the lines of runs to gains: what each run gained at the number of updates that was chosen for it, and curves through them."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bitsample_llm.information import binary_entropy_bits
from bitsample_llm.records import RecordError

PACKED = "lines.parquet"
TUNED_AS_LABELS = (
    "passes",
    "as_many_labels",
    "passes_of_groups",
    "passes_in_rounds",
)  # read at the setting of as many labels as passed; the passes of groups at that of a search of their own, where there was one


@dataclass(frozen=True)
class GainedRun:
    """One reported run, read at the chosen rate and number of updates.

    Attributes:
        num_trained: labels, or rollouts that passed, that it was trained on; pairs or rollouts of the other arms.
        labels_per_pass: of `as_many_labels`; None for other arms.
        rounds: of `passes_in_rounds`; None for other arms.
        log2_p: of each held-out problem in the end; None where it was not written down, or is of another number of updates.
    """

    model: str
    seed: int
    num_trained: int
    gain_bits: float
    learning_rate: float
    updates: int
    labels_per_pass: float | None
    rounds: int | None
    log2_p: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Setting:
    """What a search chose.

    Attributes:
        is_inner_rate: whether the rates next to it were tried on both sides.
        is_inner_updates: whether longer runs were tried.
        last_doubling_bits: what the second half of the updates added to the gain of the tuning seeds.
    """

    learning_rate: float
    updates: int
    is_inner_rate: bool
    is_inner_updates: bool
    last_doubling_bits: float


@dataclass
class Rung:
    """A start of one mark or age, at all of its pretraining seeds.

    Attributes:
        pass_rate: of a model, mean over held-out problems.
        available_bits: of a model, mean over held-out problems of -log2 p.
        runs: (arm, n) -> its reported runs.
        settings: (model, arm, n) -> what the search of that start chose.
    """

    name: str
    reason: str
    pass_rate: dict[str, float]
    available_bits: dict[str, float]
    runs: dict[tuple[str, int], list[GainedRun]]
    settings: dict[tuple[str, str, int], Setting]

    @property
    def mean_pass_rate(self) -> float:
        """Mean over pretraining seeds."""
        return float(np.mean(list(self.pass_rate.values())))

    def sizes(self, arm: str) -> list[int]:
        """The n of an arm, ascending."""
        return sorted(n for other, n in self.runs if other == arm)


def read_lines(paths: Sequence[str | Path]) -> list[dict]:
    """Lines of the runs in folders: as they were written, or of a record, packed.

    Raises:
        RecordError: naming the folder that holds none, or the broken line.
    """
    lines = []
    for folder in map(Path, paths):
        files = sorted(folder.glob("*.jsonl"))
        if not files and not (folder / PACKED).is_file():
            raise RecordError(f"{folder} holds no lines of runs: make them with python -m eval.studies.exchange.make_data_limited")
        for path in files:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                try:
                    lines.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise RecordError(f"{path}, line {number} is not JSON ({error})") from error
        if not files:
            lines += pq.read_table(folder / PACKED).to_pylist()
    return lines


def longest_runs(lines: Sequence[dict]) -> list[dict]:
    """The lines without those of runs that were done again for longer."""
    place = ("rung", "model", "arm", "n", "seed", "learning_rate", "is_tuning", "labels_per_pass", "rounds")
    return list({tuple(map(line.get, place)): line for line in sorted(lines, key=lambda line: len(line["evaluations"]))}.values())


def pack_lines(folder: Path, record: Path) -> None:
    """Write the lines of a folder into one Parquet file of a record."""
    lines = longest_runs(read_lines([folder]))
    for line in lines:
        line["evaluations"] = [[float(value) for value in row] for row in line["evaluations"]]
    record.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys(name for line in lines for name in line)  # pyarrow takes those of the first line
    pq.write_table(pa.Table.from_pylist([{name: line.get(name) for name in names} for line in lines]), record / PACKED)


def chosen_setting(lines: Sequence[dict]) -> Setting:
    """Learning rate and number of updates at which the tuning seeds gained most on average."""
    gains: dict[tuple[float, int], list[float]] = defaultdict(list)
    for line in lines:
        for updates, log2_p, _ in line["evaluations"]:
            gains[line["learning_rate"], int(updates)].append(log2_p if math.isfinite(log2_p) else -math.inf)
    rate, updates = max(sorted(gains), key=lambda setting: float(np.mean(gains[setting])))
    rates, longest = sorted({rate for rate, _ in gains}), max(updates for _, updates in gains)
    added = float(np.mean(gains[rate, updates]) - np.mean(gains[rate, updates // 2]))
    return Setting(rate, updates, rates[0] < rate < rates[-1], updates < longest, added)


def nearest_size(sizes: Sequence[int], num_passed: int) -> int:
    """The number of labels whose setting so many passes take, nearest in the logarithm.

    >>> nearest_size([1, 4, 16], 0), nearest_size([1, 4, 16], 9)
    (1, 16)
    """
    return min(sizes, key=lambda size: abs(math.log(size / max(num_passed, 1))))


def rungs_of(lines: Sequence[dict]) -> list[Rung]:
    """The rungs, latent ones first, by falling pass rate. A start is read at what its own search chose, or, where there was none (the
    first record), at what the search of its rung's first pretraining seed chose. Runs at a setting of an earlier search, which grew
    later, are left out.
    """
    searches: dict[tuple, list[dict]] = defaultdict(list)
    rungs: dict[str, Rung] = {}
    lines = longest_runs(lines)
    for line in lines:
        if line["is_tuning"]:
            searches[line["rung"], line["model"], line["arm"], line["n"]].append(line)
    chosen = {place: chosen_setting(found) for place, found in searches.items()}
    searched_models = {rung: model for rung, model, *_ in reversed(list(chosen))}
    for line in sorted(lines, key=lambda line: (line["model"], line["seed"])):
        if line["is_tuning"]:
            continue
        name, arm, n = line["rung"], line["arm"], line["n"]
        rung = rungs.setdefault(name, Rung(name, line["reason"], {}, {}, {}, {}))
        model = line["model"] if any(place[:2] == (name, line["model"]) for place in chosen) else searched_models[name]
        tuned = arm, n
        has_own_search = arm == "passes_of_groups" and (name, model, arm, n) in chosen
        if arm in TUNED_AS_LABELS and not has_own_search:
            num_passed = line["num_trained"] if line.get("num_passed") is None else line["num_passed"]  # the first record has none
            sizes = sorted(size for of, by, kind, size in chosen if (of, by, kind) == (name, model, "labels"))
            tuned = "labels", nearest_size(sizes, num_passed)
        setting = rung.settings[(line["model"], *tuned)] = chosen[name, model, *tuned]
        log2_p = {int(at): value for at, value, _ in line["evaluations"]}
        _, before, pass_rate = line["evaluations"][0]
        if line["learning_rate"] != setting.learning_rate or (line["num_trained"] and setting.updates not in log2_p):
            continue
        rung.pass_rate[line["model"]], rung.available_bits[line["model"]] = pass_rate, -before
        gain = log2_p[setting.updates] - before if line["num_trained"] else 0.0
        trained = line["model"], line["seed"], line["num_trained"], gain, line["learning_rate"], setting.updates
        is_read_at_its_end = line.get("log2_p") is not None and (
            not line["num_trained"] or line["evaluations"][-1][0] == setting.updates
        )
        in_the_end = np.array(line["log2_p"]) if is_read_at_its_end else None
        rung.runs.setdefault((arm, n), []).append(GainedRun(*trained, line.get("labels_per_pass"), line.get("rounds"), in_the_end))
    return sorted(rungs.values(), key=lambda rung: (rung.reason, -rung.mean_pass_rate))


# ---- curves of one pretraining seed ----------------------------------------------------------------------------------


def gain_curve(rung: Rung, arm: str, model: str, rounds: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """n ascending, and the gain at each in bits: mean over training seeds, made monotone, since samples can be thrown away."""
    gains = {n: [r.gain_bits for r in rung.runs[arm, n] if (r.model, r.rounds) == (model, rounds)] for n in rung.sizes(arm)}
    means = {n: np.mean(of_size) for n, of_size in gains.items() if of_size}
    return np.array(list(means), float), np.maximum.accumulate([0.0, *means.values()])[1:]


def samples_to_gain(n: np.ndarray, gain_bits: np.ndarray, target_bits: float) -> float | None:
    """n at which a monotone curve reaches a gain, by interpolation in log n; None below the first n and beyond the last.

    >>> samples_to_gain(np.array([1.0, 4.0, 16.0]), np.array([0.5, 1.0, 2.0]), 1.5)
    8.0
    """
    above = np.flatnonzero(gain_bits >= target_bits)
    if not above.size or (above[0] == 0 and gain_bits[0] > target_bits):
        return None
    last = int(above[0])
    if last == 0:
        return float(n[0])
    share = (target_bits - gain_bits[last - 1]) / (gain_bits[last] - gain_bits[last - 1])
    return float(n[last - 1] * (n[last] / n[last - 1]) ** share)


def gain_of_labels(rung: Rung, num: np.ndarray, model: str) -> np.ndarray:
    """What `num` labels gain in bits, by interpolation in log2(1 + n) on the labels' curve; 0 at no label, flat beyond its end."""
    n, gain_bits = gain_curve(rung, "labels", model)
    return np.interp(np.log2(1 + np.asarray(num, float)), np.log2(1 + np.array([0, *n])), [0, *gain_bits])


def waiting_law(rung: Rung, target_bits: float, model: str) -> float | None:
    """n at which Binomial(n, p) labels gain the target on average."""
    rng = np.random.default_rng(0)
    sizes = np.unique(np.round(np.geomspace(1, 4**7, 120)))
    passes = [rng.binomial(int(n), rung.pass_rate[model], size=2000) for n in sizes]
    return samples_to_gain(
        sizes, np.maximum.accumulate([gain_of_labels(rung, draws, model).mean() for draws in passes]), target_bits
    )


def essay_rate(pass_rate: float | np.ndarray) -> float:
    """Rollouts per label by the essay, -log2 p / H(p): of a pass rate, or of those of problems, bits of a label over bits of a rollout.

    >>> essay_rate(0.5)
    1.0
    """
    return float(np.mean(-np.log2(pass_rate)) / np.mean(binary_entropy_bits(pass_rate)))


def variances(runs: Sequence[GainedRun]) -> tuple[float, float]:
    """Variance of the gain between the means of pretraining seeds, and within them between training seeds, in bits squared."""
    by_model: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        by_model[run.model].append(run.gain_bits)
    means = [np.mean(gains) for gains in by_model.values()]
    within = [np.var(gains, ddof=1) for gains in by_model.values() if len(gains) > 1]
    return float(np.var(means, ddof=1)) if len(means) > 1 else math.nan, float(np.mean(within)) if within else math.nan
