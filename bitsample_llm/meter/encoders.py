"""What did the encoders of images or sounds in a model cost? Their products are seen as they run, once per shape; the same shape costs the same again.

Backward is told from the products: each has a gradient of its input, but for the first, which reads pixels, and one of its weight, where that trains.
"""

from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from bitsample_llm.meter.layers import recomputable_blocks, recomputation, text_decoder, weights_of

aten = torch.ops.aten
OF_TWO_ACTIVATIONS = (aten.bmm, aten.baddbmm)  # those of attention, as are all that torch calls so


class Products(NamedTuple):
    """FLOPs of a forward pass: of the first product with a weight, of all of them, and of attention."""

    first: float = 0.0
    weights: float = 0.0
    attention: float = 0.0


class _Products(TorchDispatchMode):
    """Prices what runs while it is on, with torch's own formulas."""

    def __init__(self):
        super().__init__()
        self.seen = Products()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output, product = func(*args, **kwargs or {}), func._overloadpacket
        if product is aten._scaled_dot_product_flash_attention_for_cpu:  # of which torch's counter does not know
            flops = sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
        elif product in flop_registry:
            flops = flop_registry[product](*args, **kwargs or {}, out_val=output)
        else:
            return output
        first, weights, attention = self.seen
        if product in OF_TWO_ACTIVATIONS or "attention" in product.__name__:
            self.seen = Products(first, weights, attention + flops)
        else:
            self.seen = Products(first or flops, weights + flops, attention)
        return output


def encoders(causal_lm) -> list[torch.nn.Module]:
    """Modules beside the one that decodes text: encoders, and what projects their outputs."""
    decoder, head = text_decoder(causal_lm), causal_lm.get_output_embeddings()
    found, module = [], causal_lm
    while module is not decoder:
        children = [part for child in module.children() for part in (child if isinstance(child, torch.nn.ModuleList) else [child])]
        inner = next(child for child in children if any(part is decoder for part in child.modules()))
        found += [child for child in children if child is not inner and child is not head]
        module = inner
    return found


class EncoderWatcher:
    """Sums up forward and backward FLOPs of a model's encoders, until they are taken."""

    def __init__(self, causal_lm):
        self.hooks = []
        self._known: dict[tuple, Products] = {}
        self._mode: _Products | None = None
        self._shape: tuple = ()
        self._flops = (0.0, 0.0)
        for module in encoders(causal_lm):
            self.hooks.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            self.hooks.append(module.register_forward_hook(self._after, with_kwargs=True, always_call=True))

    def take(self) -> tuple[float, float]:
        """FLOPs of forward and backward passes since the last call."""
        flops, self._flops = self._flops, (0.0, 0.0)
        return flops

    def _before(self, module, args, kwargs) -> None:
        self._shape = _shape(module, args, kwargs)
        if self._shape not in self._known:
            self._mode = _Products()
            self._mode.__enter__()

    def _after(self, module, args, kwargs, output) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            seen, self._mode = self._mode.seen, None
            if output is None:  # it failed
                return
            self._known[self._shape] = seen
        products, backward = self._known[self._shape], 0.0
        if any(_need_gradient(output)):
            backward = backward_flops(module, products, any(_need_gradient((args, kwargs))))
        self._flops = (self._flops[0] + products.weights + products.attention, self._flops[1] + backward)


def _need_gradient(values) -> list[bool]:
    return [value.requires_grad for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def backward_flops(module, products: Products, inputs_need_gradient: bool) -> float:
    """FLOPs of the backward pass of a module whose outputs need a gradient, what gradient checkpointing runs again included."""
    sizes = [(weight.requires_grad, size) for _, weight, size in weights_of(module, 1.0)]
    recomputed, num_blocks = recomputation(recomputable_blocks(module), 1.0)
    again = sum(size for trains, size in sizes if trains) + recomputed
    weights = products.weights * (1 + again / max(sum(size for _, size in sizes), 1))
    return weights + products.attention * (2 + (num_blocks > 0)) - (0.0 if inputs_need_gradient else products.first)


def _shape(module, args: tuple, kwargs: dict) -> tuple:
    """What the cost of a pass depends on: the shapes of its tensors, and the values of those that say how images are laid out."""
    values = [*enumerate(args), *kwargs.items()]
    tensors = [(name, value) for name, value in values if isinstance(value, torch.Tensor)]
    whole = [(name, value) for name, value in tensors if not (value.is_floating_point() or "mask" in str(name))]
    layout = [(name, tuple(value.flatten().tolist())) for name, value in whole]
    return id(module), *((name, tuple(value.shape)) for name, value in tensors), *layout
