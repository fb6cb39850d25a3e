"""GRPO with an advantage for each step, whose rollouts may end at the first wrong step.

Everything else is TRL's: this edits what `GRPOTrainer` returns, and copies none of its code. B rollouts of this process, T tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.tasks import Step
from bitsample_llm.training.credit import Credit, steps_of_tokens, token_advantages
from bitsample_llm.training.early_stop import StopAtFirstError, StopsEarly


def token_spans(tokenizer, ids: list[int], end: AnswerEnd | None = None) -> list[tuple[int, int]]:
    """Characters [start, end) of the answer that each token adds; a token that only ends it adds none.

    Found by decoding ever longer beginnings, which holds for any tokenizer, also where a character takes several tokens.
    """
    end = end or AnswerEnd.of(None, tokenizer)
    ends = [len(text) for text, _ in end.texts_and_ends([ids[: n + 1] for n in range(len(ids))])]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def steps_of_completion(end: AnswerEnd, ids: list[int], steps: Sequence[Step]) -> list[list[int]]:
    """Indices of the steps that each token of a completion writes. A token that holds both the last characters and the stop writes
    the end of the answer too.
    """
    spans = token_spans(end.tokenizer, ids, end)
    covered = steps_of_tokens(spans, steps)
    if ids and end.is_end(ids[-1]) and spans[-1][0] < spans[-1][1]:
        covered[-1] = covered[-1] + [k for k, step in enumerate(steps) if step.start == step.end == spans[-1][1]]
    return covered


class ProcessGRPOTrainer(StopsEarly, GRPOTrainer):
    """GRPOTrainer that assigns credit to steps, as one of `credit.CREDITS` says, and may end rollouts at their first wrong step; a
    ValueError for an early stop of generation that transformers does not run, or of a sharded model.
    """

    def __init__(self, *args, credit: Credit, verifier: RolloutVerifier, stop_at_first_error: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.credit = credit
        self.verifier = verifier
        self.stop_at_first_error = stop_at_first_error
        self._problems: list = []
        if stop_at_first_error:
            self._check_stops_early("stop_at_first_error")

    def _generate_and_score_completions(self, inputs):
        self._problems = [self.verifier.problem_by_id[example["problem_id"]] for example in inputs]
        output = super()._generate_and_score_completions(inputs)
        if self.credit.step_advantages is not None:
            output["advantages"] = self._token_advantages(output)
        return output

    def _criterion(self, prompt_ids):
        if not self.stop_at_first_error:
            return None
        length = max(map(len, prompt_ids))
        if self.pad_to_multiple_of:
            length += -length % self.pad_to_multiple_of
        pad = self._tokenizer.pad_token_id
        padded = [(pad,) * (length - len(ids)) + tuple(ids) for ids in prompt_ids]
        problem_by_prompt = dict(zip(padded, self._problems, strict=True))
        return StopAtFirstError(self.verifier.task, self.verifier.end, problem_by_prompt, length)

    def _token_advantages(self, output) -> torch.Tensor:
        """(B, T) advantages of the tokens, 0 where there is padding."""
        mask_BT = output["completion_mask"].bool().cpu()
        ids = [row[mask].tolist() for row, mask in zip(output["completion_ids"].cpu(), mask_BT, strict=True)]
        judged = self.verifier.judged([problem.problem_id for problem in self._problems], ids)
        steps = [verdict.steps for _, _, verdict in judged]
        everyone = gather_object([[step.correct for step in of_rollout] for of_rollout in steps])  # groups may be split
        size = self.num_generations if self.model.training else self.num_generations_eval
        groups = [everyone[start : start + size] for start in range(0, len(everyone), size)]
        of_all = [advantages for group in groups for advantages in self.credit.step_advantages(group)]
        first = self.accelerator.process_index * len(ids)
        advantages_BT = np.zeros(mask_BT.shape)
        for row, scalar in enumerate(output["advantages"].tolist()):
            covered = steps_of_completion(self.verifier.end, ids[row], steps[row])
            values = token_advantages(self.credit, of_all[first + row], scalar, covered)
            advantages_BT[row, : len(values)] = values
        return torch.tensor(advantages_BT, dtype=output["advantages"].dtype, device=output["advantages"].device)
