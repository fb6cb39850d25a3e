"""What did every forward and backward pass of a causal language model cost, by phase, as it ran?

`FlopCounter` hooks the model and prices the shapes it sees (`forward_passes.py`) with the formulas of `flops.py`.

- *executed* is what ran: padding, prompts repeated for every rollout, rows that decode on after they ended;
- *useful* counts real, distinct tokens with causal attention only.

The phase is read off the call: a cache means generation, a gradient means training, neither means scoring, and a model in
evaluation mode is always `evaluation`. Attention is priced as the full square that eager attention computes; kernels that
skip the masked half execute less.
"""

import time
from collections import defaultdict
from collections.abc import Sequence

import torch

from bitsample_llm.flops import FEED_FORWARD_MATRICES, MatrixProducts, backward_flops, forward_flops, matrix_products
from bitsample_llm.meter.forward_passes import (
    ForwardCall,
    ForwardWatcher,
    GenerationShapes,
    Shape,
    causal_positions,
    continued_pass_shapes,
    full_pass_shapes,
)
from bitsample_llm.meter.layers import layers_of, recomputable_blocks, recomputation, text_decoder
from bitsample_llm.records.glossary import PHASES


class FlopCounter:
    """Counts FLOPs and seconds of a model by phase from the moment it is made; `detach` ends it.

    Args:
        model: a transformers causal LM, with or without PEFT adapters.
        eos_token_ids: tokens that end a row, to tell useful decoding from rows that decode on.

    Attributes:
        executed_flops, useful_flops, seconds: phase -> number, of this process.
        encoder_flops: of the executed ones, evaluation left out, those of encoders of images or sounds; None where no model has any.
        products: what a token of text is multiplied with, by a formula or as counted.
        layers: which layers there are and which of them train.
        paused: whether passes go by uncounted, because they will be counted by other means.
        generating: whether a trainer is generating, which shows where no cache does.
        trains: whether passes are part of the training though the model is in evaluation mode.
        evaluating: whether the trainer evaluates, which other models do not show: their mode never changes.
        num_passes: forward passes seen so far, those that went by uncounted included.

    Raises:
        ValueError: for a model type without a formula, whose passes do not cost what tokens and positions say.
    """

    def __init__(self, model, eos_token_ids: set[int]):
        self.causal_lm, self.config, self.products = priced_model(model)
        self.eos_token_ids = torch.tensor(sorted(eos_token_ids))
        self._executed_flops: dict[str, float] = defaultdict(float)
        self._useful_flops: dict[str, float] = defaultdict(float)
        self.seconds: dict[str, float] = defaultdict(float)
        self.encoder_flops: float | None = None
        self.paused = self.generating = self.trains = self.evaluating = False
        self.num_passes = 0
        self.read_trainable_shapes()
        self._generations: list[GenerationShapes] = []
        self._generation = self._priced_generation(self.products, lambda: {"adapter_parameters": self.layers.adapter_parameters})
        self._train_forward_ended: float | None = None
        self._embedded: torch.Tensor | None = None
        self._hooks = [self.causal_lm.get_input_embeddings().register_forward_hook(self._keep_embedded)]
        self._hooks += ForwardWatcher(self.causal_lm, self._count).hooks
        self._encoders = self._watched_encoders(self.causal_lm)

    def count_other(self, model, phase: str) -> None:
        """Count the forward passes of another model too, a reference policy, a teacher, a reward model: under one phase, but those in which it generates."""
        model, _, products = priced_model(model)
        generation, encoders = self._priced_generation(products), self._watched_encoders(model)

        def count(call: ForwardCall) -> None:
            its_phase = generation.phase(call) if call.has_cache or self.generating else phase
            if self.evaluating:
                its_phase = "evaluation"
            self.seconds[its_phase] += call.seconds
            if call.has_cache:
                generation.keep(its_phase, call)
            else:
                self._add(its_phase, forward_flops, products, self._full_pass_shapes(call))
            self._add_encoded(encoders, its_phase)

        self._hooks += ForwardWatcher(model, count).hooks

    def _priced_generation(self, products: MatrixProducts, adapters=dict) -> GenerationShapes:
        def add(phase: str, shapes: tuple[Shape, Shape]) -> None:
            self._add(phase, forward_flops, products, shapes, **adapters())

        self._generations.append(GenerationShapes(self.eos_token_ids, add))
        return self._generations[-1]

    @property
    def executed_flops(self) -> dict[str, float]:
        self._count_kept()
        return self._executed_flops

    @property
    def useful_flops(self) -> dict[str, float]:
        self._count_kept()
        return self._useful_flops

    def _count_kept(self) -> None:
        for generation in self._generations:
            generation.tell_kept()

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def read_trainable_shapes(self) -> None:
        """See which parameters there are and which of them train; anew where adapters were added after this was made."""
        self.layers = layers_of(self.causal_lm, self.products)
        self._recomputable_blocks = recomputable_blocks(text_decoder(self.causal_lm))

    def _keep_embedded(self, module, args, output) -> None:
        self._embedded = output  # whether it needs a gradient is known once all hooks have run

    def _count(self, call: ForwardCall) -> None:
        inputs_need_gradient = self._embedded is not None and self._embedded.requires_grad
        self._embedded = None
        self.num_passes += 1
        if self.paused:
            if self._encoders is not None:
                self._encoders.take()
            return
        if not (self.causal_lm.training or self.trains):
            phase = "evaluation"
        elif call.has_cache or self.generating:
            phase = self._generation.phase(call)
        elif torch.is_grad_enabled():
            phase = "train_forward"
        else:
            phase = self._scoring_phase()
        self.seconds[phase] += call.seconds
        self._add_encoded(self._encoders, phase)
        is_continued = phase == "evaluation" and call.cached_tokens and call.ids_BT.shape[1] > 1
        if call.has_cache and not is_continued:
            self._generation.keep(phase, call)
            return
        shapes = continued_pass_shapes(call) if is_continued else self._full_pass_shapes(call)
        adapters = {"adapter_parameters": self.layers.adapter_parameters}
        self._add(phase, forward_flops, self.products, shapes, **adapters)
        if phase == "train_forward":
            self._train_forward_ended = call.ended
            recomputed_parameters, recomputed_blocks = recomputation(self._recomputable_blocks, self.layers.active_share)
            self._add(
                "train_backward",
                backward_flops,
                self.products,
                shapes,
                **adapters,
                trainable_parameters=self.layers.trainable_parameters,
                inputs_without_gradient=0 if inputs_need_gradient else self.layers.first_parameters,
                output_trainable=self.layers.output_trainable,
                output_recomputed=bool(call.kwargs.get("fused_lm_head")),
                recomputed_parameters=recomputed_parameters,
                recomputed_blocks=recomputed_blocks,
            )

    def _watched_encoders(self, causal_lm):
        """A watcher of the encoders of a model that sees or hears, None of one that only reads."""
        if text_decoder(causal_lm) is causal_lm:
            return None
        from bitsample_llm.meter.encoders import EncoderWatcher  # noqa: PLC0415 - only where there are any

        watcher = EncoderWatcher(causal_lm)
        self._hooks += watcher.hooks
        self.encoder_flops = self.encoder_flops or 0.0
        return watcher

    def _add_encoded(self, encoders, phase: str) -> None:
        """Add what encoders have executed to the phase of the pass that they are part of; all of it is taken for useful."""
        if encoders is None:
            return
        forward, backward = encoders.take()
        for its_phase, flops in ((phase, forward), ("train_backward", backward)):
            self._executed_flops[its_phase] += flops
            self._useful_flops[its_phase] += flops
            self.encoder_flops += flops * (its_phase != "evaluation")

    def _scoring_phase(self) -> str:
        """Scores without a gradient are of the old policy, unless the adapters are off or are the reference's."""
        for child in self.causal_lm.modules():
            disabled = getattr(child, "disable_adapters", None)
            if isinstance(disabled, bool):  # an adapter's layer; models have a method of this name
                return "score_reference" if disabled or "ref" in child.active_adapters else "score_old"
        return "score_old"

    def _full_pass_shapes(self, call: ForwardCall) -> tuple[Shape, Shape]:
        return full_pass_shapes(call, skips_padding="flash" in (self.config._attn_implementation or ""))

    def _add(self, phase: str, price, products: MatrixProducts, shapes: tuple[Shape, Shape], **options) -> None:
        for flops, shape in zip((self._executed_flops, self._useful_flops), shapes, strict=True):
            flops[phase] += price(products, shape.tokens, shape.attended / max(shape.tokens, 1), shape.outputs, **options)

    def backward_ended(self) -> None:
        """Tell the counter that the backward pass of the last training forward is over."""
        if self._train_forward_ended is not None:
            self.seconds["train_backward"] += time.perf_counter() - self._train_forward_ended
            self._train_forward_ended = None

    def count_generation(
        self, prompts: Sequence[Sequence[int]], completion_lengths: Sequence[int], seconds: float, with_adapters: bool = False
    ) -> None:
        """Price a generation whose passes were not seen (vLLM) by its tokens: no padding, each distinct prompt once.

        A completion of T tokens takes T - 1 decoding passes: the prompt's pass gives the first token. All seconds are taken for decoding.
        vLLM is sent weights with the adapters merged into them: they cost nothing there.
        """
        distinct = [len(ids) for ids in {tuple(ids) for ids in prompts}]
        prefill = Shape(sum(distinct), causal_positions(distinct), len(distinct))
        passes = [max(length - 1, 0) for length in completion_lengths]
        attended = sum(num * len(ids) for ids, num in zip(prompts, passes, strict=True)) + causal_positions(passes)
        decode = Shape(sum(passes), attended, sum(passes))
        adapters = {"adapter_parameters": self.layers.adapter_parameters if with_adapters else 0}
        for phase, shape in (("prefill", prefill), ("decode", decode)):
            phase = phase if self.causal_lm.training else "evaluation"
            self._add(phase, forward_flops, self.products, (shape, shape), **adapters)
        self.seconds[phase] += seconds

    def count_projections(
        self, phase: str, num_products: int, num_tokens: int, useful_tokens: int, products: MatrixProducts
    ) -> None:
        """Price products of tokens with an output projection that a trainer computes outside of the model."""
        per_token = 2 * num_products * products.output_parameters
        self._executed_flops[phase] += per_token * num_tokens
        self._useful_flops[phase] += per_token * useful_tokens

    def totals(self) -> dict[str, list[float]]:
        """Executed FLOPs, useful FLOPs and seconds of this process, each in the order of `PHASES`."""
        kinds = {"flops": self.executed_flops, "flops_useful": self.useful_flops, "seconds": self.seconds}
        return {kind: [by_phase[phase] for phase in PHASES] for kind, by_phase in kinds.items()}


def priced_model(model) -> tuple:
    """The causal LM itself, its config, and what it multiplies; what has no price is refused now, not in the middle of a run."""
    causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = causal_lm.config.get_text_config()
    if config.model_type in FEED_FORWARD_MATRICES:
        return causal_lm, config, matrix_products(config)
    from bitsample_llm.meter.counted_products import counted_products  # noqa: PLC0415 - only where there is no formula

    return causal_lm, config, counted_products(causal_lm)
