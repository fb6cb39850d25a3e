"""How far has a training moved a model from where it began: in its weights, and in what it says?

Shapes: B completions, T tokens, V vocabulary.
"""

import contextlib
import importlib
import math
from collections.abc import Iterator, Sequence

import torch

from bitsample_llm.meter.evaluator import SHARDED, completions_apart, sampling_batch_size, seed_of
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import encode_prompt, logits_in_parts, padded_batch
from bitsample_llm.tasks import Problem


@torch.no_grad()
def kl_to_start_bits(
    trainer, problems: Sequence[Problem], change: "ParameterChange", max_tokens: int, end: AnswerEnd
) -> list[float | None]:
    """KL divergence of the policy from its start over completions of each prompt, in bits, one number per problem. None of a sharded
    model.

    From one rollout of the policy: the divergence of its next-token distribution from the start's, summed over the tokens. By the
    chain rule the mean over rollouts is the divergence of whole completions; it varies less than the log ratio of the rollout. The draws
    depend on the problems alone, and the random states of the training are put back.
    """
    accelerator, tokenizer = trainer.accelerator, trainer.processing_class
    if accelerator.distributed_type in SHARDED and accelerator.num_processes > 1:
        return [None] * len(problems)
    model = accelerator.unwrap_model(trainer.model)
    size = sampling_batch_size(model, tokenizer, problems, max_tokens)
    completions = completions_apart(model, tokenizer, problems, max_tokens, size, end, seed_of(problems, 0))
    prompts = [encode_prompt(tokenizer, problem.prompt) for problem in problems]
    was_training = model.training
    model.eval()
    bits: list[float | None] = []
    for first in range(0, len(problems), size):
        rows = list(zip(prompts, completions, strict=True))[first : first + size]
        batch = padded_batch([prompt + completion for prompt, completion in rows], tokenizer.pad_token_id)
        batch = {key: value.to(model.device) for key, value in batch.items()}
        both = [logits_in_parts(model, batch | {"use_cache": False}, batch["input_ids"].shape[1]) for _ in range(2)]
        parts = []
        for logits_BTV in both[0]:
            logps_BTV = logits_BTV.log_softmax(dim=-1)
            with change.undone():
                start_logps_BTV = next(both[1]).log_softmax(dim=-1)
            parts.append((logps_BTV.exp() * (logps_BTV - start_logps_BTV)).sum(dim=-1) / math.log(2))
        kl_BT = torch.cat(parts, dim=1)
        for row, (prompt, completion) in zip(kl_BT, rows, strict=True):
            bits.append(float(row[len(prompt) - 1 : len(prompt) + len(completion) - 1].sum()))
    model.train(was_training)
    return bits


class ParameterChange:
    """How far the trained parameters have moved since this was made; a copy of them is kept in main memory."""

    def __init__(self, model):
        self._model = model
        self._start = {name: _whole(value).detach().cpu().clone() for name, value in self._trained()}

    def _trained(self) -> list[tuple[str, torch.Tensor]]:
        return [(name, value) for name, value in self._model.named_parameters() if value.requires_grad]

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """Let the model be what it was at the start. Not for a sharded model."""
        now = {name: value.detach().clone() for name, value in self._trained()}
        try:
            self._put(self._start)
            yield
        finally:
            self._put(now)

    @torch.no_grad()
    def _put(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._trained():
            parameter.copy_(values[name])

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
