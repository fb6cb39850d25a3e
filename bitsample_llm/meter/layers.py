"""Which layers of a model multiply matrices, which of them train, and which does the backward pass run again?"""

from dataclasses import dataclass

import torch

FIRST_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn")
# Feed-forward layers that read what attention reads, and the one that writes; of GPT-NeoX and StableLM only where the config says so.
PARALLEL_PROJECTIONS = {
    "phi": (("fc1",), "fc2"),
    "gpt_neox": (("dense_h_to_4h",), "dense_4h_to_h"),
    **dict.fromkeys(("cohere", "cohere2", "stablelm"), (("gate_proj", "up_proj"), "down_proj")),
}
LAST_DROPOUTS = ("mlp.dropout", "post_mlp_dropout")  # of a block, after its last product
LAST_NORMS = ("post_feedforward_layernorm", "post_mlp_layernorm")


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
    first, config = FIRST_PROJECTIONS, causal_lm.config.get_text_config()
    if config.model_type in PARALLEL_PROJECTIONS and getattr(config, "use_parallel_residual", True):
        # the first feed-forward layers read the embedded tokens too
        reading, writing = PARALLEL_PROJECTIONS[config.model_type]
        first += reading
        trains = any(weight.requires_grad for name, weight, _ in matrices if any(f".0.mlp.{part}" in name for part in reading))
        first += (writing,) * (not trains)
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
    follows, which saves its mask, or a norm, which saves what it reads.
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
        follows = any(getattr(modules.get(name), "p", 0) > 0 for name in LAST_DROPOUTS) or any(
            name in modules for name in LAST_NORMS
        )
        if stops_early and not follows:
            parameters -= sizes[-1]
    return parameters, num_blocks
