"""How does a rollout end at its first wrong step, and cost nothing after it?

The verifier stands for an ideal value function: a rollout that cannot pass any more is worth nothing. `generate` takes it as a
stopping criterion, and a sampling loop lets finished rows leave the batch, which transformers' own does not.
"""

import contextlib
import functools
from collections.abc import Iterator

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.tasks import Problem


class StopAtFirstError(StoppingCriteria):
    """Ends the rows whose completion holds a wrong step; steps that are not complete are not judged. `problem_by_prompt` finds the
    problem by the padded prompt ids, of length `prompt_length`, that a row begins with.
    """

    def __init__(self, task, end: AnswerEnd, problem_by_prompt: dict[tuple[int, ...], Problem], prompt_length: int):
        self.task = task
        self.end = end
        self.problem_by_prompt = problem_by_prompt
        self.prompt_length = prompt_length

    def __call__(self, input_ids, scores, **kwargs) -> torch.BoolTensor:
        rows = input_ids.tolist()
        written = [row[self.prompt_length :] for row in rows]
        has_erred = [
            ended or self.task.has_erred(self.problem_by_prompt[tuple(row[: self.prompt_length])], text)
            for row, (text, ended) in zip(rows, self.end.texts_and_ends(written), strict=True)
        ]
        return torch.tensor(has_erred, device=input_ids.device)


def sample_dropping_finished_rows(
    model, input_ids, logits_processor, stopping_criteria, generation_config, num_tokens: list[int], tell_rows=None, **model_kwargs
):
    """A decoding method for `generate(custom_generate=...)`: sampling in which finished rows leave the batch.

    Gives (B, T) prompts and completions, padded on the right; `num_tokens` is filled with how many each row sampled, in order. `tell_rows` is told before
    the criteria are asked which rows are left.
    """
    pad_token_id = int(generation_config._pad_token_tensor)
    cache = model_kwargs["past_key_values"]
    if (mask := model_kwargs.get("attention_mask")) is None:  # left out where no row is padded
        mask = torch.ones_like(input_ids)
    finished: dict[int, torch.Tensor] = {}
    numbers = torch.arange(len(input_ids), device=input_ids.device)  # of the rows that are still in the batch
    rows, new_ids = input_ids, input_ids
    while len(numbers):
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -new_ids.shape[1] :]
        inputs = {"input_ids": new_ids, "attention_mask": mask, "position_ids": positions}
        logits = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
        new_ids = torch.multinomial(logits_processor(rows, logits).softmax(dim=-1), num_samples=1)
        rows, mask = torch.cat([rows, new_ids], dim=1), torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        if tell_rows is not None:
            tell_rows(numbers)
        is_done = stopping_criteria(rows, None)
        for number, row in zip(numbers[is_done].tolist(), rows[is_done], strict=True):
            finished[number] = row
        kept = torch.nonzero(~is_done).flatten()
        if len(kept) < len(numbers):
            rows, new_ids, mask, numbers = rows[kept], new_ids[kept], mask[kept], numbers[kept]
            cache.batch_select_indices(kept)
    num_tokens[:] = [len(finished[number]) - input_ids.shape[1] for number in range(len(input_ids))]
    in_order = [finished[number] for number in range(len(input_ids))]
    return torch.nn.utils.rnn.pad_sequence(in_order, batch_first=True, padding_value=pad_token_id)


@contextlib.contextmanager
def stopping_early(model, criterion: StoppingCriteria, num_tokens: list[int]) -> Iterator[None]:
    """Let `model.generate` stop rows by the criterion and drop them; `num_tokens` is filled as above."""
    own = vars(model).get("generate")
    model.generate = functools.partial(
        model.generate,
        stopping_criteria=StoppingCriteriaList([criterion]),
        custom_generate=functools.partial(
            sample_dropping_finished_rows, num_tokens=num_tokens, tell_rows=getattr(criterion, "tell_rows", None)
        ),
    )
    try:
        yield
    finally:
        if own is None:
            del model.generate
        else:
            model.generate = own


class StopsEarly:
    """Mixin for TRL's GRPO and RLOO, whose rollouts end by a criterion of the subclass too and then leave the batch: its `_criterion(prompt_ids)` gives what ends
    the rollouts of these prompts, None for nothing more than the trainer's own.
    """

    def _check_stops_early(self, option: str) -> None:
        """A ValueError for generation that transformers does not run, or of a sharded model."""
        if self.use_vllm or getattr(self, "use_transformers_continuous_batching", False):
            raise ValueError(f"{option} needs generation by transformers: set use_vllm to false")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(f"{option} needs the whole model on every process: use DDP")

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        criterion = self._criterion(prompt_ids)
        if criterion is None:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        num_tokens: list[int] = []
        with stopping_early(self.accelerator.unwrap_model(self.model_wrapped), criterion, num_tokens):
            result = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        # TRL masks what follows an end of sequence; what follows a stop is padding too, and would be trained on
        completion_ids = result[0] if isinstance(result, tuple) else result  # RLOO returns nothing else
        trimmed = [ids[:num] for ids, num in zip(completion_ids, num_tokens, strict=True)]
        return (trimmed, *result[1:]) if isinstance(result, tuple) else trimmed
