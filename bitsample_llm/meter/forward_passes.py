"""What forward passes did a model run, and in which shapes? B rows, T tokens per row, S sequences of real tokens."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

MOST_KEPT = 64  # passes of a generation


class Shape(NamedTuple):
    """What the price of a pass depends on."""

    tokens: int
    attended: int  # sum over tokens of the positions each attends to
    outputs: int  # tokens that reach the output projection


@dataclass(frozen=True)
class ForwardCall:
    """One forward pass as it was seen. `has_head` is false where only the blocks ran."""

    ids_BT: torch.Tensor
    kwargs: dict
    cached_tokens: int
    started: float
    ended: float
    has_head: bool

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def has_cache(self) -> bool:
        return self.kwargs.get("past_key_values") is not None

    @property
    def kept_outputs(self) -> int:
        """Positions per row that reach the output projection."""
        length, kept = self.ids_BT.shape[1], self.kwargs.get("logits_to_keep", 0)
        if isinstance(kept, torch.Tensor):
            return kept.numel()
        return min(kept, length) if kept else length

    @property
    def mask_BT(self) -> torch.Tensor:
        """Which positions are real, those in the cache included; all where the call does not say."""
        mask_BT = self.kwargs.get("attention_mask")
        if mask_BT is not None and mask_BT.dim() == 2:
            return mask_BT
        rows, length = self.ids_BT.shape
        return torch.ones((rows, self.cached_tokens + length), dtype=torch.long, device=self.ids_BT.device)

    @property
    def executed_with_cache(self) -> "Shape":
        """Executed shape of a pass that has a cache, whose own tokens were priced in the pass that put them there."""
        rows, length = self.ids_BT.shape
        return Shape(rows * length, rows * length * (self.cached_tokens + length), rows * self.kept_outputs)


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
        self._has_head = model.get_output_embeddings() is not None
        self.hooks = []
        for module in {id(module): module for module in (model, model.base_model)}.values():
            self.hooks.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            self.hooks.append(module.register_forward_hook(self._after, with_kwargs=True))

    def _before(self, module, args, kwargs) -> None:
        is_inside = self._whole_pass_under_way and module is not self._model
        if is_inside or _ids(args, kwargs) is None:  # a trainer runs other code in the model's call, to have its weights gathered
            return
        self._whole_pass_under_way = module is self._model
        past = kwargs.get("past_key_values")
        self._cached_tokens = past.get_seq_length() if past is not None else 0
        self._started = time.perf_counter()

    def _after(self, module, args, kwargs, output) -> None:
        is_whole = module is self._model
        if (self._whole_pass_under_way and not is_whole) or (ids_BT := _ids(args, kwargs)) is None:
            return
        self._whole_pass_under_way = False
        has_head = is_whole and self._has_head
        self._tell(ForwardCall(ids_BT, kwargs, self._cached_tokens, self._started, time.perf_counter(), has_head))


def causal_positions(lengths: Iterable[int]) -> int:
    """Positions that the tokens of sequences attend to, each token to those before it and to itself."""
    return sum(length * (length + 1) // 2 for length in lengths)


def full_pass_shapes(call: ForwardCall, skips_padding: bool) -> tuple[Shape, Shape]:
    """Executed and useful shape of a pass without a cache. `skips_padding`: attention stays within each sequence of a packed row,
    as flash attention does.
    """
    rows, length = call.ids_BT.shape
    is_packed = call.kwargs.get("attention_mask") is None and call.kwargs.get("position_ids") is not None
    if is_packed:
        lengths_S = [end - start for _, start, end in real_sequences(call.ids_BT, call.kwargs)]
    else:
        lengths_S = call.mask_BT.sum(dim=1).tolist()
    attended = sum(num * num for num in lengths_S) if is_packed and skips_padding else rows * length * length
    if not call.has_head:
        outputs = labelled = 0
    elif call.kwargs.get("fused_lm_head"):
        labelled = int((call.kwargs["labels"][:, 1:] != -100).sum())
        # the fused head picks the labelled positions out on CUDA and projects every position elsewhere
        outputs = labelled if call.ids_BT.device.type == "cuda" else rows * (length - 1)
    else:
        outputs = labelled = rows * call.kept_outputs
    useful = Shape(sum(lengths_S), causal_positions(lengths_S), min(labelled, sum(lengths_S)))
    return Shape(rows * length, attended, outputs), useful


def real_sequences(ids_BT: torch.Tensor, inputs: dict) -> list[tuple[int, int, int]]:
    """(row, start, end) of each sequence of real tokens; packing puts several in one row, told by their positions."""
    rows, length = ids_BT.shape
    if (mask_BT := inputs.get("attention_mask")) is not None:
        starts, lengths = mask_BT.int().argmax(dim=1).tolist(), mask_BT.sum(dim=1).tolist()
        return [(row, start, start + num) for row, (start, num) in enumerate(zip(starts, lengths, strict=True))]
    if (positions_BT := inputs.get("position_ids")) is None:
        return [(row, 0, length) for row in range(rows)]
    sequences = []
    for row, positions_T in enumerate(positions_BT.cpu()):
        starts = torch.nonzero(positions_T == 0).flatten().tolist()
        sequences += [(row, start, end) for start, end in zip(starts, [*starts[1:], length], strict=True)]
    return sequences


def continued_pass_shapes(call: ForwardCall) -> tuple[Shape, Shape]:
    """Executed and useful shape of a pass of several tokens per row after a cache: answers after tokens that were computed once."""
    lengths_B, cached_B = call.mask_BT.sum(dim=1), call.mask_BT[:, : call.cached_tokens].sum(dim=1)
    tokens = int((lengths_B - cached_B).sum())
    attended = causal_positions(lengths_B.tolist()) - causal_positions(cached_B.tolist())
    executed = call.executed_with_cache
    return executed, Shape(tokens, attended, min(executed.outputs, tokens))


class GenerationShapes:
    """Executed and useful shapes of the passes of a generation with a cache; useful are distinct prompts and rows not ended.

    A pass is kept and looked at later, many in a row: one by one, between products that fill the processor's caches, it takes numpy
    several times as long, and an accelerator has to be waited for. In numpy, which is quicker than torch with so few numbers.
    """

    def __init__(self, eos_token_ids: torch.Tensor, tell: Callable[[str, tuple[Shape, Shape]], None]):
        self._eos_token_ids, self._tell = eos_token_ids.cpu().numpy(), tell
        self._kept: list[tuple[str, Shape, torch.Tensor, torch.Tensor | None, bool]] = []
        self._lengths_B = np.empty(0, dtype=int)  # real tokens of each row
        self._alive_B = np.empty(0, dtype=bool)  # rows of the current generation that have not ended
        self._last_length = 0  # of the pass before
        self._next_mask_shape = (0, 0)

    def phase(self, call: ForwardCall) -> str:
        """Whether a pass begins a generation, `prefill`, or goes on, `decode`; without a cache every pass begins at the prompt."""
        length, before = call.ids_BT.shape[1], self._last_length
        self._last_length = length
        return "decode" if (call.cached_tokens > 0 if call.has_cache else length == before + 1) else "prefill"

    def keep(self, phase: str, call: ForwardCall) -> None:
        """Keep a pass until `tell_kept`, or until there are many."""
        rows, length = call.mask_BT.shape
        # `generate` adds a column of ones to its mask in each pass: thousands of columns are not summed up each time
        lengths_B = None if call.cached_tokens and (rows, length) == self._next_mask_shape else call.mask_BT.sum(dim=1)
        self._next_mask_shape = (rows, length + 1)
        # a copy: the last tokens may be a view of all tokens so far
        ids_BT = call.ids_BT[:, -1:].clone() if call.cached_tokens else call.ids_BT
        self._kept.append((phase, call.executed_with_cache, ids_BT, lengths_B, call.cached_tokens > 0))
        if len(self._kept) == MOST_KEPT:
            self.tell_kept()

    def tell_kept(self) -> None:
        """Tell of each pass that was kept: its phase, and its executed and useful shape."""
        kept, self._kept = self._kept, []
        for phase, executed, ids_BT, lengths_B, goes_on in kept:
            self._lengths_B = self._lengths_B + 1 if lengths_B is None else lengths_B.cpu().numpy()
            useful = self._of_decoding(ids_BT) if goes_on else self._of_prompts(ids_BT)
            self._tell(phase, (executed, useful))

    def _of_prompts(self, ids_BT: torch.Tensor) -> Shape:
        self._alive_B = np.ones(len(ids_BT), dtype=bool)
        prompts = (ids.tobytes() for ids in ids_BT.cpu().numpy())
        lengths = dict(zip(prompts, self._lengths_B.tolist(), strict=True)).values()
        return Shape(sum(lengths), causal_positions(lengths), len(lengths))

    def _of_decoding(self, ids_BT: torch.Tensor) -> Shape:
        if len(self._alive_B) != len(ids_BT):  # a sampler that lets finished rows leave the batch
            self._alive_B = np.ones(len(ids_BT), dtype=bool)
        self._alive_B &= (ids_BT.cpu().numpy() != self._eos_token_ids).all(axis=1)
        num_alive = int(self._alive_B.sum())
        return Shape(num_alive, int(self._lengths_B[self._alive_B].sum()), num_alive)
