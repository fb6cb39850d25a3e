"""How many floating-point operations does a forward pass of a decoder execute, from its shapes alone?

Two FLOPs per multiply-add, matrix products only: embedding look-ups, norms, activations and softmax are left out, as
`torch.utils.flop_counter.FlopCounterMode` leaves them out. What a run really executed is counted from the shapes that
ran (`meter/flop_counter.py`); these formulas price those shapes, and predict.
"""

from dataclasses import dataclass

# Feed-forward matrices of a block: three with a gate, two without. Types of models whose products are these formulas' and no others.
GATED = "llama mistral qwen2 qwen3 smollm3 gemma gemma2 gemma3_text olmo olmo2 olmo3 cohere cohere2 phi3 granite stablelm glm glm4 exaone4 ernie4_5 helium hunyuan_v1_dense"
UNGATED = "gpt2 gpt_neox phi starcoder2 nemotron bloom persimmon arcee apertus"
MIXTURES = ("mixtral", "qwen3_moe", "olmoe", "gpt_oss", "granitemoe", "phimoe")  # of gated experts, a few for each token
FEED_FORWARD_MATRICES = dict.fromkeys((*GATED.split(), *MIXTURES), 3) | dict.fromkeys(UNGATED.split(), 2)


@dataclass(frozen=True)
class MatrixProducts:
    """What a token is multiplied with in a forward pass.

    Attributes:
        block_parameters: of all blocks, of experts those that it goes through; no embeddings, norms, biases or output.
        output_parameters: of the output projection, which counts once whether it is tied to the embedding or not.
        attention_flops: of scores and values, per position that a token attends to.
        num_blocks: how many blocks there are.
    """

    block_parameters: float
    output_parameters: float
    attention_flops: float
    num_blocks: int


def matrix_products(config) -> MatrixProducts:
    """Of a transformers config of a known `model_type`; what are products already, stays what it is."""
    if isinstance(config, MatrixProducts):
        return config
    shape = widths(config)
    attention = shape["hidden"] * (2 * shape["query"] + 2 * shape["key_value"])
    feed_forward = shape["feed_forward_matrices"] * shape["hidden"] * shape["inner"]
    return MatrixProducts(
        block_parameters=shape["layers"] * (attention + feed_forward + shape["hidden"] * shape["experts"]),
        output_parameters=shape["hidden"] * shape["vocabulary"],
        attention_flops=4 * shape["layers"] * shape["query"],
        num_blocks=shape["layers"],
    )


def widths(config) -> dict[str, int]:
    """Widths of the matrices that take part in products, read off a transformers config."""
    if (model_type := config.model_type) not in FEED_FORWARD_MATRICES:
        raise ValueError(f"no FLOP formula for model type {model_type!r}; known: {', '.join(FEED_FORWARD_MATRICES)}")
    hidden, heads = config.hidden_size, config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
    experts, active = num_experts(config)
    inner = active * (getattr(config, "moe_intermediate_size", None) or inner) if experts else inner
    return {
        "layers": config.num_hidden_layers,
        "hidden": hidden,
        "query": heads * head_dim,
        "key_value": (getattr(config, "num_key_value_heads", None) or heads) * head_dim,
        "inner": inner,
        "experts": experts,
        "feed_forward_matrices": FEED_FORWARD_MATRICES[model_type],
        "vocabulary": config.vocab_size,
    }


def num_experts(config) -> tuple[int, int]:
    """Experts of each block, and those that a token goes through; none of a model that is no mixture. A ValueError where some blocks have none."""
    if config.model_type not in MIXTURES:
        return 0, 0
    if getattr(config, "decoder_sparse_step", 1) != 1 or getattr(config, "mlp_only_layers", None):
        raise ValueError(f"no FLOP formula for a {config.model_type} with blocks that have no experts")
    return getattr(config, "num_experts", None) or config.num_local_experts, config.num_experts_per_tok


def forward_flops(
    config, num_tokens: int, context_tokens: float, output_tokens: int | None = None, adapter_parameters: int = 0
) -> float:
    """Executed FLOPs of a forward pass.

    Args:
        config: a transformers config of a known `model_type`, or the `MatrixProducts` of a model.
        num_tokens: tokens put through the blocks, all rows together, padding included.
        context_tokens: positions that each of them attends to (a mean where they differ); the full square for eager
            attention, so the padded length.
        output_tokens: tokens that reach the output projection; all of them by default.
        adapter_parameters: LoRA parameters in the blocks, each one multiply-add per token.

    Raises:
        ValueError: for a model type without a formula, or a negative count.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), table 1, without its embedding row.

    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(model_type="llama", hidden_size=4, num_attention_heads=2, num_key_value_heads=1,
    ...                          num_hidden_layers=1, intermediate_size=8, vocab_size=10)
    >>> forward_flops(config, num_tokens=1, context_tokens=1)  # 2*(4*(4+4+2+2) + 3*4*8 + 4*10) + 4*4
    384
    """
    output_tokens = num_tokens if output_tokens is None else output_tokens
    if min(num_tokens, context_tokens, output_tokens) < 0:
        raise ValueError(f"token counts are not negative: {num_tokens}, {context_tokens}, {output_tokens}")
    products = matrix_products(config)
    return (
        2 * (products.block_parameters + adapter_parameters) * num_tokens
        + products.attention_flops * num_tokens * context_tokens
        + 2 * products.output_parameters * output_tokens
    )


def backward_flops(
    config,
    num_tokens: int,
    context_tokens: float,
    output_tokens: int | None = None,
    adapter_parameters: int = 0,
    trainable_parameters: int | None = None,
    inputs_without_gradient: int = 0,
    output_trainable: bool = True,
    output_recomputed: bool = False,
    recomputed_parameters: int = 0,
    recomputed_blocks: int = 0,
) -> float:
    """Executed FLOPs of the backward pass of `forward_flops` with the same shapes: twice as many if everything trains.

    A product has a gradient of its input (always, but for the first layer of a model whose embedding is frozen) and one
    of its weight (where the weight trains).

    Args:
        trainable_parameters: of the blocks, adapters included; all of them by default.
        inputs_without_gradient: parameters of the layers whose input needs no gradient.
        output_trainable: whether the output projection trains.
        output_recomputed: whether backward computes the logits again, as TRL's fused head does.
        recomputed_parameters: of the layers that backward runs again (gradient checkpointing), adapters included.
        recomputed_blocks: blocks whose attention backward runs again.
    """
    output_tokens = num_tokens if output_tokens is None else output_tokens
    products = matrix_products(config)
    present = products.block_parameters + adapter_parameters
    trainable = present if trainable_parameters is None else trainable_parameters
    attention = products.attention_flops * num_tokens * context_tokens
    multiplied = 2 * (present - inputs_without_gradient + trainable) * num_tokens + 2 * attention
    output = 2 * products.output_parameters * output_tokens * (1 + output_trainable + output_recomputed)
    recomputed = 2 * recomputed_parameters * num_tokens + attention * recomputed_blocks / products.num_blocks
    return multiplied + output + recomputed
