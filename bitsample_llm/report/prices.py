"""What does it cost to reach a held-out target and to keep it, runs counted that never did?

A first crossing can be a step too many, which is lost again; a price here is that of the first evaluation from which the target is
kept until `KEEP_FOR` times its FLOPs were spent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from bitsample_llm.estimators import first_kept
from bitsample_llm.records import RecordError, Run
from bitsample_llm.records.glossary import TRAINING_PHASES
from bitsample_llm.report.packed import pack_rows, read_rows

KEEP_FOR = 3.0
PACKED = "lines.parquet"
PACKED_AS_JSON = ("tags", "settings", "gains_elsewhere", "text_bits_per_token")
SETTINGS = (  # what a search may set
    *("learning_rate", "optim", "per_device_train_batch_size", "num_generations", "num_iterations", "trained_parameters"),
    *("max_completion_length", "answer_format"),
)


@dataclass(frozen=True)
class Target:
    """A state of the held-out problems: a share of the bits that there are to gain, or a mean pass rate."""

    name: str
    share: float | None = None
    pass_rate: float | None = None


TARGETS = (
    Target("half of the bits", share=0.5),
    Target("90 % of the bits", share=0.9),
    Target("p = .5", pass_rate=0.5),
    Target("p = .9", pass_rate=0.9),
)
HALF, NINE_TENTHS = TARGETS[:2]


@dataclass(frozen=True)
class PricedRun:
    """A finished run: what it was, and its state at each evaluation, before training first."""

    start: str
    arm: str
    seed: int
    tags: dict[str, str]  # facts that a study selects by, such as `rung`, `model` and `reason`
    settings: dict  # what a search sets
    log2_p_before: list[float]  # of each held-out problem before training
    flop_budget: float | None  # at which it would have ended; None where there was none
    updates: list[float]  # so far, at each evaluation, as the next two
    samples: list[float]
    flops: list[float]
    log2_p: list[float]  # mean over held-out problems, as the next two
    pass_rate: list[float]
    kl_bits: list[float | None]  # divergence from the start; None where it was not measured
    gains_elsewhere: dict[str, float]  # of each other evaluation set, what the mean of log2 p gained in the end, in bits
    # of each set of texts (`--also_evaluate`), mean -log2 p of a token before training and in the end; where a text ends is not counted
    text_bits_per_token: dict[str, list[float]] = field(default_factory=dict)
    # so far, at each evaluation: FLOPs without padding and repeated prompts, and seconds; empty in records that were packed without them
    useful_flops: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def rung(self) -> str:
        """The start without its model."""
        return self.tags.get("rung", self.start)

    @property
    def model(self) -> str:
        """The pretraining seed."""
        return self.tags.get("model", "")

    @property
    def pass_rates_before(self) -> np.ndarray:
        """Of the held-out problems before training."""
        return np.minimum(np.exp2(self.log2_p_before), 1.0)  # rounding may put one just above 1

    @property
    def available_bits(self) -> float:
        """Mean over held-out problems of -log2 p before training."""
        return -self.log2_p[0]

    def level(self, target: Target) -> tuple[list[float], float]:
        """The measured values, and what they have to reach."""
        if target.share is not None:
            return [value - self.log2_p[0] for value in self.log2_p], target.share * self.available_bits
        return self.pass_rate, target.pass_rate

    def has_before(self, target: Target) -> bool:
        """Whether the target holds before training."""
        values, level = self.level(target)
        return values[0] >= level

    def has_at_end(self, target: Target) -> bool:
        """Whether the target holds at the last evaluation."""
        values, level = self.level(target)
        return values[-1] >= level

    def kept_at(self, target: Target) -> int | None:
        """The evaluation at which a target was reached that was kept; None where none is known to be."""
        spent = first_kept(self.flops, *self.level(target), KEEP_FOR)
        return None if spent is None else self.flops.index(spent)

    def price(self, target: Target, amount: str = "flops") -> tuple[float, bool]:
        """What was spent until a kept target was reached, and True; or what was spent until the target cannot have been reached and kept,
        and False: one that was reached later would not have shown that it is kept.

        Linear between the evaluation that found it and the one before; the first update is the least that can be bought.
        """
        spent, index = getattr(self, amount), self.kept_at(target)
        if index is None:
            last = int(np.searchsorted(self.flops, self.flops[-1] / KEEP_FOR, side="right")) - 1
            return spent[max(last, 0)], False
        values, level = self.level(target)
        if index < 2 or not math.isfinite(values[index - 1]):
            return spent[index], True
        share = (level - values[index - 1]) / (values[index] - values[index - 1])
        return spent[index - 1] + share * (spent[index] - spent[index - 1]), True


def median_price(prices: Sequence[tuple[float, bool]]) -> float | None:
    """Kaplan-Meier median of prices, of which those marked False are lower bounds; None where fewer than half are known to be reached.

    >>> median_price([(1.0, True), (2.0, True), (3.0, False)])
    2.0
    """
    reached, bounds = ([value for value, is_reached in prices if is_reached == which] for which in (True, False))
    if not reached:
        return None
    survival = stats.ecdf(stats.CensoredData(uncensored=reached, right=bounds)).sf
    below = np.flatnonzero(survival.probabilities <= 0.5)
    return float(survival.quantiles[below[0]]) if below.size else None


def mean_log_price(run: PricedRun) -> float:
    """What a search makes small: the mean over the targets of the log of the price in FLOPs. A target that was not reached and kept counts as
    three times the budget (where there is none, of what was spent), times e to the share of it that is missing in the end, more than 1 where bits were lost.
    """
    missed, scores = math.log(KEEP_FOR * (run.flop_budget or run.flops[-1])), []
    for target in TARGETS:
        values, level = run.level(target)
        price, is_reached = run.price(target)
        if not run.has_before(target):
            share = min((values[-1] - values[0]) / (level - values[0]), 1)
            scores.append(math.log(price) if is_reached else missed + 1 - share)
    return float(np.mean(scores))


# ---- reading ---------------------------------------------------------------------------------------------------------


def priced_run(run: Run) -> PricedRun:
    """A finished run as it was recorded. An evaluation that found no number, since the run had diverged, has a pass rate of 0.

    Raises:
        RecordError: if the run has no exact pass rates.
    """
    table = run.table("evals")
    evals = table.filter(pc.equal(table["split"], "heldout"))
    step_R, log2_p_R, kl_R, flops_R = (
        evals[name].to_numpy().astype(float) for name in ("step", "log2_pass_rate", "kl_to_start_bits", "total_flops")
    )
    steps, first_rows = np.unique(step_R, return_index=True)
    at_T = [step_R == step for step in steps]
    log2_p_T, pass_rate_T = (np.array([values[at].mean() for at in at_T]) for values in (log2_p_R, np.exp2(log2_p_R)))
    if not steps.size or np.isnan(log2_p_T[0]):
        raise RecordError(f"{run.run_dir} has no exact held-out pass rates, and a price here is of those")
    amounts = {name: {0: 0.0} for name in ("samples", "useful_flops", "seconds")}
    for line in run.steps:
        amounts["samples"][line["step"]] = line["samples/total"]
        amounts["useful_flops"][line["step"]] = sum(line[f"flops_useful/{phase}"] for phase in TRAINING_PHASES)
        amounts["seconds"][line["step"]] = line["seconds/total"]
    at_each = {name: [by_step[int(step)] for step in steps] for name, by_step in amounts.items()}
    manifest = run.manifest
    config = {part: (manifest.get("config") or {}).get(part) or {} for part in ("training", "study", "choices")}
    options = config["training"] | config["study"] | config["choices"]
    return PricedRun(
        start=manifest["start"],
        arm=manifest["arm"],
        seed=manifest["seed"],
        tags=manifest.get("tags") or {},
        settings={name: options[name] for name in SETTINGS if options.get(name) is not None},
        log2_p_before=log2_p_R[at_T[0]].tolist(),
        flop_budget=config["study"].get("flop_budget"),
        updates=steps.tolist(),
        **at_each,
        flops=flops_R[first_rows].tolist(),
        log2_p=np.where(np.isnan(log2_p_T), -np.inf, log2_p_T).tolist(),
        pass_rate=np.nan_to_num(pass_rate_T).tolist(),
        kl_bits=[float(known.mean()) if (known := kl_R[at & ~np.isnan(kl_R)]).size else None for at in at_T],
        gains_elsewhere=_gains_elsewhere(table),
        text_bits_per_token=_text_bits_per_token(table),
    )


def _text_bits_per_token(evals: pa.Table) -> dict[str, list[float]]:
    """Surprisal per token of each set that had no pass rates from the start, at its first and at its last evaluation; infinite where the run had diverged."""
    without_rates = evals.filter(pc.and_(pc.is_null(evals["log2_pass_rate"]), pc.is_null(evals["num_rollouts"])))
    by_place: dict[str, dict[int, list]] = {}
    for row in without_rates.to_pylist():
        by_place.setdefault(row["split"], {}).setdefault(row["step"], []).append(row["token_log2_probabilities"])
    ends = {split: (min(by_step), max(by_step)) for split, by_step in sorted(by_place.items())}
    first = pc.min(evals["step"]).as_py()
    return {split: [_bits_per_token(by_place[split][step]) for step in steps] for split, steps in ends.items() if steps[0] == first}


def _bits_per_token(log2_p: Sequence[Sequence[float | None] | None]) -> float:
    """Mean surprisal of all tokens but each text's last, which ends it."""
    tokens = [value for of_text in log2_p for value in (of_text or [None])[:-1] or [None]]
    return math.inf if None in tokens else -sum(tokens) / len(tokens)


def _gains_elsewhere(evals: pa.Table) -> dict[str, float]:
    """Gain of each split but the held-out one from its first evaluation to its last; splits without a number are left out."""
    means: dict[str, dict[int, float]] = {}
    for row in evals.group_by(["split", "step"]).aggregate([("log2_pass_rate", "mean")]).to_pylist():
        if row["log2_pass_rate_mean"] is not None and row["split"] != "heldout":
            means.setdefault(row["split"], {})[row["step"]] = row["log2_pass_rate_mean"]
    return {split: of_step[max(of_step)] - of_step[min(of_step)] for split, of_step in sorted(means.items())}


def read_prices(paths: Sequence[str | Path]) -> list[PricedRun]:
    """The finished runs in the folders: run directories, or those of a record, packed.

    Raises:
        RecordError: for a folder that holds neither.
    """
    runs = read_rows(paths, PACKED, PricedRun, priced_run, PACKED_AS_JSON)
    if not runs:
        raise RecordError(f"{', '.join(map(str, paths))}: no finished runs")
    return runs


def pack_prices(runs: Sequence[PricedRun], folder: Path) -> None:
    """Write the runs into one Parquet file of a record."""
    pack_rows(runs, folder / PACKED, PACKED_AS_JSON)
