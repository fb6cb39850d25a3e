"""How often does a model pass each prompt before training, and what do one rollout and one label cost?

Rollouts are drawn at temperature 1 without truncation, on as many processes as were launched, each of which holds the whole
model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from bitsample_llm.flops import MatrixProducts, backward_flops, forward_flops
from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.meter.labels import surprisal_bits_of
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.records.glossary import PHASES, TRAINING_PHASES
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import encode_answer, encode_prompt, scored_answers
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import Problem


@dataclass(frozen=True)
class Sampler:
    """What draws rollouts and judges them: `batch_size` at once on a process, of at most `max_completion_length` tokens."""

    accelerator: Accelerator
    model: torch.nn.Module
    tokenizer: object
    task: object
    max_completion_length: int
    batch_size: int
    seed: int
    end: AnswerEnd


@dataclass(frozen=True)
class MeasuredPrompt:
    """One prompt's row of the table `prompts`, its rows of `rollouts`, and what a label of it would tell."""

    row: dict
    rollouts: list[dict]
    label_surprisal_bits: float | None  # of the reference completion with its end; None where there is none
    padded_tokens: list[tuple[int, int]]  # lengths of prompt and completion as padded in the batch that each rollout ran in


def measured_prompts(
    sampler: Sampler, problems: Sequence[Problem], rollouts_per_prompt: int, generation_step: int, step: int
) -> list[MeasuredPrompt]:
    """Draw and judge rollouts of every problem. All processes call this together; each samples a share and gets all results.

    A prompt carries its exact pass rate where the task accepts a single string. The model's mode is not changed for sampling: the
    FLOP counter tells rollouts from evaluation by it. The seed depends on `step`, which part of the measurement this is.
    """
    accelerator = sampler.accelerator
    seed = np.random.SeedSequence([sampler.seed, step, accelerator.process_index]).generate_state(1)[0]
    torch.manual_seed(int(seed))
    with accelerator.split_between_processes(list(range(len(problems)))) as share:
        own = _sampled_share(sampler, [problems[index] for index in share], rollouts_per_prompt)
        gathered = dict(gather_object(list(zip(share, own, strict=True))))  # by index: spare processes repeat the last prompt
    for index, prompt in gathered.items():
        for row in (prompt.row, *prompt.rollouts):
            row |= {"problem_id": problems[index].problem_id, "step": step, "generation_step": generation_step}
    return [gathered[index] for index in range(len(problems))]


def _sampled_share(sampler: Sampler, problems: Sequence[Problem], rollouts_per_prompt: int) -> list[MeasuredPrompt]:
    repeated = [problem for problem in problems for _ in range(rollouts_per_prompt)]
    completions: list[list[int]] = []
    padded: list[tuple[int, int]] = []
    for start in range(0, len(repeated), sampler.batch_size):
        batch = repeated[start : start + sampler.batch_size]
        sampled = sampled_completions(
            sampler.model, sampler.tokenizer, batch, sampler.max_completion_length, len(batch), sampler.end
        )
        prompt_length = max(len(encode_prompt(sampler.tokenizer, problem.prompt)) for problem in batch)
        padded += [(prompt_length, max(map(len, sampled)))] * len(batch)
        completions += sampled
    verifier = RolloutVerifier(sampler.task, problems, sampler.tokenizer, sampler.end)
    rollouts = verifier.rows([problem.problem_id for problem in repeated], completions)
    labelled = [problem for problem in problems if problem.completion]
    scores = scored_answers(sampler.model, sampler.tokenizer, labelled, sampler.batch_size, sampler.end)
    score_by_id = {problem.problem_id: score for problem, score in zip(labelled, scores, strict=True)}
    result = []
    for number, problem in enumerate(problems):
        rows = slice(number * rollouts_per_prompt, (number + 1) * rollouts_per_prompt)
        group = [rollout | {"sample": sample} for sample, rollout in enumerate(rollouts[rows])]
        row = {"group_size": rollouts_per_prompt, "num_passed": sum(rollout["passed"] for rollout in group)}
        score = score_by_id.get(problem.problem_id)
        if score is not None and sampler.task.has_one_accepted_string:
            row |= score.pass_rates(problem)
        bits = None if score is None else surprisal_bits_of(float(score.logps_T.sum()))
        result.append(MeasuredPrompt(row, group, bits, padded[rows]))
    return result


def flops_per_sample(
    sampler: Sampler, products: MatrixProducts, problems: Sequence[Problem], plain: Sequence[MeasuredPrompt], totals: dict
) -> dict:
    """FLOPs of one rollout by phase, and of one label, where GRPO or SFT trains all weights.

    Sampling is what was executed (`totals` of the plain rollouts). Training is computed from the shapes: a forward and a backward
    pass, with TRL's fused head recomputed and no old or reference log-probabilities; for a rollout over its padded length, for a
    label over its own length. Null where there is no label.
    """
    num_rollouts = sum(len(prompt.padded_tokens) for prompt in plain)
    prompt_tokens, completion_tokens = np.mean([padded for prompt in plain for padded in prompt.padded_tokens], axis=0)
    labels = [encode_answer(sampler.tokenizer, problem, sampler.end) for problem in problems if problem.completion]
    label = None
    if labels:
        label = _training_flops(sampler, products, *np.mean([(len(prompt), len(answer)) for prompt, answer in labels], axis=0))
    return {
        "rollout_prefill": totals["flops/prefill"] / num_rollouts,
        "rollout_decode": totals["flops/decode"] / num_rollouts,
        "rollout_training": _training_flops(sampler, products, prompt_tokens, completion_tokens),
        "label_training": label,
    }


def _training_flops(sampler: Sampler, products: MatrixProducts, prompt_tokens: float, completion_tokens: float) -> float:
    """Forward and backward pass over one sequence; on CUDA the fused head projects labelled positions only."""
    length = prompt_tokens + completion_tokens
    shape = (length, length, completion_tokens if sampler.accelerator.device.type == "cuda" else length - 1)
    return forward_flops(products, *shape) + backward_flops(products, *shape, output_recomputed=True)


def counted_totals(counter: FlopCounter) -> dict[str, float]:
    """FLOPs and seconds by phase so far, of all processes, by the glossary's names; seconds are the first process's."""
    parts = gather_object([counter.totals()])
    summed = {
        f"{kind}/{phase}": sum(part[kind][index] for part in (parts if kind != "seconds" else parts[:1]))
        for kind in parts[0]
        for index, phase in enumerate(PHASES)
    }
    summed["flops/total"] = sum(summed[f"flops/{phase}"] for phase in TRAINING_PHASES)
    summed["seconds/total"] = sum(summed[f"seconds/{phase}"] for phase in TRAINING_PHASES)
    return summed
