"""Which of a policy's own rollouts pass? The labels of rejection sampling, the control between SFT and RL."""

import dataclasses
from collections.abc import Sequence

import torch

from bitsample_llm.answer_end import AnswerEnd
from bitsample_llm.likelihood import encode_answer, encode_prompt, padded_batch
from bitsample_llm.rewards import RolloutVerifier
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
    """Token ids of one rollout a problem at temperature 1 without truncation, cut after the first token that ends it.

    The model keeps its mode, so that a counter tells training rollouts from evaluation. `synced_gpus` as `generate` has it:
    whether processes that share the model go on until all have ended.
    """
    completions: list[list[int]] = []
    end = end or AnswerEnd.of(model, tokenizer)
    for start in range(0, len(problems), batch_size):
        prompts = [encode_prompt(tokenizer, problem.prompt) for problem in problems[start : start + batch_size]]
        length = max(map(len, prompts))
        batch = padded_batch(prompts, tokenizer.pad_token_id)
        if any(len(prompt) < length for prompt in prompts):  # generation continues on the right, so it pads on the left
            for key, value in batch.items():
                batch[key] = torch.stack([row.roll(length - len(prompt)) for row, prompt in zip(value, prompts, strict=True)])
        sampled = model.generate(
            **{key: value.to(model.device) for key, value in batch.items()},
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_p=None,
            repetition_penalty=1.0,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=end.token_ids,
            synced_gpus=synced_gpus,
        )
        for row in sampled[:, length:].tolist():
            length_with_end = next((index + 1 for index, token in enumerate(row) if end.is_end(token)), len(row))
            completions.append(row[:length_with_end])
    return completions


def passing_problems(
    model, tokenizer, task, problems: Sequence[Problem], rollouts_per_prompt: int, seed: int, end: AnswerEnd | None = None
) -> list[Problem]:
    """The problems, each as often as one of its `rollouts_per_prompt` rollouts passed, with what the rollout said for an
    answer; where one answer is accepted that is the answer.

    Raises:
        ValueError: if no rollout passes.
    """
    end = end or AnswerEnd.of(model, tokenizer)
    verifier = RolloutVerifier(task, problems, tokenizer, end)
    repeated = [problem for problem in problems for _ in range(rollouts_per_prompt)]
    # as long as the longest spelling of an answer, which has no more tokens than bytes
    max_new_tokens = max(
        max(len(encode_answer(tokenizer, problem)[1]), len(problem.answer.encode()) + 1 if problem.has_one_accepted_string else 0)
        for problem in problems
    )
    was_training = model.training
    model.train()
    torch.manual_seed(seed)
    completions = sampled_completions(model, tokenizer, repeated, max_new_tokens, end=end)
    model.train(was_training)
    judged = verifier.judged([problem.problem_id for problem in repeated], completions)
    passing = [
        problem if problem.has_one_accepted_string else dataclasses.replace(problem, answer=text, lines=())
        for problem, (text, _, verdict) in zip(repeated, judged, strict=True)
        if verdict.passed
    ]
    if not passing:
        raise ValueError(f"none of {len(repeated)} rollouts passed, so there is nothing to train on: raise --rollouts_per_prompt")
    return passing
