"""How probable do a trainer's processes, working together, find the accepted answers of problems, and how often do rollouts pass?

Every process scores and samples its share with as many forward passes as the others, which sharded models need.
"""

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import DistributedType, gather_object

from bitsample_llm.estimators import wilson_interval
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import (
    AnswerScore,
    answer_scores,
    answer_spellings,
    encode_prompt,
    scoring_batch_size,
    spelling_logprobs,
)
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import Problem

MAX_EVAL_TOKENS = 256  # of an evaluation rollout, where neither the user nor the trainer sets a limit
MAX_CACHED = 2**30  # keys and values of a batch of rollouts: 2 GiB in bfloat16
MAX_ROWS = 256
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def shared_answer_scores(trainer, problems: Sequence[Problem], end: AnswerEnd) -> list[AnswerScore]:
    """Scores of the answers by the trainer's model, each process scoring a share of the spellings; every process gets all, in
    order.
    """
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    spelled = answer_spellings(trainer.processing_class, list(problems), end)
    num_shares = accelerator.num_processes
    filled = spelled + spelled[-1:] * (-len(spelled) % num_shares)
    batch_size = scoring_batch_size(model, spelled)
    share = spelling_logprobs(model, trainer.processing_class, filled[accelerator.process_index :: num_shares], batch_size)
    by_process = gather_object(share)
    in_order = [logps for round_ in zip(*np.array_split(np.arange(len(filled)), num_shares), strict=True) for logps in round_]
    return answer_scores(spelled, [by_process[index] for index in in_order[: len(spelled)]])


@dataclass(frozen=True)
class EvaluationRollouts:
    """How problems are sampled whose pass rates are not exact.

    Attributes:
        task: judges the rollouts.
        per_problem: rollouts of each problem at each evaluation.
        max_tokens: of a rollout, fewer where the model's context has no room.
    """

    task: object
    per_problem: int
    max_tokens: int


def has_exact_pass_rates(tokenizer, problems: Sequence[Problem], end: AnswerEnd) -> bool:
    """Whether the probability of the answers is the pass rate of all problems: one string passes, all its spellings are scored."""
    if not all(problem.has_one_accepted_string for problem in problems):
        return False
    spelled = answer_spellings(tokenizer, problems, end)
    return len({spelling.problem for spelling in spelled if spelling.is_counted and spelling.is_one_of_all}) == len(problems)


def shared_num_passed(trainer, problems: Sequence[Problem], rollouts: EvaluationRollouts, end: AnswerEnd) -> list[int]:
    """How many of its rollouts passed for each problem, each process sampling a share of them; every process gets all, in order.

    Temperature 1 without truncation, in evaluation mode. The draws depend on the problems and the process alone, so that they
    are alike for all arms and seeds; the random states of the training are put back.
    """
    accelerator, tokenizer = trainer.accelerator, trainer.processing_class
    model = accelerator.unwrap_model(trainer.model)
    num, num_shares = len(problems) * rollouts.per_problem, accelerator.num_processes
    filled = [*range(num), *[num - 1] * (-num % num_shares)]
    share = filled[accelerator.process_index :: num_shares]
    share_problems = [problems[index // rollouts.per_problem] for index in share]
    longest = max(len(encode_prompt(tokenizer, problem.prompt)) for problem in problems)
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or longest + rollouts.max_tokens
    max_tokens = max(1, min(rollouts.max_tokens, context - longest))
    batch_size = _sampling_batch_size(config, longest + max_tokens)
    digest = hashlib.sha256("\n".join(problem.problem_id for problem in problems).encode()).digest()
    seed = np.random.SeedSequence([int.from_bytes(digest[:8], "big"), accelerator.process_index]).generate_state(1)[0]
    devices = [] if model.device.type == "cpu" else [model.device]
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices, device_type="cuda" if not devices else model.device.type):
        torch.manual_seed(int(seed))
        synced = accelerator.distributed_type in SHARDED and num_shares > 1
        completions = sampled_completions(model, tokenizer, share_problems, max_tokens, batch_size, end, synced_gpus=synced)
    model.train(was_training)
    verifier = RolloutVerifier(rollouts.task, problems, tokenizer, end)
    judged = verifier.judged([problem.problem_id for problem in share_problems], completions)
    verdicts = dict(gather_object([(index, verdict.passed) for index, (_, _, verdict) in zip(share, judged, strict=True)]))
    passed = np.array([verdicts[index] for index in range(num)]).reshape(len(problems), rollouts.per_problem)
    return passed.sum(axis=1).tolist()


def _sampling_batch_size(config, num_tokens: int) -> int:
    """Rows of a batch whose keys and values fit into memory."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    width = (getattr(config, "num_key_value_heads", None) or heads) * head_dim
    return max(1, min(MAX_ROWS, MAX_CACHED // (2 * config.num_hidden_layers * width * num_tokens)))


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


def mean_log2_pass_rate(rows: Sequence[dict]) -> float | None:
    """What a target gain is measured in: the mean of log2 p where p is exact; of rollouts log2 of their mean pass rate, because
    the log of a problem's own count may not exist. None where nothing was measured or no rollout passed.
    """
    if rows and rows[0].get("num_rollouts") is not None:
        num_passed = sum(row["num_passed"] for row in rows)
        return float(np.log2(num_passed / sum(row["num_rollouts"] for row in rows))) if num_passed else None
    known = [row["log2_pass_rate"] for row in rows if row["log2_pass_rate"] is not None]
    return float(np.mean(known)) if known else None


class ParameterChange:
    """How far the trained parameters have moved since this was made; a copy of them is kept in main memory."""

    def __init__(self, model):
        self._model = model
        self._start = {name: _whole(value).detach().cpu().clone() for name, value in self._trained()}

    def _trained(self) -> list[tuple[str, torch.Tensor]]:
        return [(name, value) for name, value in self._model.named_parameters() if value.requires_grad]

    def norm(self) -> float:
        """Euclidean norm of the change. All processes of a sharded model must ask together."""
        squares = (((_whole(value).detach().cpu() - self._start[name]) ** 2).sum().double() for name, value in self._trained())
        return float(sum(squares)) ** 0.5


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    """The parameter itself, gathered where it is sharded."""
    if hasattr(parameter, "ds_id"):  # DeepSpeed ZeRO-3
        with importlib.import_module("deepspeed").zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
