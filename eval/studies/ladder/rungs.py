"""What was recorded of the ladder: the runs of each part, and how noisy gradients are at each rung."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bitsample_llm.records import RecordError, Run, read_run
from bitsample_llm.report.curve import evaluated_curve
from bitsample_llm.report.estimates import Estimate, over_seeds
from bitsample_llm.report.runs import Arm, MeasuredRun, arms_of, measured_run, run_dirs_in

REASONS = ("latent", "unacquired", "deep")  # why a pass rate is below 1; the tag of a start says which


@dataclass(frozen=True)
class NoiseAt:
    """Gradient noise at one rung, which `make_noise.py` measured without training."""

    measured: dict = field(repr=False)

    @property
    def start(self) -> str:
        """Name of the start."""
        return self.measured["start"]

    @property
    def rung(self) -> str:
        """The start without its model."""
        return self.measured["tags"].get("rung", self.start)

    @property
    def model(self) -> str:
        """The pretraining seed."""
        return self.measured["tags"].get("model", "")

    @property
    def reason(self) -> str | None:
        """Why its pass rate is below 1."""
        return self.measured["tags"].get("reason")

    @property
    def pass_rate(self) -> float:
        """Mean over its prompts, exact."""
        return self.measured["mean_pass_rate"]

    @property
    def coherence(self) -> float:
        """Cosine of the exact gradients of mean log p on training and on held-out problems."""
        return self.measured["coherence"]["log_p"]

    def scale(self, estimator: str) -> Estimate | None:
        """Noise scale in samples, n prompts; None where its signal is no more than noise or it was not measured."""
        found = self.measured["arms"].get(estimator)
        if found is None or found["noise_scale_in_samples"] is None:
            return None
        return Estimate(found["noise_scale_in_samples"], tuple(found["interval_in_samples"]), self.measured["num_prompts"])


@dataclass(frozen=True)
class Ladder:
    """Arms by part of the study (decades, acquire, memorise), and noise by ascending pass rate; what was not run is empty."""

    parts: dict[str, list[Arm]]
    noise: Sequence[NoiseAt] = ()

    def part(self, name: str) -> list[Arm]:
        """Arms of a part; none where it was not run."""
        return self.parts.get(name, [])

    def noise_of(self, reason: str) -> list[NoiseAt]:
        """Where noise was measured for that reason of the pass rate."""
        return [at for at in self.noise if at.reason == reason]


def read_ladder(paths: Sequence[str]) -> Ladder:
    """The finished runs at the paths: an unfinished ladder is read as far as it got.

    Raises:
        RecordError: for a path without runs, or a run that says of no part that it belongs to it.
    """
    by_part, noise = defaultdict(list), []
    for run_dir in run_dirs_in(paths):
        if (run_dir / "noise.json").is_file():
            noise.append(NoiseAt(json.loads((run_dir / "noise.json").read_text())))
        elif (run := read_run(run_dir)).manifest["state"] == "finished":
            if "part" not in run.manifest.get("tags", {}):
                raise RecordError(f"{run_dir} has no tag `part`: it is no run of the ladder; compare it with python -m eval.report")
            by_part[run.manifest["tags"]["part"]].append(measured_run(run))
    if not by_part and not noise:
        raise RecordError(f"no finished run of the ladder in {', '.join(map(str, paths))}: make ladder runs it")
    parts = {part: arms_of(runs) for part, runs in by_part.items()}
    return Ladder(parts, sorted(noise, key=lambda at: at.pass_rate))


def by_rung(arms: Sequence[Arm]) -> dict[tuple[str, str], list[Arm]]:
    """(rung, name) -> the arms of that name, one per pretraining seed."""
    grouped: dict[tuple[str, str], list[Arm]] = defaultdict(list)
    for arm in arms:
        grouped[arm.tags.get("rung", arm.start), arm.name].append(arm)
    return dict(grouped)


def over_models(arms: Sequence[Arm], value: Callable[[MeasuredRun], float | None]) -> Estimate:
    """Mean over pretraining seeds of a number of their runs, averaged over training seeds first; None for one of which no run has it."""
    means = []
    for arm in arms:
        known = [number for number in map(value, arm.runs) if number is not None]
        means.append(float(np.mean(known)) if known else None)
    return over_seeds(means)


def pass_rates(run: Run, split: str) -> np.ndarray:
    """(2, problems) exact pass rates at the first and the last evaluation of a split."""
    return np.exp2(evaluated_curve(run, split).log2_p_TP[[0, -1]])
