"""What has a training told so far, and what has it cost? Metrics of the glossary, summed up over each step and all processes."""

import time
from collections import defaultdict

import numpy as np
import torch

from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.records.glossary import PHASES, TRAINING_PHASES, is_cumulative
from bitsample_llm.records.writer import finite

PETA = 1e15


class Totals:
    """Sums up what observers say and a FLOP counter counts."""

    def __init__(self, trainer, counter: FlopCounter):
        self._trainer, self._counter = trainer, counter
        self.cumulative: dict[str, float] = defaultdict(float)  # from the start of the run; the same on every process
        self.last_line: dict = {}  # the last step's
        self._counted = {key: np.zeros(len(PHASES)) for key in counter.totals()}  # what is in `cumulative` already
        self._encoder_flops = 0.0  # likewise
        self._step_values: dict[str, list[float]] = defaultdict(list)
        self._informative_fraction: float | None = None  # of the generation being trained on, over all its steps
        self.restart_clock()

    @property
    def total_flops(self) -> float:
        """Executed training FLOPs of all processes so far; the same number on every process."""
        return sum(self.cumulative[f"flops/{phase}"] for phase in TRAINING_PHASES)

    def observe(self, key: str, values: list[float]) -> None:
        """Add values whose mean over the step is the metric `key`."""
        self._step_values[key] += values

    def count(self, key: str, amount: float) -> None:
        """Add an amount to the cumulative metric `key`."""
        self.cumulative[key] += amount

    def restart_clock(self) -> None:
        """Begin the next step's time: what came before is no part of it."""
        self._clock = time.perf_counter()

    def uncounted_flops(self) -> float:
        """Training FLOPs of all processes since they were last summed up; the same number on every process."""
        new = dict(zip(PHASES, np.array(self._counter.totals()["flops"]) - self._counted["flops"], strict=True))
        return float(self._summed(sum(new[phase] for phase in TRAINING_PHASES)))

    def count_flops(self) -> None:
        """Add what the counters of all processes saw since the last call; seconds are of the first process."""
        totals = {key: np.array(values) for key, values in self._counter.totals().items()}
        new = {key: values - self._counted[key] for key, values in totals.items()}
        new["flops"], new["flops_useful"] = self._summed(np.stack([new["flops"], new["flops_useful"]]))
        self._counted = totals
        for key, values in new.items():
            for phase, value in zip(PHASES, values.tolist(), strict=True):
                self.cumulative[f"{key}/{phase}"] += value
        self.cumulative["flops/total"] = self.total_flops
        if self._counter.encoder_flops is not None:
            new = self._counter.encoder_flops - self._encoder_flops
            self.cumulative["flops/encoders"] += float(self._summed(new))
            self._encoder_flops += new

    def _summed(self, values) -> np.ndarray:
        if self._trainer.accelerator.num_processes == 1:
            return np.asarray(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self._trainer.args.device)
        return self._trainer.accelerator.reduce(tensor, "sum").cpu().numpy()

    def begin(self) -> None:
        """Take in what the counter saw before there was a trainer."""
        self.count_flops()
        self.cumulative["seconds/total"] += sum(self.cumulative[f"seconds/{phase}"] for phase in TRAINING_PHASES)

    def resume(self, last: dict, uncounted_flops: float, spent_here: bool) -> None:
        """Count on from a step line; `spent_here`: this process has trained beyond that line, and what its counter saw since was
        spent in vain.
        """
        lost = 0.0
        if spent_here:
            self._counted = {key: np.array(values) for key, values in self._counter.totals().items()}
            self._encoder_flops = self._counter.encoder_flops or 0.0
            lost = uncounted_flops + self.total_flops - self.last_line.get("flops/total", 0.0)
        self.cumulative.clear()
        # null stays unknown: NaN here, whatever is added to it
        self.cumulative |= {key: np.nan if value is None else value for key, value in last.items() if is_cumulative(key)}
        self.cumulative["flops/lost"] += lost
        self.last_line = last
        self._step_values.clear()
        self._informative_fraction = None

    def end_step(self) -> None:
        flops_before, evaluation_seconds = self.total_flops, self.cumulative["seconds/evaluation"]
        self.count_flops()
        evaluation_seconds = self.cumulative["seconds/evaluation"] - evaluation_seconds  # exact pass rates of the prompts
        self.cumulative["seconds/total"] += time.perf_counter() - self._clock - evaluation_seconds
        if informative := self._step_values.get("group/informative_fraction"):
            self._informative_fraction = float(np.mean(informative))
        if self._informative_fraction is not None:
            dead_flops = self.cumulative["flops/dead_group_fraction"] * flops_before
            dead_flops += (1 - self._informative_fraction) * (self.total_flops - flops_before)
            self.cumulative["flops/dead_group_fraction"] = dead_flops / self.total_flops

    def step_line(self, place: dict) -> dict:
        """The line of the step that has ended; the next one begins."""
        losses = self._step_values.pop("train/loss", [])  # the trainer scales each micro-batch's part, so they add up
        measured = {key: float(np.mean(values)) for key, values in self._step_values.items() if values}
        measured["train/loss"] = float(np.sum(losses)) if losses else None
        measured["train/learning_rate"] = float(self._trainer.lr_scheduler.get_last_lr()[0])
        if "group/pass_rate_estimate" in measured:
            measured["group/num_rollouts"] = len(self._step_values["group/pass_rate_estimate"])
        if "bits/offered_total" in self.cumulative and self.total_flops:
            measured["bits/offered_per_petaflop"] = self.cumulative["bits/offered_total"] / self.total_flops * PETA
        self.cumulative.setdefault("flops/lost", 0.0)
        self.last_line = finite({**place, **measured, **self.cumulative})
        self._step_values.clear()
        return self.last_line

    @property
    def progress(self) -> dict[str, str]:
        """The last step in a few words for a progress line: pass rate, offered bits per sample and per petaFLOP."""
        line = self.last_line
        pass_rate = line.get("group/pass_rate", line.get("group/pass_rate_estimate"))
        shown = {"loss": line.get("train/loss")} if pass_rate is None else {"pass": pass_rate}
        shown |= {"bits/sample": line.get("bits/offered_per_sample"), "bits/PFLOP": line.get("bits/offered_per_petaflop")}
        return {name: f"{value:.3g}" for name, value in shown.items() if value is not None}
