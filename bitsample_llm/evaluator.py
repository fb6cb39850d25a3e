"""How probable do a trainer's processes, working together, find the accepted answers of problems?

Every process scores its share with as many forward passes as the others, which sharded models need.
"""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate.utils import gather_object

from bitsample_llm.likelihood import answer_logprobs
from bitsample_llm.tasks import Problem


def shared_answer_logprobs(trainer, problems: Sequence[Problem]) -> list[np.ndarray]:
    """`answer_logprobs` of the trainer's model, each process scoring a share; every process gets all, in order."""
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    problems = list(problems)
    num_shares = accelerator.num_processes
    filled = problems + problems[-1:] * (-len(problems) % num_shares)
    share = answer_logprobs(model, trainer.processing_class, filled[accelerator.process_index :: num_shares])
    by_process = gather_object(share)
    in_order = [logps for round_ in zip(*np.array_split(np.arange(len(filled)), num_shares), strict=True) for logps in round_]
    return [by_process[index] for index in in_order[: len(problems)]]


def scored_rows(trainer, problems: Sequence[Problem]) -> list[dict]:
    """Rows of the table `evals`: each problem's exact log2 pass rate, and that of each token of its answer."""
    rows = []
    for problem, logps in zip(problems, shared_answer_logprobs(trainer, problems), strict=True):
        log2_T = logps / np.log(2)
        scores = {"log2_pass_rate": float(log2_T.sum()), "token_log2_probabilities": log2_T.tolist()}
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
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
