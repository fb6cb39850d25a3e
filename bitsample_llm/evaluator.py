"""How probable do a trainer's processes, working together, find the accepted answers of problems?

Every process scores its share with as many forward passes as the others, which sharded models need.
"""

import importlib
from collections.abc import Sequence

import numpy as np
import torch
from accelerate.utils import gather_object

from bitsample_llm.answer_end import AnswerEnd
from bitsample_llm.likelihood import AnswerScore, answer_scores, answer_spellings, scoring_batch_size, spelling_logprobs
from bitsample_llm.tasks import Problem


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


def scored_rows(trainer, problems: Sequence[Problem], end: AnswerEnd) -> list[dict]:
    """Rows of the table `evals`: each problem's exact log2 pass rate, and that of each token of its answer."""
    rows = []
    for problem, score in zip(problems, shared_answer_scores(trainer, problems, end), strict=True):
        log2_pass_rate = None if score.log_pass_rate is None else score.log_pass_rate / float(np.log(2))
        scores = {"log2_pass_rate": log2_pass_rate, "token_log2_probabilities": (score.logps_T / np.log(2)).tolist()}
        rows.append({"problem_id": problem.problem_id} | scores)
    return rows


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
