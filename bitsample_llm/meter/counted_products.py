"""What does a model multiply whose type has no formula? Counted by torch on a few shapes, fitted, and held against others."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bitsample_llm.flops import MatrixProducts
from bitsample_llm.meter.layers import text_decoder

FITTED_SHAPES = ((1, 16), (1, 32), (2, 24), (1, 80))  # rows, tokens
HELD_OUT_SHAPES = ((2, 40), (3, 17), (1, 520))  # the last is longer than two chunks of those that take the longest, 256 tokens
TOLERANCE = 0.01


def counted_products(causal_lm) -> MatrixProducts:
    """Products of a model, adapters left out, from the FLOPs of short passes of its blocks; its output projection is read off its weight.

    Raises:
        ValueError: where tokens, and tokens times positions, do not tell the FLOPs of the held-out shapes within 1 %, as with attention in chunks of
            fixed length; where the weights are sharded already.
    """
    name = causal_lm.config.get_text_config().model_type
    if any(hasattr(parameter, "ds_numel") for parameter in causal_lm.parameters()):
        raise ValueError(
            f"no FLOP formula for model type {name!r}, and sharded weights cannot be counted: make the meter before DeepSpeed shards them"
        )
    blocks = text_decoder(causal_lm) if text_decoder(causal_lm) is not causal_lm else causal_lm.base_model
    longest = getattr(causal_lm.config.get_text_config(), "max_position_embeddings", None) or HELD_OUT_SHAPES[-1][1]
    held_out_shapes = tuple((rows, min(length, longest)) for rows, length in HELD_OUT_SHAPES)
    with _counting_mode(blocks):
        fitted, held_out = ([_pass_flops(blocks, *shape) for shape in shapes] for shapes in (FITTED_SHAPES, held_out_shapes))
    features = _features(FITTED_SHAPES)
    per_token, per_position = np.linalg.lstsq(features / np.array(fitted)[:, None], np.ones(len(fitted)), rcond=None)[0]
    error = float(np.abs(_features(held_out_shapes) @ (per_token, per_position) / held_out - 1).max())
    if error > TOLERANCE:
        raise ValueError(
            f"no FLOP formula for model type {name!r}, and its FLOPs are no sum over tokens and positions ({100 * error:.0f} % off on other shapes), as with attention in chunks: the meter cannot price it, train a model with attention over all positions"
        )
    head = causal_lm.get_output_embeddings()
    adapters = sum(weight.numel() for key, weight in text_decoder(causal_lm).named_parameters() if "lora_" in key)
    return MatrixProducts(
        block_parameters=float(per_token) / 2 - adapters,
        output_parameters=0 if head is None else head.weight.numel(),
        attention_flops=max(float(per_position), 0.0),
        num_blocks=causal_lm.config.get_text_config().num_hidden_layers,
    )


def _features(shapes: tuple) -> np.ndarray:
    """Tokens, and positions that they attend to in all, of each shape."""
    return np.array([(rows * length, rows * length * length) for rows, length in shapes], dtype=float)


def _pass_flops(blocks, rows: int, length: int) -> int:
    ids = torch.arange(rows * length, device=blocks.device).view(rows, length) % blocks.config.get_text_config().vocab_size
    with FlopCounterMode(display=False) as counter:
        blocks(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return counter.get_total_flops()


@contextlib.contextmanager
def _counting_mode(model) -> Iterator[None]:
    """Without gradients and dropout, and with kernels that torch's counter sees."""
    was_training, attention = model.training, model.config._attn_implementation
    experts = getattr(model.config, "_experts_implementation", None)
    model.eval()
    model.set_attn_implementation("eager")
    if experts is not None:
        model.set_experts_implementation("eager")
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
        model.set_attn_implementation(attention)
        if experts is not None:
            model.set_experts_implementation(experts)
