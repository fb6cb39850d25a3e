"""The essay's claims, each with its statistic, threshold, n, interval and verdict.

Thresholds are the constants below and were committed before the runs. A claim is supported or contradicted only if the whole
95 % interval lies on that side. What was not run is said to be. A number that an arm scores without learning, or that measures the
optimizer, has no verdict and says why.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bitsample_llm.records import Run
from eval.arms import Arm, flops_to_gain, with_interval
from eval.claims_of_noise import claim_4, claim_5
from eval.findings import estimate
from eval.ladder import WORDS, Cell, Ladder, by_seed, claim, judged, log_errors, not_run, undecidable

HIGH_PASS_RATE = (0.65, 0.95)  # claim 2: where the essay's bits say that RL tells more a sample
DECADE_MARGIN = math.log(1.5)  # claim 3: FLOPs of a half-decade of the pass rate over those of the half-decade before
ACQUIRED_SHARE = 0.05  # claim 9
ACQUIRED_PASS_RATE = 0.1
ROLLOUTS_MARGIN = 10  # claim 9: so rare that a tenth of a pass was to be expected among all rollouts of the problem
# Claim 2: with AdamW a gain follows learning rate x updates, whatever the samples say.
OPTIMIZER = "first crossings, each arm at a learning rate of its own, measure the optimizer"
PROCESS_RECORD = Path(__file__).resolve().parent / "records" / "2026-11-21_process_outcome" / "results.json"


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of y on x."""
    return float(np.polyfit(x, y, 1)[0])


def seeds_with_all(arms: Sequence[Arm], key: str) -> list[int]:
    """Seeds for which every arm has the value."""
    return sorted(set.intersection(*(set(by_seed(arm, key)) for arm in arms))) if arms else []


# ---- claim 1: no more is learned than the samples tell --------------------------------------------------------------------


def attained_fraction(run: Run, absorbed_bits: float) -> float:
    """Bits gained on the memorised problems over what the run's samples told of them at most."""
    ceiling = json.loads((run.run_dir / "ceiling.json").read_text())
    return absorbed_bits * ceiling["problems"] / ceiling["ceiling_bits"]


def claim_1(ladder: Ladder) -> list[dict]:
    """The instrument's own check, an arm a row."""
    text = "A sample tells at most -log2 p (a label) or H (a verdict): nothing learns more of random labels than its samples told"
    statistic = "bits gained on memorised labels over the most that the run's samples told, {}"
    rows = []
    for arm in ladder.memorised:
        result = with_interval([attained_fraction(r.run, r.values["absorbed_bits"]) for r in arm.results])
        row = judged(1, text, statistic.format(arm.name), result, (1, 1), WORDS, len(arm.results), "")
        learned = result["interval"] is None or result["interval"][0] > 0  # an arm that lost bits stays below any ceiling
        rows.append(row if learned else undecidable(row, "the arm did not learn the labels"))
    return rows or [not_run(1, text, statistic.format("each arm"))]


# ---- claim 2: where RL pays, and which prediction it follows --------------------------------------------------------------


def claim_2(ladder: Ladder) -> list[dict]:
    """High pass rates, the shape of the exchange rate, and the slope of the push; numbers without a verdict, and why."""
    text = "At p from 0.65 to 0.95 a verdict tells more than a label, so RLOO learns no less per FLOP than SFT"
    rows = []
    for cell in ladder.cells:
        if HIGH_PASS_RATE[0] <= cell.pass_rate <= HIGH_PASS_RATE[1] and (result := cell.exchange("rloo", "flops_to_target")):
            reached = f"{result['reached_sft']} seeds of sft and {result['reached']} of rloo gained it"
            statistic = f"FLOPs to the same gain, rloo over sft, {cell.start} (p = {cell.pass_rate:.2f})"
            row = judged(2, text, statistic, result, (1, 1), WORDS, len(cell.arms["rloo"].results), reached)
            rows.append(undecidable(row, OPTIMIZER))
    rows = rows or [not_run(2, text, "FLOPs to the same gain, rloo over sft")]
    for reason, cells in (("latent", ladder.latent()), ("unacquired", ladder.unacquired())):
        for arm in ("grpo", "rloo"):
            rows.append(_prediction_row(reason, cells, arm))
    return [*rows, _push_row(ladder.push)]


def _prediction_row(reason: str, cells: Sequence[Cell], arm: str) -> dict:
    """Root mean square of the log error of 1/p less that of the essay's ratio, over cells; interval by leaving cells out."""
    text = f"Rollouts a label follow -log2 p / H(p) and not 1/p ({reason} cells)"
    inverse, essay = (np.array(log_errors(cells, arm, name)) for name in ("inverse_ratio", "essay_ratio"))
    statistic = f"{arm}, {reason}: root mean square log error of 1/p minus that of -log2 p / H(p), n cells, jackknife over cells"
    if len(essay) < 3:
        return not_run(2, text, statistic)
    errors = [np.sqrt(np.mean(inverse[kept] ** 2)) - np.sqrt(np.mean(essay[kept] ** 2)) for kept in _left_out(len(essay))]
    whole = float(np.sqrt(np.mean(inverse**2)) - np.sqrt(np.mean(essay**2)))
    pseudo = with_interval([len(essay) * whole - (len(essay) - 1) * error for error in errors])
    result = pseudo | {
        "mean": whole,
        "rms_inverse": float(np.sqrt(np.mean(inverse**2))),
        "rms_essay": float(np.sqrt(np.mean(essay**2))),
    }
    statistic += f" (1/p: {result['rms_inverse']:.2f}, essay: {result['rms_essay']:.2f})"
    return undecidable(claim(2, text, statistic, result, ""), OPTIMIZER)


def _left_out(n: int) -> list[np.ndarray]:
    return [np.delete(np.arange(n), index) for index in range(n)]


def push(arm: Arm) -> dict[int, float]:
    """Held-out gain over learning rate and updates of plain SGD, by seed."""
    rate = {r.seed: r.run.manifest["config"]["training"]["learning_rate"] for r in arm.results}
    gains, updates = by_seed(arm, "absorbed_bits"), by_seed(arm, "updates")
    return {seed: gains[seed] / (rate[seed] * updates[seed]) for seed in gains}


def push_slope(cells: Sequence[Cell], arm: str, seeds: Sequence[int]) -> float | None:
    """Slope of log(mean push of the arm over that of SFT) on log p; None where a mean is not positive."""
    ratios = [
        np.mean([push(cell.arms[arm])[s] for s in seeds]) / np.mean([push(cell.arms["sft"])[s] for s in seeds]) for cell in cells
    ]
    return slope(np.log([cell.pass_rate for cell in cells]), np.log(ratios)) if min(ratios) > 0 else None


def push_slope_estimate(cells: Sequence[Cell], arm: str) -> dict:
    """The slope over all seeds with the t interval of its jackknife over them: a single seed may see no pass at the lowest rung."""
    seeds = seeds_with_all([cell.arms[name] for cell in cells for name in (arm, "sft")], "absorbed_bits")
    whole = push_slope(cells, arm, seeds)
    parts = [push_slope(cells, arm, [seed for seed in seeds if seed != left_out]) for left_out in seeds]
    if whole is None or None in parts or len(seeds) < 3:
        return {"mean": whole, "interval": None, "n": len(seeds)}
    return with_interval([len(seeds) * whole - (len(seeds) - 1) * part for part in parts]) | {"mean": whole}


def _push_row(cells: Sequence[Cell]) -> dict:
    text = "Under plain SGD the push of a rollout falls with p as the essay's bits do (slope 1.10), not as p (1.00)"
    cells = [cell for cell in cells if {"sft", "rloo"} <= set(cell.arms)]
    if len(cells) < 3:
        return not_run(2, text, "log-log slope of the push, rloo over sft, on p")
    result = push_slope_estimate(cells, "rloo")
    others = [(arm, push_slope_estimate(cells, arm)) for arm in ("pass_rate", "grpo") if all(arm in cell.arms for cell in cells)]
    told = ", ".join(f"{arm} {estimate(found)}" for arm, found in others)
    statistic = f"log-log slope of the push, rloo over sft, on p over {len(cells)} latent rungs ({told})"
    return undecidable(claim(2, text, statistic, result, ""), "the gradient of p is p times that of log p; this checks the code")


# ---- claim 3: the same compute for every decade ---------------------------------------------------------------------------


def half_decade_flops(arm: Arm) -> list[list[float]]:
    """FLOPs that each seed spent on every half-decade of the mean pass rate between its start and 1/2."""
    found = []
    for result in arm.results:
        curve = result.curve
        lowest, highest = 2 * math.log10(curve.pass_rate[0]), 2 * math.log10(0.5)
        levels = 10 ** (np.arange(math.ceil(lowest + 0.02), math.floor(highest) + 1) / 2)
        highest_yet = np.maximum.accumulate(curve.pass_rate)
        crossings = [float(np.interp(level, highest_yet, curve.flops)) for level in levels if highest_yet[-1] >= level]
        found.append(np.diff([curve.flops[0], *crossings]).tolist() if len(crossings) == len(levels) else [])
    return found


def claim_3(ladder: Ladder) -> list[dict]:
    """A row a start."""
    text = "SFT spends the same compute on every decade of the pass rate"
    statistic = "slope of log FLOPs a half-decade on its number, {}; margin ±ln 1.5"
    words = ("contradicted: later ones cost more", "supported", "contradicted: later ones cost less")
    rows = []
    for arm in ladder.slow:
        spent = [flops[1:] for flops in half_decade_flops(arm)]  # the first is cut by where the start happens to lie
        slopes = [slope(range(len(flops)), np.log(flops)) for flops in spent if len(flops) >= 2 and min(flops) > 0]
        result = with_interval(slopes)
        unmeasured = f"{len(slopes)} of {len(arm.results)} seeds crossed at least three half-decades"
        row = (statistic.format(arm.start), result, (-DECADE_MARGIN, DECADE_MARGIN), words, len(arm.results), unmeasured)
        rows.append(judged(3, text, *row))
    return rows or [not_run(3, text, statistic.format("each start"))]


# ---- claim 8: process reward ----------------------------------------------------------------------------------------------


def claim_8(record: Path = PROCESS_RECORD) -> list[dict]:
    """What the ablation of process rewards found, from its committed record."""
    found = [item for item in json.loads(record.read_text())["findings"] if "claim 8" in item["question"]]
    text = "Process reward buys bits: credit by the first error is absorbed at least three times as fast as outcome at p = 0.003"
    keys = ("mean", "interval", "n")
    return [claim(8, text, item["statistic"], {key: item[key] for key in keys}, item["verdict"]) for item in found]


# ---- claim 9: nothing but what is latent ----------------------------------------------------------------------------------


def acquired_shares(arm: Arm) -> tuple[list[float], float]:
    """Of each seed: of the training problems too rare to be sampled, the share that ended above `ACQUIRED_PASS_RATE`; and the mean
    number of these problems."""
    shares, numbers = [], []
    for result in arm.results:
        curve = pass_rates(result.run, "train")
        rare = curve[0] < 1 / (ROLLOUTS_MARGIN * max(result.values["samples"] / len(curve[0]), 1))
        numbers.append(int(rare.sum()))
        if rare.any():
            shares.append(float((curve[1][rare] > ACQUIRED_PASS_RATE).mean()))
    return shares, float(np.mean(numbers))


def gained(arm: Arm) -> bool:
    """Whether an arm absorbed held-out bits: its whole interval lies above 0."""
    interval = arm.summary("absorbed_bits")["interval"]
    return interval is not None and interval[0] > 0


def pass_rates(run: Run, split: str) -> np.ndarray:
    """(2, problems) exact pass rates at the first and the last evaluation of a split."""
    rows = [row for row in run.table("evals").to_pylist() if row["split"] == split]
    first, last = min(row["step"] for row in rows), max(row["step"] for row in rows)
    at = {(row["step"], row["problem_id"]): row["log2_pass_rate"] for row in rows}
    problems = sorted({row["problem_id"] for row in rows})
    return np.exp2([[at[step, problem] for problem in problems] for step in (first, last)])


def claim_9(ladder: Ladder) -> list[dict]:
    """A row an unacquired start and arm, the random reward beside GRPO as its control."""
    text = "RLVR only elicits: of unacquired problems too rare for their rollouts, at most 5 % are acquired"
    statistic = (
        f"share of training problems with p < 1/({ROLLOUTS_MARGIN} x their rollouts) that reach p > {ACQUIRED_PASS_RATE}, {{}}"
    )
    rows = []
    for cell in ladder.long:
        for name in ("grpo", "random"):
            if cell.reason == "unacquired" and name in cell.arms:
                (shares, number), seeds = acquired_shares(cell.arms[name]), len(cell.arms[name].results)
                place = statistic.format(f"{name}, {cell.start}: {number:.0f} such problems a seed")
                unmeasured = f"{len(shares)} of {seeds} seeds have such problems"
                row = judged(9, text, place, with_interval(shares), (ACQUIRED_SHARE,) * 2, WORDS, seeds, unmeasured)
                if row["verdict"] == "supported" and name == "random":
                    row["verdict"] = "control"
                elif row["verdict"] == "supported" and not gained(cell.arms[name]):
                    row = undecidable(row, "an arm that learns nothing scores the same, and this one gained no held-out bits")
                rows.append(row)
    return rows or [not_run(9, text, statistic.format("grpo and a random reward"))]


# ---- claim 11: does more pretraining pay? ---------------------------------------------------------------------------------


def claim_11(ladder: Ladder) -> list[dict]:
    """Slope over the ages of one pretraining run, its FLOPs charged."""
    text = "More pretraining raises the bits that RL absorbs per FLOP, the pretraining charged"
    statistic = "slope of log(gain / (pretraining + RL FLOPs)) on log pretraining FLOPs, grpo, the same gain at {} ages"
    cells = [c for c in ladder.unacquired() if "age" in c.start and "grpo" in c.arms]
    cells = [c for c in cells if all(r.run.manifest.get("pretraining_flops") for r in c.arms["grpo"].results)]
    cells = [c for c in cells if len(c.arms["grpo"].measured("flops_to_target")) == len(c.arms["grpo"].results)]
    if len(cells) < 3:
        unmeasured = {"mean": None, "interval": None, "n": 0}
        return [
            claim(11, text, statistic.format(len(cells)), unmeasured, f"undecided: every seed gained it at {len(cells)} ages only")
        ]
    slopes, plain, gain = [], [], min(c.arms["grpo"].results[0].values["target_bits"] for c in cells)
    for seed in seeds_with_all([cell.arms["grpo"] for cell in cells], "flops_to_target"):
        runs = [next(r for r in cell.arms["grpo"].results if r.seed == seed) for cell in cells]
        before = [run.run.manifest["pretraining_flops"] for run in runs]
        spent = [flops_to_gain(run.run, run.curve, gain) for run in runs]
        slopes.append(-slope(np.log(before), np.log(np.array(before) + spent)))
        plain.append(-slope(np.log(before), np.log(spent)))
    statistic = statistic.format(len(cells)) + f" ({gain:g} bits; not charged: {np.mean(plain):.2f})"
    return [judged(11, text, statistic, with_interval(slopes), (0, 0), WORDS[::-1], len(cells[0].arms["grpo"].results), "")]


# ---- claim 12: are RL's bits worth more? ----------------------------------------------------------------------------------

TRANSFER_SPLITS = {"shifted": "one digit more", "other_operation": "the other operation", "other_format": "the other format"}


def transfer(arm: Arm, split: str) -> dict[int, float]:
    """Bits absorbed on shifted problems per bit absorbed in distribution, by seed."""
    gained, shifted = by_seed(arm, "absorbed_bits"), by_seed(arm, f"absorbed_bits_{split}")
    return {seed: shifted[seed] / gained[seed] for seed in shifted if gained[seed] > 0}


def claim_12(ladder: Ladder) -> list[dict]:
    """GRPO minus SFT, at the same gain in distribution, averaged over the cells where both got there in every seed."""
    text = "RL's bits are worth more: at the same gain in distribution GRPO absorbs more than SFT on {}"
    rows = []
    for reason, cells in (("latent", ladder.latent()), ("unacquired", ladder.unacquired())):
        for split, name in TRANSFER_SPLITS.items():
            pairs = [(transfer(c.arms["grpo"], split), transfer(c.arms["sft"], split)) for c in cells if gained_by_both(c)]
            pairs = [(grpo, sft) for grpo, sft in pairs if grpo and sft]
            seeds = sorted(set.intersection(*({*grpo} & {*sft} for grpo, sft in pairs))) if pairs else []
            result = with_interval([float(np.mean([grpo[seed] - sft[seed] for grpo, sft in pairs])) for seed in seeds])
            statistic = f"bits there a bit in distribution, grpo minus sft, mean of {len(pairs)} {reason} cells"
            if pairs:
                statistic += f" (sft {np.mean([sft[s] for _, sft in pairs for s in seeds]):.2f})"
            num = len(cells[0].arms["sft"].results) if cells else 1
            row = (result, (0, 0), ("supported", "neither", "contradicted"), num, "no cell in which both arms gained the target")
            rows.append(judged(12, text.format(name), statistic, *row) if pairs else not_run(12, text.format(name), statistic))
    return rows


def gained_by_both(cell: Cell) -> bool:
    """Whether every seed of SFT and of GRPO reached the target."""
    exchange = cell.exchange("grpo")
    return bool(exchange) and exchange["n"] == len(cell.arms["grpo"].results)


CLAIMS: tuple[Callable[[Ladder], list[dict]], ...] = (
    *(claim_1, claim_2, claim_3, claim_4, claim_5),
    lambda ladder: claim_8(),
    *(claim_9, claim_11, claim_12),
)


def claims_table(ladder: Ladder) -> list[dict]:
    """All rows."""
    return [row for test in CLAIMS for row in test(ladder)]
