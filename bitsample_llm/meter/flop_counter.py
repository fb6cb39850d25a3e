"""What did every forward and backward pass of a causal language model cost, by phase, as it ran?

`FlopCounter` hooks the model and prices the shapes it sees with the formulas of `flops.py`. B rows, T tokens a row.

- *executed* is what ran: padding, prompts repeated for every rollout, rows that decode on after they ended;
- *useful* counts real, distinct tokens with causal attention only.

The phase is read off the call: a cache means generation, a gradient means training, neither means scoring, and a model in
evaluation mode is always `evaluation`. Attention is priced as the full square that eager attention computes; kernels that
skip the masked half execute less.
"""

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from bitsample_llm.flops import backward_flops, forward_flops, output_parameters
from bitsample_llm.records.glossary import PHASES

FIRST_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "query_key_value", "c_attn")
PARALLEL_PROJECTIONS = ("dense_h_to_4h", "dense_4h_to_h")
LAST_DROPOUTS = ("mlp.dropout", "post_mlp_dropout")  # of a block, after its last product


@dataclasses.dataclass(frozen=True)
class PassShape:
    """Shapes of one forward pass: what ran, and the real part of it."""

    tokens: int
    attended: int  # sum over tokens of the positions each attends to
    outputs: int  # tokens that reach the output projection
    useful_tokens: int
    useful_attended: int
    useful_outputs: int


@dataclasses.dataclass(frozen=True)
class ForwardCall:
    """One forward pass as it was seen. `has_head` is false where only the blocks ran."""

    ids_BT: torch.Tensor
    kwargs: dict
    cached_tokens: int
    started: float
    ended: float
    has_head: bool


def _ids(args: tuple, kwargs: dict) -> torch.Tensor | None:
    """Token ids of a forward call; stand-ins that no vocabulary holds where it was given embeddings; None if neither."""
    if isinstance(ids := kwargs.get("input_ids", args[0] if args else None), torch.Tensor):
        return ids
    if isinstance(embedded := kwargs.get("inputs_embeds"), torch.Tensor):
        rows, length = embedded.shape[:2]
        return -1 - torch.arange(rows, device=embedded.device)[:, None].expand(rows, length)
    return None


class ForwardWatcher:
    """Tells of every forward pass of a model, and of passes of its blocks alone, whose output a trainer projects itself."""

    def __init__(self, model, tell: Callable[[ForwardCall], None]):
        self._model = model
        self._tell = tell
        self._whole_pass_under_way = False
        self._cached_tokens, self._started = 0, 0.0
        self.hooks = []
        for module in {id(module): module for module in (model, model.base_model)}.values():
            self.hooks.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            self.hooks.append(module.register_forward_hook(self._after, with_kwargs=True))

    def _before(self, module, args, kwargs) -> None:
        if _ids(args, kwargs) is None:  # a trainer runs other code inside the model's call, to have its weights gathered
            return
        if module is self._model:
            self._whole_pass_under_way = True
        elif self._whole_pass_under_way:
            return
        past = kwargs.get("past_key_values")
        self._cached_tokens = past.get_seq_length() if past is not None else 0
        self._started = time.perf_counter()

    def _after(self, module, args, kwargs, output) -> None:
        ids_BT = _ids(args, kwargs)
        is_whole = module is self._model
        if ids_BT is None or (self._whole_pass_under_way and not is_whole):
            return
        self._whole_pass_under_way = False
        has_head = is_whole and module.get_output_embeddings() is not None
        self._tell(ForwardCall(ids_BT, kwargs, self._cached_tokens, self._started, time.perf_counter(), has_head))


def _matrices(module: torch.nn.Module):
    """(name, weight) of the layers that multiply matrices."""
    for name, child in module.named_modules():
        weight = getattr(child, "weight", None)
        is_product = isinstance(child, torch.nn.Linear) or type(child).__name__ == "Conv1D"
        if is_product and isinstance(weight, torch.Tensor):
            yield name, weight


def _num_parameters(weight: torch.Tensor) -> int:
    return getattr(weight, "ds_numel", weight.numel())  # DeepSpeed ZeRO-3 leaves an empty tensor where it shards


def recomputation(model) -> tuple[int, int]:
    """What backward runs again where gradient checkpointing is on: parameters of the layers, and number of blocks.

    Reentrant checkpointing runs the whole block again. The other kind stops as soon as it has every tensor that forward
    saved. A product saves its inputs before it runs, so the last product of a block is not run again, unless a dropout
    follows, which saves its mask.
    """
    parameters = num_blocks = 0
    for block in model.modules():
        is_block = any(kind.__name__ == "GradientCheckpointingLayer" for kind in type(block).__mro__)  # of transformers
        if not (is_block and block.gradient_checkpointing and block.training):
            continue
        num_blocks += 1
        sizes = [_num_parameters(weight) for _, weight in _matrices(block)]  # every family registers its last product last
        parameters += sum(sizes)
        options = getattr(block._gradient_checkpointing_func, "keywords", {})
        stops_early = options.get("use_reentrant") is False and options.get("early_stop", True)  # torch's default is reentrant
        modules = dict(block.named_modules())
        if stops_early and not any(getattr(modules.get(name), "p", 0) > 0 for name in LAST_DROPOUTS):
            parameters -= sizes[-1]
    return parameters, num_blocks


class FlopCounter:
    """Counts FLOPs and seconds of a model by phase from the moment it is made; `detach` ends it.

    Args:
        model: a transformers causal LM, with or without PEFT adapters.
        eos_token_ids: tokens that end a row, to tell useful decoding from rows that decode on.

    Attributes:
        executed_flops, useful_flops, seconds: phase -> number, of this process.
        paused: whether passes go by uncounted, because they will be counted by other means.
        generating: whether a trainer is generating, which shows where no cache does.
        num_passes: forward passes seen so far, those that went by uncounted included.
    """

    def __init__(self, model, eos_token_ids: set[int]):
        self.causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.config = self.causal_lm.config.get_text_config()
        forward_flops(self.config, 1, 1)  # an unknown model type is refused now, not in the middle of a run
        self.eos_token_ids = torch.tensor(sorted(eos_token_ids))
        self.executed_flops: dict[str, float] = defaultdict(float)
        self.useful_flops: dict[str, float] = defaultdict(float)
        self.seconds: dict[str, float] = defaultdict(float)
        self.paused = self.generating = False
        self.num_passes = 0
        self._last_length = 0  # of the pass before
        self.read_trainable_shapes()
        self._alive_B: torch.Tensor | None = None  # rows of the current generation that have not ended
        self._train_forward_ended: float | None = None
        self._embedded: torch.Tensor | None = None
        self._hooks = [self.causal_lm.get_input_embeddings().register_forward_hook(self._keep_embedded)]
        self._hooks += ForwardWatcher(self.causal_lm, self._count).hooks

    def count_other(self, model, phase: str) -> None:
        """Count the forward passes of another model too, all under one phase: a reference policy, a teacher, a reward model.

        Raises:
            ValueError: for a model type without a formula.
        """
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        config = model.config.get_text_config()
        forward_flops(config, 1, 1)

        def count(call: ForwardCall) -> None:
            self.seconds[phase] += call.ended - call.started
            self._add(phase, forward_flops, config, self._full_pass_shape(call))

        self._hooks += ForwardWatcher(model, count).hooks

    def detach(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def read_trainable_shapes(self) -> None:
        """See which parameters there are and which of them train; anew where adapters were added after this was made."""
        head = self.causal_lm.get_output_embeddings()
        self.adapter_parameters = self.trainable_parameters = self.first_parameters = 0
        first = FIRST_PROJECTIONS
        if getattr(self.config, "use_parallel_residual", False):  # the first feed-forward layer reads them too
            first += PARALLEL_PROJECTIONS[:1]
            trains = any(weight.requires_grad for name, weight in _matrices(self.causal_lm) if f".0.mlp.{first[-1]}" in name)
            first += PARALLEL_PROJECTIONS[1:] * (not trains)
        for name, weight in _matrices(self.causal_lm):
            if weight is head.weight:
                continue
            size = _num_parameters(weight)
            self.adapter_parameters += size * ("lora_" in name)
            self.trainable_parameters += size * weight.requires_grad
            # layers that read the embedded tokens, whose input needs no gradient where the embedding is frozen
            reads_embedding = ".0." in name and any(f".{part}" in name for part in first) and "lora_B" not in name
            self.first_parameters += size * reads_embedding
        self.output_trainable = head.weight.requires_grad

    def _keep_embedded(self, module, args, output) -> None:
        self._embedded = output  # whether it needs a gradient is known once all hooks have run

    def _count(self, call: ForwardCall) -> None:
        has_cache = call.kwargs.get("past_key_values") is not None
        inputs_need_gradient = self._embedded is not None and self._embedded.requires_grad
        # without a cache every pass of a generation begins at the prompt
        grows = call.cached_tokens > 0 if has_cache else call.ids_BT.shape[1] == self._last_length + 1
        self._embedded, self._last_length = None, call.ids_BT.shape[1]
        self.num_passes += 1
        if self.paused:
            return
        if not self.causal_lm.training:
            phase = "evaluation"
        elif has_cache or self.generating:
            phase = "decode" if grows else "prefill"
        elif torch.is_grad_enabled():
            phase = "train_forward"
        else:
            phase = self._scoring_phase()
        self.seconds[phase] += call.ended - call.started
        shape = self._generation_shape(call) if has_cache else self._full_pass_shape(call)
        self._add(phase, forward_flops, self.config, shape, adapter_parameters=self.adapter_parameters)
        if phase == "train_forward":
            self._train_forward_ended = call.ended
            recomputed_parameters, recomputed_blocks = recomputation(self.causal_lm)
            self._add(
                "train_backward",
                backward_flops,
                self.config,
                shape,
                adapter_parameters=self.adapter_parameters,
                trainable_parameters=self.trainable_parameters,
                inputs_without_gradient=0 if inputs_need_gradient else self.first_parameters,
                output_trainable=self.output_trainable,
                output_recomputed=bool(call.kwargs.get("fused_lm_head")),
                recomputed_parameters=recomputed_parameters,
                recomputed_blocks=recomputed_blocks,
            )

    def backward_ended(self) -> None:
        """Tell the counter that the backward pass of the last training forward is over."""
        if self._train_forward_ended is not None:
            self.seconds["train_backward"] += time.perf_counter() - self._train_forward_ended
            self._train_forward_ended = None

    def count_generation(self, prompts: Sequence[Sequence[int]], completion_lengths: Sequence[int]) -> None:
        """Price a generation that ran out of sight (vLLM) by its tokens: no padding, each distinct prompt put in once.

        A completion of T tokens takes T - 1 decoding passes: the prompt's pass gives the first token.
        """
        distinct = [len(ids) for ids in {tuple(ids) for ids in prompts}]
        attended = sum(length * (length + 1) // 2 for length in distinct)
        prefill = PassShape(*[sum(distinct), attended, len(distinct)] * 2)
        passes = [max(length - 1, 0) for length in completion_lengths]
        attended = sum(num * len(ids) + num * (num + 1) // 2 for ids, num in zip(prompts, passes, strict=True))
        decode = PassShape(*[sum(passes), attended, sum(passes)] * 2)
        in_training = self.causal_lm.training
        for phase, shape in (("prefill", prefill), ("decode", decode)):
            phase = phase if in_training else "evaluation"
            self._add(phase, forward_flops, self.config, shape, adapter_parameters=self.adapter_parameters)

    def count_projections(self, phase: str, num_products: int, num_tokens: int, useful_tokens: int, config=None) -> None:
        """Price products of tokens with an output projection that a trainer computes outside of the model."""
        per_token = 2 * num_products * output_parameters(config or self.config)
        self.executed_flops[phase] += per_token * num_tokens
        self.useful_flops[phase] += per_token * useful_tokens

    def _scoring_phase(self) -> str:
        """Scores without a gradient are of the old policy, unless the adapters are off or are the reference's."""
        for child in self.causal_lm.modules():
            disabled = getattr(child, "disable_adapters", None)
            if isinstance(disabled, bool):  # an adapter's layer; models have a method of this name
                return "score_reference" if disabled or "ref" in child.active_adapters else "score_old"
        return "score_old"

    def _add(self, phase: str, price, config, shape: PassShape, **options) -> None:
        executed_context = shape.attended / max(shape.tokens, 1)
        useful_context = shape.useful_attended / max(shape.useful_tokens, 1)
        self.executed_flops[phase] += price(config, shape.tokens, executed_context, shape.outputs, **options)
        self.useful_flops[phase] += price(config, shape.useful_tokens, useful_context, shape.useful_outputs, **options)

    def _full_pass_shape(self, call: ForwardCall) -> PassShape:
        rows, length = call.ids_BT.shape
        lengths_S, attended = self._sequence_lengths(call)
        useful_tokens = int(lengths_S.sum())
        if not call.has_head:
            outputs = labelled = 0
        elif call.kwargs.get("fused_lm_head"):
            labelled = int((call.kwargs["labels"][:, 1:] != -100).sum())
            # the fused head picks the labelled positions out on CUDA and projects every position elsewhere
            outputs = labelled if call.ids_BT.device.type == "cuda" else rows * (length - 1)
        else:
            outputs = labelled = rows * self._kept_outputs(call.kwargs, length)
        return PassShape(
            tokens=rows * length,
            attended=attended,
            outputs=outputs,
            useful_tokens=useful_tokens,
            useful_attended=int((lengths_S * (lengths_S + 1)).sum()) // 2,
            useful_outputs=min(labelled, useful_tokens),
        )

    def _sequence_lengths(self, call: ForwardCall) -> tuple[torch.Tensor, int]:
        """Real tokens of each sequence, of which packing puts several in a row, and the positions attended to in all."""
        rows, length = call.ids_BT.shape
        mask_BT, positions_BT = call.kwargs.get("attention_mask"), call.kwargs.get("position_ids")
        if mask_BT is not None:
            return mask_BT.sum(dim=1), rows * length * length
        if positions_BT is None:
            return torch.full((rows,), length), rows * length * length
        starts = torch.nonzero(positions_BT.flatten() == 0).flatten().cpu()
        lengths_S = torch.diff(starts, append=torch.tensor([positions_BT.numel()]))
        if "flash" in (self.config._attn_implementation or ""):  # which attends within each sequence only
            return lengths_S, int((lengths_S**2).sum())
        return lengths_S, rows * length * length

    @staticmethod
    def _kept_outputs(kwargs, length: int) -> int:
        kept = kwargs.get("logits_to_keep", 0)
        if isinstance(kept, torch.Tensor):
            return kept.numel()
        return min(kept, length) if kept else length

    def _generation_shape(self, call: ForwardCall) -> PassShape:
        rows, length = call.ids_BT.shape
        context = call.cached_tokens + length
        mask_BT = call.kwargs.get("attention_mask")
        if mask_BT is None or mask_BT.dim() != 2:
            mask_BT = torch.ones((rows, context), dtype=torch.long, device=call.ids_BT.device)
        if not call.cached_tokens:
            self._alive_B = torch.ones(rows, dtype=torch.bool, device=call.ids_BT.device)
            distinct_lengths = mask_BT.sum(dim=1)[self._first_of_each_prompt(call.ids_BT)]
            useful_tokens = int(distinct_lengths.sum())
            useful_attended = int((distinct_lengths * (distinct_lengths + 1)).sum()) // 2
            useful_outputs = len(distinct_lengths)
        else:
            if len(self._alive_B) != rows:  # a sampler that lets finished rows leave the batch
                self._alive_B = torch.ones(rows, dtype=torch.bool, device=call.ids_BT.device)
            ended_B = torch.isin(call.ids_BT[:, -1], self.eos_token_ids.to(call.ids_BT.device))
            self._alive_B = self._alive_B & ~ended_B
            useful_tokens = useful_outputs = int(self._alive_B.sum())
            useful_attended = int((mask_BT.sum(dim=1) * self._alive_B).sum())
        return PassShape(
            tokens=rows * length,
            attended=rows * length * context,
            outputs=rows * self._kept_outputs(call.kwargs, length),
            useful_tokens=useful_tokens,
            useful_attended=useful_attended,
            useful_outputs=useful_outputs,
        )

    @staticmethod
    def _first_of_each_prompt(ids_BT: torch.Tensor) -> list[int]:
        """Row numbers at which a prompt stands for the first time in the batch."""
        first: dict[tuple[int, ...], int] = {}
        for row, ids in enumerate(ids_BT.tolist()):
            first.setdefault(tuple(ids), row)
        return list(first.values())

    def totals(self) -> dict[str, list[float]]:
        """Executed FLOPs, useful FLOPs and seconds of this process, each in the order of `PHASES`."""
        return {
            "flops": [self.executed_flops[phase] for phase in PHASES],
            "flops_useful": [self.useful_flops[phase] for phase in PHASES],
            "seconds": [self.seconds[phase] for phase in PHASES],
        }
