"""Which layers of a model multiply matrices, which of them train, and which does the backward pass run again?"""

from dataclasses import dataclass

import torch

FIRST_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "query_key_value", "c_attn")
PARALLEL_PROJECTIONS = ("dense_h_to_4h", "dense_4h_to_h")
LAST_DROPOUTS = ("mlp.dropout", "post_mlp_dropout")  # of a block, after its last product


@dataclass(frozen=True)
class Layers:
    """Numbers of parameters of the layers in the blocks; `first` is of those that read the embedded tokens, whose input needs no
    gradient where the embedding is frozen.
    """

    adapter_parameters: int
    trainable_parameters: int
    first_parameters: int
    output_trainable: bool


def _matrices(module: torch.nn.Module):
    """(name, weight) of the layers that multiply matrices."""
    for name, child in module.named_modules():
        weight = getattr(child, "weight", None)
        is_product = isinstance(child, torch.nn.Linear) or type(child).__name__ == "Conv1D"
        if is_product and isinstance(weight, torch.Tensor):
            yield name, weight


def _num_parameters(weight: torch.Tensor) -> int:
    return getattr(weight, "ds_numel", weight.numel())  # DeepSpeed ZeRO-3 leaves an empty tensor where it shards


def layers_of(causal_lm) -> Layers:
    """The layers of a causal language model as they are now, its adapters included."""
    head = causal_lm.get_output_embeddings()
    matrices = [(name, weight, _num_parameters(weight)) for name, weight in _matrices(causal_lm) if weight is not head.weight]
    first = FIRST_PROJECTIONS
    if getattr(causal_lm.config.get_text_config(), "use_parallel_residual", False):
        # the first feed-forward layer reads the embedded tokens too
        first += PARALLEL_PROJECTIONS[:1]
        trains = any(weight.requires_grad for name, weight, _ in matrices if f".0.mlp.{first[-1]}" in name)
        first += PARALLEL_PROJECTIONS[1:] * (not trains)
    return Layers(
        adapter_parameters=sum(size for name, _, size in matrices if "lora_" in name),
        trainable_parameters=sum(size for _, weight, size in matrices if weight.requires_grad),
        first_parameters=sum(
            size
            for name, _, size in matrices
            if ".0." in name and any(f".{part}" in name for part in first) and "lora_B" not in name
        ),
        output_trainable=head.weight.requires_grad,
    )


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
