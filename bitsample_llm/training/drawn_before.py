"""Rollouts that are drawn before TRL draws a batch: what they cost is charged, and a batch may take them in place of its own."""

import contextlib
import copy
from collections.abc import Iterator, Sequence

from trl import GRPOTrainer


def drawn_rollouts(trainer: GRPOTrainer, prompts: Sequence) -> list[list[int]]:
    """Token ids of a rollout of each prompt of this process, which TRL's metrics do not count: they tell of rollouts that are trained on."""
    logged, num_tokens = copy.deepcopy(trainer._metrics["train"]), trainer.state.num_input_tokens_seen
    completion_ids = trainer._generate(list(prompts))[1]
    trainer._metrics["train"], trainer.state.num_input_tokens_seen = logged, num_tokens
    return [list(map(int, ids)) for ids in completion_ids]


class TakesDrawn:
    """Mixin for GRPO with generation by transformers: while it is `taking` rollouts, they stand for those of the first prompts."""

    _drawn: Sequence[list[int]] = ()

    @contextlib.contextmanager
    def taking(self, drawn: Sequence[list[int]]) -> Iterator[None]:
        """Token ids of this process's first rows of the batch that is drawn meanwhile."""
        self._drawn = drawn
        try:
            yield
        finally:
            self._drawn = ()

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        drawn = list(self._drawn)
        if drawn and len(drawn) == len(prompt_ids):
            return drawn, None  # log-probabilities, which only vLLM gives
        completion_ids, *rest = super()._generate_single_turn(prompt_ids[len(drawn) :], *args, **kwargs)
        return drawn + completion_ids, *rest
