"""What SFT shows of its samples: the surprisal of every labelled sequence. B rows of a batch of this process, T tokens."""

import math
from abc import ABC, abstractmethod

import torch
from accelerate.utils import gather_object

from bitsample_llm.meter.forward_passes import real_sequences
from bitsample_llm.meter.hooks import TrainingLosses

NATS_PER_BIT = math.log(2)


def surprisal_bits_of(logp: float) -> float:
    """Bits of what has this log-probability in nats, which rounding may put just above 0; NaN where there is none."""
    return max(-logp / NATS_PER_BIT, 0.0)  # in this order: NaN is not taken for 0


class SampleObserver(ABC):
    """Records what each sample of a batch offers at the step that trains on it; a subclass says what that is, and how many tokens there are."""

    generation_step = None

    def __init__(self, trainer, meter):
        self.trainer, self.meter = trainer, meter
        TrainingLosses(trainer, meter.counter.causal_lm, self._record)

    @abstractmethod
    def rows(self, inputs: dict, logps_BT: torch.Tensor | None) -> list[dict]:
        """Rows of the table `prompts` for the samples of a batch; without offered bits where its loss does not tell. `surprisal_bits`, where there are any, are of
        a labelled answer.
        """

    @abstractmethod
    def num_tokens(self, inputs: dict) -> tuple[int, int | None]:
        """Real tokens of a batch, and those of them that are the completions'; None where the trainer does not tell them apart."""

    def _record(self, loss: float, inputs: dict, logps_BT: torch.Tensor | None) -> None:
        totals = self.meter.totals
        totals.observe("train/loss", [loss])
        parts = gather_object([(self.rows(inputs, logps_BT), *self.num_tokens(inputs))])
        rows = [row for part, *_ in parts for row in part]
        totals.count("samples/total", len(rows))
        if parts[0][2] is not None:
            totals.count("tokens/completion", sum(completion for *_, completion in parts))
            totals.count("tokens/prompt", sum(num - completion for _, num, completion in parts))
        totals.observe("bits/surprisal_per_sample", [row.pop("surprisal_bits") for row in rows if "surprisal_bits" in row])
        if bits := [row["offered_bits"] for row in rows if "offered_bits" in row]:
            totals.count("bits/offered_total", sum(bits))
            totals.observe("bits/offered_per_sample", bits)
        self.meter.add_rows("prompts", rows)

    def end_step(self) -> None:  # noqa: B027 - there is nothing to do
        """Nothing is held back: samples are recorded as they are trained on."""

    end_generation = end_step

    def pending_rollouts(self, alone: bool = False) -> list[dict]:
        """None: see `end_step`."""
        return []

    def resume(self, generation_step: int) -> None:  # noqa: B027
        """Nothing to go on from: see `end_step`."""


class LabelObserver(SampleObserver):
    """Records the surprisal of every labelled sequence at the step that trains on it."""

    def __init__(self, trainer, meter):
        super().__init__(trainer, meter)
        self._problem_id_by_tokens = self._tokens_to_problem_ids(trainer.train_dataset)

    @staticmethod
    def _tokens_to_problem_ids(dataset) -> dict[tuple[int, ...], str]:
        if not {"problem_id", "input_ids"} <= set(getattr(dataset, "column_names", None) or ()):
            return {}
        return {tuple(row["input_ids"]): row["problem_id"] for row in dataset.select_columns(["problem_id", "input_ids"])}

    def rows(self, inputs: dict, logps_BT: torch.Tensor | None) -> list[dict]:
        ids_BT = inputs["input_ids"].cpu()
        if logps_BT is not None:
            logps_BT = logps_BT.double().cpu()
        rows, sequences = [], real_sequences(ids_BT, inputs)
        for row, start, end in sequences:
            line = {"problem_id": self._problem_id_by_tokens.get(tuple(ids_BT[row, start:end].tolist()))}
            if logps_BT is not None:
                # ignored tokens are zero; among several sequences in a row each ends before the first token of the next
                logps_T = logps_BT[row] if len(sequences) == len(ids_BT) else logps_BT[row, start : end - 1]
                bits = surprisal_bits_of(float(logps_T.sum()))
                line |= {"surprisal_bits": bits, "offered_bits": bits, "offered_bits_estimator": "surprisal"}
            rows.append(line)
        return rows

    def num_tokens(self, inputs: dict) -> tuple[int, int]:
        labels_BT, sequences = inputs["labels"].cpu(), real_sequences(inputs["input_ids"].cpu(), inputs)
        num_labelled = sum(int((labels_BT[row, start + 1 : end] != -100).sum()) for row, start, end in sequences)
        return sum(end - start for _, start, end in sequences), num_labelled
