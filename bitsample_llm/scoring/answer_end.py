"""Where does an answer end? One rule for the sampler, the exact probability, the label and the verdict.

A completion ends with a token: end of sequence (the tokenizer's, and those of the model's generation configuration) or, where a
stop is named, the first token whose text holds the whole stop. What that token writes before the stop is part of the answer
(`.\\n` writes a full stop), what it writes after the stop is not. A stop that a model writes in pieces, over several tokens,
ends nothing.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

from bitsample_llm.scoring.spellings import MAX_SPELLINGS, decoded, listed_spellings, pieces


@dataclass(frozen=True)
class AnswerEnd:
    """The tokens that end an answer, made by `of`."""

    tokenizer: object = field(repr=False)
    stop: str | None  # the text that ends an answer; None where only end of sequence does
    label_token_id: int  # the token that a label ends with
    before_inside: dict[int, bytes]  # end token -> what it writes before the stop, after other tokens; end of sequence comes first
    before_at_start: dict[int, bytes]  # the same for the first token of a completion
    tail_lengths: dict[int, int] = field(default_factory=dict)  # end token -> characters from the stop on, if it writes some before

    @classmethod
    def of(cls, model, tokenizer, stop: str | None = None) -> "AnswerEnd":
        """How answers of a model end; without a model by the tokenizer's end of sequence, and the stop.

        Raises:
            ValueError: if the tokenizer has no EOS token, or writes the stop in several tokens.
        """
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no EOS token; an answer without an end has no pass rate: set tokenizer.eos_token")
        declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        declared = [declared] if isinstance(declared, int) else list(declared or ())
        before = dict.fromkeys([tokenizer.eos_token_id, *declared], b"")
        if stop is None:
            return cls(tokenizer, None, tokenizer.eos_token_id, before, before)
        label_token_id = _single_token(tokenizer, stop)
        if label_token_id is None:
            part = next((stop[:n] for n in range(len(stop) - 1, 0, -1) if _single_token(tokenizer, stop[:n]) is not None), None)
            hint = "name a text that is a single token" if part is None else f"name a part that is a single token, such as {part!r}"
            raise ValueError(
                f"the stop {stop!r} takes several tokens of this tokenizer, and sampling ends at single tokens: {hint}"
            )
        at_start, inside = (_holders(of_token, stop.encode()) for of_token in pieces(tokenizer))
        before |= {token: written.partition(stop.encode())[0] for token, written in inside.items()}
        before[tokenizer.eos_token_id] = b""
        first = {token: at_start.get(token, b"").partition(stop.encode())[0] for token in before}
        tails = {token: inside[token][len(text) :].decode(errors="replace") for token, text in before.items() if text}
        return cls(tokenizer, stop, label_token_id, before, first, {token: len(tail) for token, tail in tails.items()})

    def declare(self, model) -> None:
        """Make the model's `generate`, and TRL trainers made of the model from now on, end at the stop."""
        if self.stop is not None:
            model.generation_config.eos_token_id = self.token_ids

    @property
    def token_ids(self) -> list[int]:
        """All tokens that end an answer, the tokenizer's end of sequence first."""
        return list(self.before_inside)

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return token in self.before_inside

    def text_before(self, ids: Sequence[int]) -> bytes:
        """What the last token of an ended completion writes before the stop."""
        return (self.before_at_start if len(ids) == 1 else self.before_inside)[ids[-1]]

    def texts_and_ends(self, completion_ids: Sequence[list[int]]) -> list[tuple[str, bool]]:
        """All that was sampled up to the end, special tokens included but for the one that ended it, and whether it ended."""
        kept, cut, ends = [], [], []
        for ids in completion_ids:
            ended = bool(ids) and self.is_end(ids[-1])
            straddles = ended and bool(self.text_before(ids))  # the last token writes a part of the answer too
            kept.append(ids[:-1] if ended and not straddles else ids)
            cut.append(self.tail_lengths[ids[-1]] if straddles else 0)
            ends.append(ended)
        return list(zip(decoded(self.tokenizer, kept, cut), ends, strict=True))

    def spellings(self, text: str, limit: int = MAX_SPELLINGS) -> list[tuple[list[int], tuple[int, ...]]] | None:
        """All ways to write an answer and end it: the tokens before the last, and those of which any may be the last; None if
        there are none, or more than `limit`, or not to be listed.
        """
        written = text.encode()
        ways = []
        for before in {*self.before_inside.values(), *self.before_at_start.values()}:
            if not written.endswith(before):
                continue
            heads = listed_spellings(self.tokenizer, written[: len(written) - len(before)], self.before_inside, limit)
            if heads is None:
                return None
            ways += [(ids, ends) for ids in heads if (ends := self.ends_after(ids, before))]
        ways.sort()
        if not ways:
            return None
        again = self.texts_and_ends([[*ids, ends[0]] for ids, ends in ways])
        ways = [way for way, (written_text, _) in zip(ways, again, strict=True) if written_text == text]
        return ways if 0 < len(ways) <= limit else None

    def ends_after(self, ids: Sequence[int], before: bytes = b"") -> tuple[int, ...]:
        """The tokens that end an answer after `ids`, and write `before` before the stop."""
        return self._ends_by_text[bool(ids)].get(before, ())

    @functools.cached_property
    def remembered(self) -> dict:
        """What the scoring of answers keeps for this tokenizer and this end."""
        return {}

    @functools.cached_property
    def _ends_by_text(self) -> tuple[dict[bytes, tuple[int, ...]], ...]:
        """What is written before the stop -> the tokens that write it: at the start of a completion, and after other tokens."""
        ends_by_text: tuple[dict, dict] = ({}, {})
        for ends, before in zip(ends_by_text, (self.before_at_start, self.before_inside), strict=True):
            for token, text in before.items():
                ends[text] = (*ends.get(text, ()), token)
        return ends_by_text


def _holders(ids_by_text: dict[bytes, list[int]], stop: bytes) -> dict[int, bytes]:
    """The tokens whose text holds the stop, with their text, in order."""
    return dict(sorted((token, text) for text, ids in ids_by_text.items() if stop in text for token in ids))


def _single_token(tokenizer, stop: str) -> int | None:
    """The token that is the stop; None where the tokenizer, between other characters, writes the stop in pieces."""
    exact = pieces(tokenizer)[1].get(stop.encode(), [])
    in_text = tokenizer(f"0{stop}0", add_special_tokens=False)["input_ids"]
    if not exact or not _holders(pieces(tokenizer)[1], stop.encode()).keys() & set(in_text):
        return None
    return next((token for token in in_text if token in exact), exact[0])
