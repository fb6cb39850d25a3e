"""A batch that is full of groups from which something is learned: DAPO's dynamic sampling (arXiv 2503.14476, section 3.2).

Groups whose rollouts all passed, or all failed, have no advantage. They are discarded, and others are drawn in their place. What they cost is charged; samples of
the record are those that are trained on.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from accelerate.utils import gather_object

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.options import option
from bitsample_llm.training.drawn_before import TakesDrawn, drawn_rollouts


@dataclass
class RefillArguments:
    """What becomes of groups without an advantage."""

    refill: int = option(
        1,
        "Draw groups up to so many times, as many as a batch holds each time, until it is full of groups that hold passes and fails (DAPO's dynamic sampling; DAPO has 10). The last "
        "try leaves the places that are still free to groups without. 1: draw once, as TRL does.",
    )


class Refills(TakesDrawn):
    """Mixin for GRPO whose batches are refilled; a ValueError where something else than transformers generates.

    TRL's metric `refill/draws` says how often groups were drawn.
    """

    def __init__(self, *args, most_draws: int, verifier: RolloutVerifier, **kwargs):
        super().__init__(*args, **kwargs)
        self.most_draws, self.verifier = most_draws, verifier
        if self.use_vllm or self.use_transformers_continuous_batching:
            raise ValueError("--refill needs generation by transformers: set use_vllm to false")

    def _generate_and_score_completions(self, inputs):
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        size, first = self.num_generations, self.accelerator.process_index * len(inputs)
        own = slice(first, first + len(inputs))
        asked = gather_object(list(inputs))  # of all processes, which make the same choice
        informative, others = [], []
        for draw in range(self.most_draws):
            if draw:
                asked = self._other_rows(len(asked) // size, draw)
            ids = gather_object(drawn_rollouts(self, [row["prompt"] for row in asked[own]]))
            passed = [verdict.passed for _, _, verdict in self.verifier.judged([row["problem_id"] for row in asked], ids)]
            for at in range(0, len(asked), size):
                has_advantage = 0 < sum(passed[at : at + size]) < size
                (informative if has_advantage else others).append((asked[at], ids[at : at + size]))
            if len(informative) * size >= len(asked):
                break
        rows = [(row, member) for row, group in informative + others for member in group]
        inputs[:] = [row for row, _ in rows[own]]  # in place: who watches this method has the list already
        self._metrics["train"]["refill/draws"].append(draw + 1)
        with self.taking([member for _, member in rows[own]]):
            return super()._generate_and_score_completions(inputs)

    def _other_rows(self, num_groups: int, draw: int) -> list[dict]:
        """Rows of other problems, the same on every process and in a run that is resumed."""
        rng = np.random.default_rng([self.args.seed, self.state.global_step, draw])
        rows = rng.choice(len(self.train_dataset), size=num_groups, replace=num_groups > len(self.train_dataset))
        return [self.train_dataset[int(row)] for row in rows for _ in range(self.num_generations)]


@cache
def refilling(trainer_class: type) -> type:
    """The trainer whose batches are refilled, `Refilling` before its name."""
    return type(f"Refilling{trainer_class.__name__}", (Refills, trainer_class), {})
