"""One rollout per problem, sampled as exact pass rates assume: temperature 1, no truncation."""

import math
from collections.abc import Sequence

import torch

from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import encode_prompt, padded_batch
from bitsample_llm.tasks import Problem


@torch.no_grad()
def sampled_completions(
    model,
    tokenizer,
    problems: Sequence[Problem],
    max_new_tokens: int,
    batch_size: int = 256,
    end: AnswerEnd | None = None,
    synced_gpus: bool | None = None,
) -> list[list[int]]:
    """Token ids of one rollout per problem at temperature 1 without truncation, cut after the first token that ends it, or after
    `max_new_tokens`, or where the model's context ends.

    The model keeps its mode, so that a counter tells training rollouts from evaluation. `synced_gpus` as `generate` has it:
    whether processes that share the model go on until all have ended.
    """
    completions: list[list[int]] = []
    end = end or AnswerEnd.of(model, tokenizer)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    for start in range(0, len(problems), batch_size):
        prompts = [encode_prompt(tokenizer, problem.prompt) for problem in problems[start : start + batch_size]]
        batch = padded_batch(prompts, tokenizer.pad_token_id, on_left=True)  # generation continues on the right
        sampled = model.generate(
            **{key: value.to(model.device) for key, value in batch.items()},
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_p=None,
            repetition_penalty=1.0,
            max_new_tokens=max(1, min(max_new_tokens, context - batch["input_ids"].shape[1])),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=end.token_ids,
            synced_gpus=synced_gpus,
        )
        for row in sampled[:, batch["input_ids"].shape[1] :].tolist():
            length_with_end = next((index + 1 for index, token in enumerate(row) if end.is_end(token)), len(row))
            completions.append(row[:length_with_end])
    return completions
