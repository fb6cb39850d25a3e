"""What does an evaluation of held-out problems find? Exact pass rates where they exist, else the share of rollouts that pass.

Every process samples its share with as many forward passes as the others, which sharded models need.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import DistributedType, gather_object

from bitsample_llm.estimators import wilson_interval
from bitsample_llm.meter.verdicts import RolloutVerifier, shared_answer_scores
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import MAX_CACHED, answer_spellings, encode_prompt
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import Problem

MAX_ROWS = 256
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@dataclass(frozen=True)
class EvaluationRollouts:
    """How problems are sampled whose pass rates are not exact."""

    task: object  # judges the rollouts
    per_problem: int  # rollouts per problem at each evaluation
    max_tokens: int  # at most so many per rollout, fewer where the model's context has no room


def has_exact_pass_rates(tokenizer, problems: Sequence[Problem], end: AnswerEnd) -> bool:
    """Whether the probability of the answers is the pass rate of all problems: one string passes, all its spellings are scored."""
    if not all(problem.has_one_accepted_string for problem in problems):
        return False
    spelled = answer_spellings(tokenizer, problems, end)
    return len({spelling.problem for spelling in spelled if spelling.is_counted and spelling.is_one_of_all}) == len(problems)


def scored_rows(trainer, problems: Sequence[Problem], end: AnswerEnd, rollouts: EvaluationRollouts | None = None) -> list[dict]:
    """Rows of the table `evals`: each problem's exact log2 pass rate, null where it is not exact; the log2 probability of its
    reference answer and of each token of it; and with `rollouts` how many passed, with the Wilson interval of the pass rate.
    """
    rows = []
    for problem, score in zip(problems, shared_answer_scores(trainer, problems, end), strict=True):
        is_exact = problem.has_one_accepted_string and score.log_pass_rate is not None
        log2_T = score.logps_T / np.log(2)
        rows.append(
            {
                "problem_id": problem.problem_id,
                "log2_pass_rate": score.log_pass_rate / float(np.log(2)) if is_exact else None,
                "reference_log2_probability": float(log2_T.sum()),
                "token_log2_probabilities": log2_T.tolist(),
            }
        )
    if rollouts is not None:
        for row, num_passed in zip(rows, shared_num_passed(trainer, problems, rollouts, end), strict=True):
            low, high = wilson_interval(num_passed, rollouts.per_problem)
            row |= {"num_passed": num_passed, "num_rollouts": rollouts.per_problem, "pass_rate_low": low, "pass_rate_high": high}
    return rows


def shared_num_passed(trainer, problems: Sequence[Problem], rollouts: EvaluationRollouts, end: AnswerEnd) -> list[int]:
    """How many rollouts of each problem passed, in order, on every process.

    Temperature 1 without truncation, in evaluation mode. The draws depend on the problems and the process alone, so that they
    are the same for all arms and seeds; the random states of the training are put back.
    """
    accelerator, tokenizer = trainer.accelerator, trainer.processing_class
    model = accelerator.unwrap_model(trainer.model)
    num, num_shares = len(problems) * rollouts.per_problem, accelerator.num_processes
    filled = [*range(num), *[num - 1] * (-num % num_shares)]
    share = filled[accelerator.process_index :: num_shares]
    share_problems = [problems[index // rollouts.per_problem] for index in share]
    size = sampling_batch_size(model, tokenizer, problems, rollouts.max_tokens)
    synced = accelerator.distributed_type in SHARDED and num_shares > 1
    seed = seed_of(problems, accelerator.process_index)
    completions = completions_apart(model, tokenizer, share_problems, rollouts.max_tokens, size, end, seed, synced)
    verifier = RolloutVerifier(rollouts.task, problems, tokenizer, end)
    judged = verifier.judged([problem.problem_id for problem in share_problems], completions)
    verdicts = dict(gather_object([(index, verdict.passed) for index, (_, _, verdict) in zip(share, judged, strict=True)]))
    passed = np.array([verdicts[index] for index in range(num)]).reshape(len(problems), rollouts.per_problem)
    return passed.sum(axis=1).tolist()


def completions_apart(
    model, tokenizer, problems, max_tokens: int, batch_size: int, end, seed: int, synced_gpus=None
) -> list[list[int]]:
    """One rollout per problem in evaluation mode from random states of their own: those of the training are put back."""
    devices = [] if model.device.type == "cpu" else [model.device]
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices, device_type="cuda" if not devices else model.device.type):
        torch.manual_seed(seed)
        completions = sampled_completions(model, tokenizer, problems, max_tokens, batch_size, end, synced_gpus)
    model.train(was_training)
    return completions


def seed_of(problems: Sequence[Problem], process_index: int) -> int:
    """Of the draws at an evaluation: the same at each, for all arms and seeds."""
    digest = hashlib.sha256("\n".join(problem.problem_id for problem in problems).encode()).digest()
    return int(np.random.SeedSequence([int.from_bytes(digest[:8], "big"), process_index]).generate_state(1)[0])


def sampling_batch_size(model, tokenizer, problems: Sequence[Problem], max_tokens: int) -> int:
    """Rollouts in a batch whose keys and values fit into memory."""
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_value = head_dim * (getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    longest = max(len(encode_prompt(tokenizer, problem.prompt)) for problem in problems) + max_tokens
    return max(1, min(MAX_ROWS, MAX_CACHED // (2 * config.num_hidden_layers * key_value * longest)))
