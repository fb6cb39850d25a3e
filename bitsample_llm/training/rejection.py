"""Which of a policy's own rollouts pass? The labels of rejection sampling, the control between SFT and RL."""

import dataclasses
from collections.abc import Sequence

import torch

from bitsample_llm.meter.heldout import MAX_EVAL_TOKENS
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import longest_answer
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import Problem


def passing_problems(
    model,
    tokenizer,
    task,
    problems: Sequence[Problem],
    rollouts_per_prompt: int,
    seed: int,
    end: AnswerEnd | None = None,
    max_tokens: int = MAX_EVAL_TOKENS,
) -> list[Problem]:
    """The problems, each as often as one of its `rollouts_per_prompt` rollouts passed, with what the rollout said for an answer;
    where one answer is accepted that is the answer. A rollout may be as long as the longest answer, of verifiers that read the answer
    out of a longer text up to `max_tokens`. A ValueError if no rollout passes.
    """
    end = end or AnswerEnd.of(model, tokenizer)
    verifier = RolloutVerifier(task, problems, tokenizer, end)
    repeated = [problem for problem in problems for _ in range(rollouts_per_prompt)]
    lengths = [longest_answer(tokenizer, problems, end)]
    # another spelling of an answer has no more tokens than bytes
    lengths += [len(problem.answer.encode()) + 1 for problem in problems if problem.has_one_accepted_string]
    lengths += [max_tokens] * any(problem.verifier != "exact" for problem in problems)
    was_training = model.training
    model.train()
    torch.manual_seed(seed)
    completions = sampled_completions(model, tokenizer, repeated, max(lengths), end=end)
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
