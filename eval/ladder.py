"""The ladder: what a held-out gain costs by exact pass rate and by the reason of it.

A cell is one start with all its arms. Reads run directories, and the `noise.json` of each start where it was measured.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bitsample_llm.information import binary_entropy_bits
from bitsample_llm.records import RecordError
from eval.arms import Arm, cumulative_at, flops_to_gain, paired_ratio, with_interval
from eval.findings import verdict_on

LATENT_MARKED = 0.9  # a skill is latent if the always-right mark shows it in nine of ten
UNACQUIRED_FACTOR = 1.2  # and unacquired if that mark shows no more of it than this
MATCHED_FACTOR = 1.5  # cells are compared across reasons if their pass rates are this close
SAMPLED = ("grpo", "rloo", "verdict_likelihood")  # arms that draw rollouts
WORDS = ("contradicted", "neither", "supported")  # verdicts where a high statistic speaks against the claim
DECOMPOSITION = ("sft", "pass_rate", "verdict_likelihood", "grpo", "rloo")  # one thing given up at a time


@dataclass(frozen=True)
class Cell:
    """One start: its exact pass rate, the reason of it, what was tried from it, and how noisy its gradients are."""

    start: str
    reason: str  # latent, unacquired or between
    pass_rate: float  # mean over held-out problems, exact
    surprisal_bits: float
    entropy_bits: float  # mean H(p) of a verdict
    arms: dict[str, Arm] = field(repr=False)
    noise: dict | None = field(repr=False, default=None)

    @property
    def essay_ratio(self) -> float:
        """Rollouts a label by the essay's bits: mean -log2 p over mean H(p)."""
        return self.surprisal_bits / self.entropy_bits

    @property
    def inverse_ratio(self) -> float:
        """Rollouts a label by policy-gradient algebra: a rollout pushes p times as hard as a label."""
        return 1 / self.pass_rate

    @property
    def coherence(self) -> float | None:
        """Cosine of the exact gradients of mean log p on training and on held-out problems."""
        return None if self.noise is None else self.noise["coherence"]["log_p"]

    def noise_scale(self, arm: str) -> dict | None:
        """Noise scale in samples with its interval; None where it was not measured or its signal is no more than noise."""
        found = None if self.noise is None else self.noise["arms"].get(arm)
        if found is None or found["noise_scale_in_samples"] is None:
            return None
        return {"mean": found["noise_scale_in_samples"], "interval": found["interval_in_samples"], "n": self.noise["num_prompts"]}

    def exchange(self, arm: str, key: str = "samples_to_target") -> dict | None:
        """Samples (or FLOPs) of an arm over SFT's for the same gain: geometric mean over seeds with its t interval, and how many
        seeds of each got there. None without these arms.
        """
        if arm not in self.arms or "sft" not in self.arms:
            return None
        reached = {name: len(self.arms[name].measured(key)) for name in (arm, "sft")}
        return paired_ratio(self.arms[arm], self.arms["sft"], key) | {"reached": reached[arm], "reached_sft": reached["sft"]}


def reason_of(pass_rate: float, marked_pass_rate: float | None) -> str:
    """Why a pass rate is below 1, by what the always-right author's mark shows on the same problems.

    >>> reason_of(0.1, 0.99), reason_of(0.1, 0.11), reason_of(0.95, 0.99)
    ('latent', 'unacquired', 'latent')
    """
    if marked_pass_rate is None:
        return "between"
    if marked_pass_rate > LATENT_MARKED:
        return "latent"
    return "unacquired" if marked_pass_rate <= UNACQUIRED_FACTOR * pass_rate else "between"


def noise_by_start(folder: Path | None) -> dict[str, dict]:
    """What `recipes/gradient_noise.py` wrote, by start."""
    found = {} if folder is None else [json.loads(path.read_text()) for path in sorted(folder.glob("*/noise.json"))]
    return {noise["start"]: noise for noise in found}


def cells_of(arms: Sequence[Arm], noise: dict[str, dict]) -> list[Cell]:
    """Cells, latent first, by ascending pass rate.

    Raises:
        RecordError: if no start has an SFT arm, which is what the others are measured by.
    """
    by_start: dict[str, dict[str, Arm]] = {}
    for arm in arms:
        by_start.setdefault(arm.start, {})[arm.name] = arm
    cells = []
    for start, found in by_start.items():
        if "sft" not in found:
            continue
        first = found["sft"].results[0]
        log2_p = np.array(list(first.log2_before.values()))
        cells.append(
            Cell(
                start=start,
                reason=reason_of(first.values["pass_rate_before"], first.values["pass_rate_before_marked"]),
                pass_rate=first.values["pass_rate_before"],
                surprisal_bits=float(-log2_p.mean()),
                entropy_bits=float(binary_entropy_bits(np.minimum(np.exp2(log2_p), 1.0)).mean()),
                arms=found,
                noise=noise.get(start),
            )
        )
    if not cells:
        raise RecordError("no start has an arm named sft, which the others are measured by")
    return sorted(cells, key=lambda cell: (cell.reason != "latent", cell.pass_rate))


def log_errors(cells: Sequence[Cell], arm: str, predicted: str) -> list[float]:
    """Natural log of the observed over the predicted exchange rate, of the cells where every seed of both arms got there."""
    errors = []
    for cell in cells:
        exchange = cell.exchange(arm)
        if exchange and exchange["n"] and exchange["n"] == len(cell.arms[arm].results):
            errors.append(math.log(exchange["mean"] / getattr(cell, predicted)))
    return errors


def by_seed(arm: Arm, key: str) -> dict[int, float]:
    """Values of an arm's seeds where measured."""
    return {result.seed: result.values[key] for result in arm.results if result.values[key] is not None}


@dataclass(frozen=True)
class Ladder:
    """All that the claims are tested on; what was not run is empty."""

    cells: Sequence[Cell] = ()
    push: Sequence[Cell] = ()
    long: Sequence[Cell] = ()
    memorised: Sequence[Arm] = ()
    slow: Sequence[Arm] = ()
    length: Sequence[Cell] = ()

    def latent(self) -> list[Cell]:
        """Cells whose skill is latent."""
        return [cell for cell in self.cells if cell.reason == "latent"]

    def unacquired(self) -> list[Cell]:
        """Cells whose skill is not there."""
        return [cell for cell in self.cells if cell.reason == "unacquired"]


def claim(number: int, text: str, statistic: str, result: dict, verdict: str) -> dict:
    """A row of the table."""
    return {"claim": number, "text": text, "statistic": statistic, **result, "verdict": verdict}


def not_run(number: int, text: str, statistic: str) -> dict:
    """A row of what was not measured."""
    return claim(number, text, statistic, {"mean": None, "interval": None, "n": 0}, "not run")


def undecidable(row: dict, why: str) -> dict:
    """A row whose number stands and whose interval decides nothing."""
    return row if row["verdict"] == "not run" else row | {"verdict": f"undecided: {why}"}


def judged(number: int, text: str, statistic: str, result: dict, margins, words, num: int, unmeasured: str) -> dict:
    """A row with the verdict of its interval; n counts seeds unless the statistic says otherwise."""
    return claim(number, text, statistic, result, verdict_on(result, margins, words, num, unmeasured))


def contrast(ladder: Ladder) -> list[dict]:
    """Samples of an arm that buy a gain from an unacquired start over those that buy it from a latent one, of the pairs of cells
    whose mean pass rates differ by at most `MATCHED_FACTOR`. The gain is the unacquired start's target, which the latent one
    passes on the way to its own.
    """
    rows = []
    for unacquired in ladder.unacquired():
        gain = unacquired.arms["sft"].results[0].values["target_bits"]
        near = [c for c in ladder.latent() if abs(math.log(c.pass_rate / unacquired.pass_rate)) <= math.log(MATCHED_FACTOR)]
        for latent in near:
            for arm in (arm for arm in DECOMPOSITION if arm in latent.arms and arm in unacquired.arms):
                samples = {name: samples_to(cell.arms[arm], gain) for name, cell in (("l", latent), ("u", unacquired))}
                both = sorted(set(samples["l"]) & set(samples["u"]))
                logs = with_interval([math.log(samples["u"][seed] / samples["l"][seed]) for seed in both])
                ratio = logs | {
                    "mean": None if logs["mean"] is None else math.exp(logs["mean"]),
                    "interval": logs["interval"] and [math.exp(bound) for bound in logs["interval"]],
                }
                rows.append(
                    {
                        "latent": latent.start,
                        "unacquired": unacquired.start,
                        "arm": arm,
                        "gain_bits": gain,
                        "pass_rates": [latent.pass_rate, unacquired.pass_rate],
                        "ratio": ratio,
                        "seeds": len(latent.arms[arm].results),
                        "reached": {"latent": len(samples["l"]), "unacquired": len(samples["u"])},
                    }
                )
    return rows


def samples_to(arm: Arm, gain_bits: float) -> dict[int, float]:
    """Samples to a held-out gain by seed, of the seeds that gained it."""
    found = {}
    for result in arm.results:
        if (flops := flops_to_gain(result.run, result.curve, gain_bits)) is not None:
            found[result.seed] = cumulative_at(result.run, float(result.curve.flops[0]), "samples/total", flops)
    return found
