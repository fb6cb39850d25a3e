"""What a generation computed of its prompts, so that answers can be scored after them without another pass over the prompts.

Shapes: B sequences, T tokens, V vocabulary.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch

from bitsample_llm.scoring.likelihood import MAX_LOGITS, Spelling, logprobs_of_answers, padded_batch

MOST_KEPT = 2**28  # keys and values, while a generation runs that has many more: half a gigabyte in bfloat16
NOISE = ("drop", "jitter", "noise")  # in the name of a model's setting: what makes training passes random


def is_deterministic(model) -> bool:
    """Whether a model in training mode, in which a trainer generates, computes what it computes in evaluation mode."""
    settings = [model.config.get_text_config().to_dict(), *map(vars, model.modules())]
    chances = [value for each in settings for key, value in each.items() if any(part in key for part in NOISE)]
    chances += [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    return not any(type(chance) in (int, float) and chance for chance in chances)


def is_growing(cache) -> bool:
    """Whether a cache holds keys and values of all tokens, or of a window of them, in tensors that a longer one replaces."""
    layers = getattr(cache, "layers", None)
    return bool(layers) and all(type(layer).__name__ in ("DynamicLayer", "DynamicSlidingWindowLayer") for layer in layers)


def selected(cache, rows: list[int]):
    """A cache of some rows of another, which stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(torch.tensor(rows, device=cache.layers[0].keys.device))
    return chosen


class PromptStates:
    """Keys, values and next-token logits after the distinct prompts of a generation, until they are asked for or the model changes: `clear` then."""

    def __init__(self):
        self._parts: list[tuple[dict, torch.Tensor, object, torch.Tensor]] = []

    def clear(self) -> None:
        self._parts = []

    def keep(self, call: dict, output) -> None:
        """Take what a model was called with (by name) and what it returned, where that was a pass over prompts padded on the left."""
        ids_BT, mask_BT, cache = (call.get(key) for key in ("input_ids", "attention_mask", "past_key_values"))
        if ids_BT is None or not is_growing(cache):
            return
        mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT
        if mask_BT.dim() != 2 or cache.get_seq_length() != ids_BT.shape[1] or not bool(mask_BT[:, -1].all()):
            return
        row_of_prompt = {}
        for row, (ids, length) in enumerate(zip(ids_BT.tolist(), mask_BT.sum(dim=1).tolist(), strict=True)):
            row_of_prompt.setdefault(tuple(ids[-length:]), row)
        rows = list(row_of_prompt.values())
        if len(rows) * sum(layer.keys[0].numel() + layer.values[0].numel() for layer in cache.layers) <= MOST_KEPT:
            places = {prompt: place for place, prompt in enumerate(row_of_prompt)}
            self._parts.append((places, mask_BT[rows], selected(cache, rows), output.logits[rows, -1]))

    @torch.no_grad()
    def logprobs(self, model, spelled: Sequence[Spelling]) -> dict[int, np.ndarray]:
        """What `spelling_logprobs` gives, by the spelling's place, of those whose prompts were kept; they are kept no longer."""
        parts, self._parts = self._parts, []
        result: dict[int, np.ndarray] = {}
        was_training = model.training
        model.eval()
        for places, mask_PT, cache, logits_PV in parts:
            prompts = enumerate(tuple(spelling.prompt_ids) for spelling in spelled)
            found = [(index, places[prompt]) for index, prompt in prompts if prompt in places and index not in result]
            longest = max((len(spelled[index].answer_ids) for index, _ in found), default=1)
            size = max(1, MAX_LOGITS // ((longest + 1) * logits_PV.shape[1]))
            for start in range(0, len(found), size):
                indices, rows = zip(*found[start : start + size], strict=True)
                batch_logits = _logits_after(model, [spelled[i] for i in indices], mask_PT[list(rows)], selected(cache, list(rows)))
                logits_BTV = torch.cat([logits_PV[list(rows), None], batch_logits], dim=1)
                logps = logprobs_of_answers([logits_BTV], [spelled[index] for index in indices], [0] * len(indices))
                result |= zip(indices, logps, strict=True)
        model.train(was_training)
        return result


def _logits_after(model, spelled: Sequence[Spelling], mask_BT: torch.Tensor, cache) -> torch.Tensor:
    """Logits (B, T, V) after each token of the answers but their ends, which nothing is asked after."""
    # two positions or more: one alone is taken for a step of a generation
    tokens = [s.answer_ids[:-1] or s.answer_ids for s in spelled]
    batch = padded_batch([*tokens, [0, 0]], 0)
    ids_BT, answer_mask_BT = (batch[key][:-1].to(mask_BT.device) for key in ("input_ids", "attention_mask"))
    positions_BT = mask_BT.sum(dim=1, keepdim=True) + torch.arange(ids_BT.shape[1], device=mask_BT.device)
    mask_BT = torch.cat([mask_BT, answer_mask_BT], dim=1)
    return model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, past_key_values=cache, use_cache=True).logits
