"""What a generation computed of its prompts and rollouts, so that answers are scored without another pass over the prompts, and right
answers that it sampled without any pass.

Shapes: B sequences, P distinct prompts, T tokens, V vocabulary.
"""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from bitsample_llm.scoring.likelihood import MAX_LOGITS, Spelling, logprobs_of_answers, padded_batch

MOST_KEPT = 2**28  # keys, values and logits, while a generation runs that has many more: half a gigabyte in bfloat16
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
    if rows != list(range(len(cache.layers[0].keys))):  # else a pass makes tensors of its own too
        chosen.batch_select_indices(torch.tensor(rows, device=cache.layers[0].keys.device))
    return chosen


@dataclass
class _Generation:
    """Of one call of `generate`."""

    rows: dict[tuple[int, ...], list[int]]  # of each distinct prompt
    mask_PT: torch.Tensor
    cache: object  # of the distinct prompts
    logits_BV: torch.Tensor  # after the prompts
    num_cached: int  # tokens per row, of the passes that were kept
    passes: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)  # a sampled token per row, and logits after it

    def sampled_rows(self, spelled: dict[int, Spelling]) -> dict[int, int]:
        """Of each spelling that a rollout has sampled, up to its last token perhaps, the row of one."""
        steps = [ids_B.tolist() for ids_B, _ in self.passes]
        found = {}
        for index, spelling in spelled.items():
            asked = spelling.answer_ids[:-1]
            for row in self.rows[tuple(spelling.prompt_ids)] if len(asked) <= len(steps) else ():
                if all(ids_B[row] == token for ids_B, token in zip(steps, asked, strict=False)):
                    found[index] = row
                    break
        return found

    def logits_after_sampled(self, rows: list[int], num_tokens: int) -> torch.Tensor:
        """Logits (B, T, V) of rows after the prompt and after the first tokens that they sampled."""
        after = [self.logits_BV, *(logits_BV for _, logits_BV in self.passes[:num_tokens])]
        return torch.stack([logits_BV[rows] for logits_BV in after], dim=1)

    def logits_of_pass(self, model, spelled: Sequence[Spelling]) -> torch.Tensor:
        """Logits (B, T, V) after the prompts and the tokens of the answers, by one pass."""
        place_of = {prompt: place for place, prompt in enumerate(self.rows)}
        prompts = [tuple(spelling.prompt_ids) for spelling in spelled]
        places, firsts = [place_of[prompt] for prompt in prompts], [self.rows[prompt][0] for prompt in prompts]
        after = _logits_after(model, spelled, self.mask_PT[places], selected(self.cache, places))
        return torch.cat([self.logits_BV[firsts, None], after], dim=1)


class PromptStates:
    """Keys, values and logits of a generation, until they are asked for or the model changes: `begin` or `clear` then."""

    def __init__(self):
        self.begin(0)

    def begin(self, most_tokens: int) -> None:
        """Forget what was kept; of the rollouts that come so many first tokens may be asked for, and no more are kept."""
        self._most_tokens = most_tokens
        self.clear()

    def clear(self) -> None:
        self._generations: list[_Generation] = []
        self._num_kept = 0

    def keep(self, call: dict, output) -> None:
        """Take what a model was called with (by name) and what it returned, where that was a pass over prompts padded on the left, or over
        one more token of each of their rollouts.
        """
        ids_BT, mask_BT, cache = (call.get(key) for key in ("input_ids", "attention_mask", "past_key_values"))
        if ids_BT is None or not is_growing(cache):
            return
        length = cache.get_seq_length()
        if length > ids_BT.shape[1]:
            self._keep_sampled(ids_BT, length, output.logits[:, -1])
            return
        mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT
        if mask_BT.dim() != 2 or not bool(mask_BT[:, -1].all()):
            return
        rows: dict[tuple[int, ...], list[int]] = {}
        for row, (ids, num) in enumerate(zip(ids_BT.tolist(), mask_BT.sum(dim=1).tolist(), strict=True)):
            rows.setdefault(tuple(ids[-num:]), []).append(row)
        numbers = sum(layer.keys[0].numel() + layer.values[0].numel() for layer in cache.layers)
        if self._fits(len(rows) * numbers):
            firsts = [row for row, *_ in rows.values()]
            kept = _Generation(rows, mask_BT[firsts], selected(cache, firsts), output.logits[:, -1], length)
            self._generations.append(kept)

    def _keep_sampled(self, ids_BT: torch.Tensor, length: int, logits_BV: torch.Tensor) -> None:
        """Take one more token of each rollout of the last generation; one that was left out ends what is kept of it."""
        if self._generations and ids_BT.shape == (len(self._generations[-1].logits_BV), 1):
            last = self._generations[-1]
            is_next = length == last.num_cached + 1 and len(last.passes) < self._most_tokens
            if is_next and self._fits(logits_BV.numel()):
                last.passes.append((ids_BT[:, 0], logits_BV))
                last.num_cached = length

    def _fits(self, numbers: int) -> bool:
        """Whether so many more may be kept; where they may not, nothing that comes after them is."""
        self._num_kept += numbers
        return self._num_kept <= MOST_KEPT

    @torch.no_grad()
    def logprobs(self, model, spelled: Sequence[Spelling]) -> dict[int, np.ndarray]:
        """What `spelling_logprobs` gives, by the spelling's place, of those whose prompts were kept; they are kept no longer."""
        generations = self._generations
        self.clear()
        result: dict[int, np.ndarray] = {}
        was_training = model.training
        model.eval()
        for each in generations:
            asked = {i: s for i, s in enumerate(spelled) if tuple(s.prompt_ids) in each.rows and i not in result}
            sampled = each.sampled_rows(asked)
            for part in _in_parts({index: asked[index] for index in sampled}, each.logits_BV.shape[1]):
                longest = max(len(spelling.answer_ids) for spelling in part.values())
                logits_BTV = each.logits_after_sampled([sampled[index] for index in part], longest - 1)
                result |= _logprobs_of(logits_BTV, part)
            unsampled = {index: spelling for index, spelling in asked.items() if index not in sampled}
            for part in _in_parts(unsampled, each.logits_BV.shape[1]):
                result |= _logprobs_of(each.logits_of_pass(model, list(part.values())), part)
        model.train(was_training)
        return result


def _in_parts(spelled: dict[int, Spelling], vocabulary: int) -> Iterator[dict[int, Spelling]]:
    """Spellings by their place, so many at a time that their logits fit into memory."""
    longest = max((len(spelling.answer_ids) for spelling in spelled.values()), default=1)
    size = max(1, MAX_LOGITS // ((longest + 1) * vocabulary))
    for start in range(0, len(spelled), size):
        yield dict(itertools.islice(spelled.items(), start, start + size))


def _logprobs_of(logits_BTV: torch.Tensor, spelled: dict[int, Spelling]) -> dict[int, np.ndarray]:
    return dict(zip(spelled, logprobs_of_answers([logits_BTV], list(spelled.values()), [0] * len(spelled)), strict=True))


def _logits_after(model, spelled: Sequence[Spelling], mask_BT: torch.Tensor, cache) -> torch.Tensor:
    """Logits (B, T, V) after each token of the answers but their ends, which nothing is asked after."""
    # two positions or more: one alone is taken for a step of a generation
    tokens = [s.answer_ids[:-1] or s.answer_ids for s in spelled]
    batch = padded_batch([*tokens, [0, 0]], 0)
    ids_BT, answer_mask_BT = (batch[key][:-1].to(mask_BT.device) for key in ("input_ids", "attention_mask"))
    positions_BT = mask_BT.sum(dim=1, keepdim=True) + torch.arange(ids_BT.shape[1], device=mask_BT.device)
    mask_BT = torch.cat([mask_BT, answer_mask_BT], dim=1)
    return model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, past_key_values=cache, use_cache=True).logits
