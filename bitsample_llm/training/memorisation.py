"""What can training tell that nothing else can? Labels that are draws of the starting model itself, so that its probabilities
are calibrated by construction, and the bits that labels or verdicts can tell of them at most.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bitsample_llm.information import verdict_sequence_bits
from bitsample_llm.records import read_run
from bitsample_llm.records.writer import write_json_atomically
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import answer_logprobs
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import Problem

CEILING_FILE = "ceiling.json"


def relabelled(
    model, tokenizer, problems: Sequence[Problem], max_new_tokens: int, seed: int, end: AnswerEnd | None = None
) -> list[Problem]:
    """The problems whose draw from the model ended by itself, with that draw for an answer."""
    end = end or AnswerEnd.of(model, tokenizer)
    torch.manual_seed(seed)
    drawn = end.texts_and_ends(sampled_completions(model, tokenizer, problems, max_new_tokens, end=end))
    return [replace(problem, answer=text, lines=()) for problem, (text, ended) in zip(problems, drawn, strict=True) if ended]


def ceiling_bits(model, tokenizer, problem: Problem, rollouts: Sequence[dict], end: AnswerEnd | None = None) -> float:
    """Bits that the verdicts on a problem's rollouts told at most of its label, `model` being the start they were drawn for."""
    tried = list(dict.fromkeys(rollout["text"] for rollout in rollouts if rollout["ended"]))
    if not tried:
        return 0.0
    answers = [replace(problem, answer=text) for text in tried]
    masses = np.exp([logps.sum() for logps in answer_logprobs(model, tokenizer, answers, end=end)])
    return verdict_sequence_bits(masses, tried.index(problem.answer) if problem.answer in tried else None)


def write_ceiling(run_dir: Path, model, tokenizer, problems: Sequence[Problem], end: AnswerEnd | None = None) -> None:
    """Write into a finished run's directory what its samples told of the labels at most, summed over the problems.

    With labels it is their surprisal under the start, of the problems trained on.
    """
    run = read_run(run_dir)
    sampled: dict[str, list[dict]] = {}
    table = "rollouts" if run.manifest["regime"] == "rl" else "prompts"
    for row in run.table(table).to_pylist():
        sampled.setdefault(row["problem_id"], []).append(row)
    trained_on = [problem for problem in problems if problem.problem_id in sampled]
    if table == "rollouts":
        bits = sum(ceiling_bits(model, tokenizer, problem, sampled[problem.problem_id], end) for problem in trained_on)
    else:
        bits = -sum(logps.sum() for logps in answer_logprobs(model, tokenizer, trained_on, end=end)) / np.log(2)
    ceiling = {"ceiling_bits": float(bits), "problems_trained_on": len(trained_on), "problems": len(problems)}
    write_json_atomically(run_dir / CEILING_FILE, ceiling)
