"""Which layers of a model multiply matrices, which of them train, and which does the backward pass run again?"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from bitsample_llm.flops import FEED_FORWARD_MATRICES, MatrixProducts, num_experts

FIRST_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv")
# Feed-forward layers that read what attention reads, and the one that writes; of GPT-NeoX and StableLM only where the config says so.
PARALLEL_PROJECTIONS = dict.fromkeys(("cohere", "cohere2", "stablelm"), (("gate_proj", "up_proj"), "down_proj"))
PARALLEL_PROJECTIONS |= {"phi": (("fc1",), "fc2"), "gpt_neox": (("dense_h_to_4h",), "dense_4h_to_h")}
PRODUCTS = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)  # the last two of encoders of images
LAST_DROPOUTS = ("mlp.dropout", "post_mlp_dropout")  # of a block, after its last product
LAST_NORMS = ("post_feedforward_layernorm", "post_mlp_layernorm")
TOWERS = ("vision_config", "audio_config")  # of a model's config: its encoders of images or sounds


def text_decoder(causal_lm):
    """What decodes text in a model that sees or hears; the model itself where it only reads."""
    return causal_lm.get_decoder() if any(hasattr(causal_lm.config, tower) for tower in TOWERS) else causal_lm


@dataclass(frozen=True)
class Layers:
    """Numbers of parameters in the blocks; `first`: of what reads the embedded tokens, which need no gradient where the embedding is frozen.

    `active_share`: of the experts of a mixture, the share that a token goes through; 1 of other models.
    """

    adapter_parameters: int
    trainable_parameters: float
    first_parameters: int
    output_trainable: bool
    active_share: float


def weights_of(module: torch.nn.Module, active_share: float) -> list[tuple[str, torch.Tensor, float]]:
    """Name, weight and parameters per token (of experts `active_share` of all) of what multiplies matrices, a block's last product last."""
    dense, experts = [], []
    for name, child in module.named_modules():
        kind, weight = type(child).__name__, getattr(child, "weight", None)
        is_product = isinstance(child, PRODUCTS) or kind == "Conv1D" or kind.endswith("Router")
        if is_product and isinstance(weight, torch.Tensor):
            dense.append((name, weight, _num_parameters(weight)))
        if kind.endswith("Experts"):
            weights = [(part, weight) for part, weight in child.named_parameters(recurse=False) if weight.ndim == 3]
            experts += [(f"{name}.{part}", weight, active_share * _num_parameters(weight)) for part, weight in weights]
    return dense + experts


def active_share(causal_lm, products: MatrixProducts) -> float:
    """Of a mixture's experts, the share that a token goes through, by its config or by what the model multiplies in all; 1 of other models."""
    experts, active = num_experts(causal_lm.config.get_text_config())
    if experts:
        return active / experts
    dense, whole = (_num_in_blocks(causal_lm, share) for share in (0.0, 1.0))
    return (products.block_parameters - dense) / (whole - dense) if whole > dense else 1.0


def _num_in_blocks(causal_lm, share: float) -> float:
    """Parameters that multiply, adapters and the output projection left out, `share` of those of experts."""
    head = causal_lm.get_output_embeddings()
    matrices = weights_of(text_decoder(causal_lm), share)
    return sum(size for name, weight, size in matrices if "lora_" not in name and (head is None or weight is not head.weight))


def _num_parameters(weight: torch.Tensor) -> int:
    return getattr(weight, "ds_numel", weight.numel())  # DeepSpeed ZeRO-3 leaves an empty tensor where it shards


def layers_of(causal_lm, products: MatrixProducts) -> Layers:
    """The layers of a causal language model as they are now, its adapters included; of one that sees or hears, those that decode text."""
    head = causal_lm.get_output_embeddings()
    first, config = FIRST_PROJECTIONS, causal_lm.config.get_text_config()
    share = active_share(causal_lm, products)
    matrices = [matrix for matrix in weights_of(text_decoder(causal_lm), share) if head is None or matrix[1] is not head.weight]
    other_products = 0.0  # not of a token with a layer, so that both factors have a gradient
    if config.model_type not in FEED_FORWARD_MATRICES:
        other_products = max(products.block_parameters - _num_in_blocks(causal_lm, share), 0.0)
    if config.model_type in PARALLEL_PROJECTIONS and getattr(config, "use_parallel_residual", True):
        # the first feed-forward layers read the embedded tokens too
        reading, writing = PARALLEL_PROJECTIONS[config.model_type]
        first += reading
        trains = any(weight.requires_grad for name, weight, _ in matrices if any(f".0.mlp.{part}" in name for part in reading))
        first += (writing,) * (not trains)
    if any("lora_" in name and ".experts." in name for name, *_ in matrices):
        raise ValueError("no FLOP formula for LoRA on experts: name other layers, as --lora_target_modules q_proj v_proj")
    return Layers(
        adapter_parameters=sum(size for name, _, size in matrices if "lora_" in name),
        trainable_parameters=sum(size for _, weight, size in matrices if weight.requires_grad) + other_products,
        first_parameters=sum(
            size
            for name, _, size in matrices
            if ".0." in name and any(f".{part}" in name for part in first) and "lora_B" not in name
        ),
        output_trainable=head is not None and head.weight.requires_grad,  # a reward model's is one number wide
        active_share=share,
    )


def recomputable_blocks(model) -> list[torch.nn.Module]:
    """The blocks that gradient checkpointing, where it is on, runs again."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def recomputation(blocks: Iterable[torch.nn.Module], share: float) -> tuple[float, int]:
    """What backward runs again of `recomputable_blocks`: parameters of the layers, `share` of those of experts, and number of blocks.

    Reentrant checkpointing runs the whole block again. The other kind stops as soon as it has every tensor that forward
    saved. A product saves its inputs before it runs, so the last product of a block is not run again, unless a dropout
    follows, which saves its mask, or a norm, which saves what it reads; experts' outputs are
    saved for the gradient of their weights.
    """
    parameters, recomputed = 0, [block for block in blocks if block.gradient_checkpointing and block.training]
    for block in recomputed:
        sizes = [size for *_, size in weights_of(block, share)]  # every family registers its last product last
        parameters += sum(sizes)
        options = getattr(block._gradient_checkpointing_func, "keywords", {})
        stops_early = options.get("use_reentrant") is False and options.get("early_stop", True)  # torch's default is reentrant
        modules = dict(block.named_modules())
        has_dropout = any(getattr(modules.get(name), "p", 0) > 0 for name in LAST_DROPOUTS)
        follows = has_dropout or share < 1 or any(name in modules for name in LAST_NORMS)
        if stops_early and not follows:
            parameters -= sizes[-1]
    return parameters, len(recomputed)
