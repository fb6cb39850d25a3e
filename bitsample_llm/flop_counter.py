"""What did every forward and backward pass of a causal language model cost, by phase, as it ran?

`FlopCounter` hooks the model and prices the shapes it sees with the formulas of `flops.py`. B rows, T tokens a row.

- *executed* is what ran: padding, prompts repeated for every rollout, rows that decode on after they ended;
- *useful* counts real, distinct tokens with causal attention only.

The phase is read off the call: a cache means generation, a gradient means training, neither means scoring, and a model in
evaluation mode is always `evaluation`.
"""

import dataclasses
import functools
import time
from collections import defaultdict

import torch

from bitsample_llm.flops import backward_flops, forward_flops
from bitsample_llm.glossary import PHASES

FIRST_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "query_key_value", "c_attn")


@dataclasses.dataclass(frozen=True)
class PassShape:
    """Shapes of one forward pass: what ran, and the real part of it."""

    tokens: int
    attended: int  # sum over tokens of the positions each attends to
    outputs: int  # tokens that reach the output projection
    useful_tokens: int
    useful_attended: int
    useful_outputs: int


def _matrices(module: torch.nn.Module):
    """(name, weight) of the layers that multiply matrices."""
    for name, child in module.named_modules():
        weight = getattr(child, "weight", None)
        is_product = isinstance(child, torch.nn.Linear) or type(child).__name__ == "Conv1D"
        if is_product and isinstance(weight, torch.Tensor):
            yield name, weight


class FlopCounter:
    """Counts FLOPs and seconds of a model by phase from the moment it is made; `detach` ends it.

    Args:
        model: a transformers causal LM, with or without PEFT adapters.
        eos_token_ids: tokens that end a row, to tell useful decoding from rows that decode on.

    Attributes:
        executed_flops, useful_flops, seconds: phase -> number, of this process.
    """

    def __init__(self, model, eos_token_ids: set[int]):
        self.causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.config = self.causal_lm.config.get_text_config()
        forward_flops(self.config, 1, 1)  # an unknown model type is refused now, not in the middle of a run
        self.eos_token_ids = torch.tensor(sorted(eos_token_ids))
        self.executed_flops: dict[str, float] = defaultdict(float)
        self.useful_flops: dict[str, float] = defaultdict(float)
        self.seconds: dict[str, float] = defaultdict(float)
        self._read_trainable_shapes()
        self._alive_B: torch.Tensor | None = None  # rows of the current generation that have not ended
        self._started = 0.0
        self._cached_tokens = 0
        self._train_forward_ended: float | None = None
        self._embedded: torch.Tensor | None = None
        self._hooks = [self.causal_lm.get_input_embeddings().register_forward_hook(self._keep_embedded)]
        self._hooks.append(self.causal_lm.register_forward_pre_hook(self._before, with_kwargs=True))
        self._hooks.append(self.causal_lm.register_forward_hook(self._after, with_kwargs=True))

    def count_other(self, model, phase: str) -> None:
        """Count the forward passes of another model too, all under one phase: a reference policy, or a reward model.

        Raises:
            ValueError: for a model type without a formula.
        """
        config = model.config.get_text_config()
        forward_flops(config, 1, 1)
        has_output_projection = model.get_output_embeddings() is not None
        after = functools.partial(self._after_other, phase, config, has_output_projection)
        self._hooks.append(model.register_forward_pre_hook(self._before, with_kwargs=True))
        self._hooks.append(model.register_forward_hook(after, with_kwargs=True))

    def detach(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _read_trainable_shapes(self) -> None:
        head = self.causal_lm.get_output_embeddings()
        self.adapter_parameters = self.trainable_parameters = self.first_parameters = 0
        for name, weight in _matrices(self.causal_lm):
            if weight is head.weight:
                continue
            self.adapter_parameters += weight.numel() * ("lora_" in name)
            self.trainable_parameters += weight.numel() * weight.requires_grad
            # layers that read the embedded tokens, whose input needs no gradient where the embedding is frozen
            reads_embedding = ".0." in name and any(f".{part}" in name for part in FIRST_PROJECTIONS) and "lora_B" not in name
            self.first_parameters += weight.numel() * reads_embedding
        self.output_trainable = head.weight.requires_grad

    def _keep_embedded(self, module, args, output) -> None:
        self._embedded = output  # whether it needs a gradient is known once all hooks have run

    def _before(self, module, args, kwargs) -> None:
        past = kwargs.get("past_key_values")
        self._cached_tokens = past.get_seq_length() if past is not None else 0
        self._started = time.perf_counter()

    def _after_other(self, phase: str, config, has_output_projection: bool, module, args, kwargs, output) -> None:
        self.seconds[phase] += time.perf_counter() - self._started
        input_ids = kwargs["input_ids"] if kwargs.get("input_ids") is not None else args[0]
        shape = self._full_pass_shape(input_ids, kwargs, bool(kwargs.get("fused_lm_head")))
        if not has_output_projection:
            shape = dataclasses.replace(shape, outputs=0, useful_outputs=0)
        self._add(phase, forward_flops, config, shape)

    def _after(self, module, args, kwargs, output) -> None:
        ended = time.perf_counter()
        input_ids = kwargs["input_ids"] if kwargs.get("input_ids") is not None else args[0]
        in_generation = kwargs.get("past_key_values") is not None
        is_fused = bool(kwargs.get("fused_lm_head"))
        inputs_need_gradient = self._embedded is not None and self._embedded.requires_grad
        self._embedded = None
        if not module.training:
            phase = "evaluation"
        elif in_generation:
            phase = "decode" if self._cached_tokens else "prefill"
        elif torch.is_grad_enabled():
            phase = "train_forward"
        else:
            phase = self._scoring_phase(module)
        self.seconds[phase] += ended - self._started
        if in_generation:
            shape = self._generation_shape(input_ids, kwargs)
        else:
            shape = self._full_pass_shape(input_ids, kwargs, is_fused)
        self._add(phase, forward_flops, self.config, shape, adapter_parameters=self.adapter_parameters)
        if phase == "train_forward":
            self._train_forward_ended = ended
            self._add(
                "train_backward",
                backward_flops,
                self.config,
                shape,
                adapter_parameters=self.adapter_parameters,
                trainable_parameters=self.trainable_parameters,
                inputs_without_gradient=0 if inputs_need_gradient else self.first_parameters,
                output_trainable=self.output_trainable,
                output_recomputed=is_fused,
                blocks_recomputed=getattr(module, "is_activation_checkpointing", False),
            )

    def backward_ended(self) -> None:
        """Tell the counter that the backward pass of the last training forward is over."""
        if self._train_forward_ended is not None:
            self.seconds["train_backward"] += time.perf_counter() - self._train_forward_ended
            self._train_forward_ended = None

    @staticmethod
    def _scoring_phase(module) -> str:
        """Scores without a gradient are of the old policy, unless the adapters are off or are the reference's."""
        for child in module.modules():
            disabled = getattr(child, "disable_adapters", None)
            if isinstance(disabled, bool):  # an adapter's layer; models have a method of this name
                return "score_reference" if disabled or "ref" in child.active_adapters else "score_old"
        return "score_old"

    def _add(self, phase: str, price, config, shape: PassShape, **options) -> None:
        executed_context = shape.attended / max(shape.tokens, 1)
        useful_context = shape.useful_attended / max(shape.useful_tokens, 1)
        self.executed_flops[phase] += price(config, shape.tokens, executed_context, shape.outputs, **options)
        self.useful_flops[phase] += price(config, shape.useful_tokens, useful_context, shape.useful_outputs, **options)

    def _full_pass_shape(self, input_ids, kwargs, is_fused: bool) -> PassShape:
        rows, length = input_ids.shape
        mask_BT = kwargs.get("attention_mask")
        lengths_B = mask_BT.sum(dim=1) if mask_BT is not None else torch.full((rows,), length)
        useful_tokens = int(lengths_B.sum())
        if is_fused:
            labelled = int((kwargs["labels"][:, 1:] != -100).sum())
            # the fused head picks the labelled positions out on CUDA and projects every position elsewhere
            outputs = labelled if input_ids.device.type == "cuda" else rows * (length - 1)
        else:
            outputs = labelled = rows * self._kept_outputs(kwargs, length)
        return PassShape(
            tokens=rows * length,
            attended=rows * length * length,
            outputs=outputs,
            useful_tokens=useful_tokens,
            useful_attended=int((lengths_B * (lengths_B + 1)).sum()) // 2,
            useful_outputs=min(labelled, useful_tokens),
        )

    @staticmethod
    def _kept_outputs(kwargs, length: int) -> int:
        kept = kwargs.get("logits_to_keep", 0)
        if isinstance(kept, torch.Tensor):
            return kept.numel()
        return min(kept, length) if kept else length

    def _generation_shape(self, input_ids, kwargs) -> PassShape:
        rows, length = input_ids.shape
        context = self._cached_tokens + length
        mask_BT = kwargs.get("attention_mask")
        if mask_BT is None or mask_BT.dim() != 2:
            mask_BT = torch.ones((rows, context), dtype=torch.long, device=input_ids.device)
        if not self._cached_tokens:
            self._alive_B = torch.ones(rows, dtype=torch.bool, device=input_ids.device)
            distinct_lengths = mask_BT.sum(dim=1)[self._first_of_each_prompt(input_ids)]
            useful_tokens = int(distinct_lengths.sum())
            useful_attended = int((distinct_lengths * (distinct_lengths + 1)).sum()) // 2
            useful_outputs = len(distinct_lengths)
        else:
            ended_B = torch.isin(input_ids[:, -1], self.eos_token_ids.to(input_ids.device))
            self._alive_B = self._alive_B & ~ended_B
            useful_tokens = useful_outputs = int(self._alive_B.sum())
            useful_attended = int((mask_BT.sum(dim=1) * self._alive_B).sum())
        return PassShape(
            tokens=rows * length,
            attended=rows * length * context,
            outputs=rows * self._kept_outputs(kwargs, length),
            useful_tokens=useful_tokens,
            useful_attended=useful_attended,
            useful_outputs=useful_outputs,
        )

    @staticmethod
    def _first_of_each_prompt(input_ids: torch.Tensor) -> list[int]:
        """Row numbers at which a prompt stands for the first time in the batch."""
        first: dict[tuple[int, ...], int] = {}
        for row, ids in enumerate(input_ids.tolist()):
            first.setdefault(tuple(ids), row)
        return list(first.values())

    def totals(self) -> dict[str, list[float]]:
        """Executed FLOPs, useful FLOPs and seconds of this process, each in the order of `PHASES`."""
        return {
            "flops": [self.executed_flops[phase] for phase in PHASES],
            "flops_useful": [self.useful_flops[phase] for phase in PHASES],
            "seconds": [self.seconds[phase] for phase in PHASES],
        }
