"""Which of a policy's own rollouts pass? The labels of rejection sampling, the control between SFT and RL."""

from collections.abc import Sequence

import torch

from bitsample_llm.likelihood import padded_batch
from bitsample_llm.rewards import RolloutVerifier
from bitsample_llm.tasks import Problem


@torch.no_grad()
def sampled_completions(
    model, tokenizer, problems: Sequence[Problem], max_new_tokens: int, batch_size: int = 256
) -> list[list[int]]:
    """Token ids of one rollout a problem at temperature 1 without truncation, cut after the first end of sequence.

    The model keeps its mode, so that a counter tells training rollouts from evaluation.
    """
    completions: list[list[int]] = []
    for start in range(0, len(problems), batch_size):
        prompts = [tokenizer(problem.prompt)["input_ids"] for problem in problems[start : start + batch_size]]
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
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        for row in sampled[:, length:].tolist():
            end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
            completions.append(row[:end])
    return completions


def passing_problems(model, tokenizer, task, problems: Sequence[Problem], rollouts_per_prompt: int, seed: int) -> list[Problem]:
    """The problems, each as often as one of its `rollouts_per_prompt` rollouts passed: with one accepted answer a passing
    rollout is that answer.

    Raises:
        ValueError: if no rollout passes.
    """
    verifier = RolloutVerifier(task, problems, tokenizer)
    repeated = [problem for problem in problems for _ in range(rollouts_per_prompt)]
    max_new_tokens = max(len(tokenizer(problem.answer)["input_ids"]) for problem in problems) + 1
    was_training = model.training
    model.train()
    torch.manual_seed(seed)
    completions = sampled_completions(model, tokenizer, repeated, max_new_tokens)
    model.train(was_training)
    judged = verifier.judged([problem.problem_id for problem in repeated], completions)
    passing = [problem for problem, (_, _, verdict) in zip(repeated, judged, strict=True) if verdict.passed]
    if not passing:
        raise ValueError(f"none of {len(repeated)} rollouts passed, so there is nothing to train on: raise --rollouts_per_prompt")
    return passing
