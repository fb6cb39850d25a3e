"""In how many ways can a tokenizer write a string, and which are they?

A sampler that writes `4` and then `6` passes as well as one that writes the token `46`: the exact pass rate is the sum over
all token sequences that decode to the accepted string. They are found by cutting the string's bytes into tokens.
"""

import functools
import json
import re
from collections import defaultdict
from collections.abc import Collection, Sequence

MAX_SPELLINGS = 64  # of one answer that are scored; one with more has no exact pass rate
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@functools.lru_cache(maxsize=8)
def known_ids(tokenizer) -> frozenset[int]:
    """Token ids that the tokenizer knows; a model's output layer may have more, which decode to nothing at all."""
    return frozenset(tokenizer.get_vocab().values())


def decoded(tokenizer, sequences: Sequence[list[int]], cut: Sequence[int] | None = None) -> list[str]:
    """The text of each sequence, special tokens included and nothing tidied up, without the last `cut` characters; an id that
    no token has is written as � at the end, so that a completion with one is never taken for one without.
    """
    texts = tokenizer.batch_decode(sequences, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if cut is not None:
        texts = [text[: len(text) - num] for text, num in zip(texts, cut, strict=True)]
    known = known_ids(tokenizer)
    return [text if known.issuperset(ids) else f"{text}\ufffd" for text, ids in zip(texts, sequences, strict=True)]


def _byte_of_character() -> dict[str, int]:
    """How byte-level BPE writes bytes as printable characters (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


@functools.lru_cache(maxsize=8)
def pieces(tokenizer) -> tuple[dict[bytes, list[int]], dict[bytes, list[int]]]:
    """What each token adds to the text, as bytes -> ids: at the beginning of a completion, and after other tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.dumps(json.loads(backend.to_str())["decoder"]) if backend is not None else ""
    vocabulary, added = tokenizer.get_vocab(), tokenizer.get_added_vocab()
    at_start, inside = defaultdict(list), defaultdict(list)
    if '"ByteLevel"' in decoder:
        byte_of = _byte_of_character()
        for token, index in vocabulary.items():
            written = token.encode() if token in added else bytes(byte_of[character] for character in token)
            inside[written].append(index)
        return dict(inside), dict(inside)
    before = tokenizer("0", add_special_tokens=False)["input_ids"][-1]
    ids = list(vocabulary.values())
    alone, after = decoded(tokenizer, [[index] for index in ids]), decoded(tokenizer, [[before, index] for index in ids])
    length = len(decoded(tokenizer, [[before]])[0])
    for (token, index), first, then in zip(vocabulary.items(), alone, after, strict=True):
        byte = BYTE_TOKEN.fullmatch(token) if '"ByteFallback"' in decoder else None
        if byte and int(byte[1], 16) > 127:  # part of a character: alone it decodes to �
            text_at_start = text_inside = bytes.fromhex(byte[1])
        else:
            text_at_start, text_inside = first.encode(), then[length:].encode()
        at_start[text_at_start].append(index)
        inside[text_inside].append(index)
    return dict(at_start), dict(inside)


def num_ways(tokenizer, written: bytes) -> tuple[int, list[int]]:
    """How many token sequences write the bytes, as far as tokens decode apart from one another; and how many, after other tokens,
    write what begins at each byte. A ValueError where a token adds nothing to a text, of which any number could be written.
    """
    at_start, inside = pieces(tokenizer)
    if inside.get(b""):
        raise ValueError(f"token {inside[b''][0]} of the tokenizer adds nothing to a text: no string has a last spelling")
    longest = max(map(len, inside))
    ways = [0] * len(written) + [1]
    for start in reversed(range(len(written))):
        ends = range(start + 1, min(start + longest, len(written)) + 1)
        ways[start] = sum(len(inside.get(written[start:end], ())) * ways[end] for end in ends)
    return (not written) + sum(len(at_start.get(written[:end], ())) * num for end, num in enumerate(ways)), ways


def listed_spellings(tokenizer, written: bytes, barred: Collection[int], limit: int) -> list[list[int]] | None:
    """All token sequences whose bytes, put together, are `written` and which hold none of the `barred` ids, perhaps none at
    all; None if they are more than `limit`, or not to be listed: a token that adds nothing, or a � in the text, which stands
    for any broken byte.
    """
    try:
        num, ways = num_ways(tokenizer, written)
    except ValueError:
        return None
    if num > limit or "\ufffd".encode() in written:
        return None
    at_start, inside = pieces(tokenizer)
    unfinished, finished = [([], 0)], []
    while unfinished:
        ids, start = unfinished.pop()
        if start == len(written) and (ids or not written):
            finished.append(ids)
        if start == len(written) and ids:
            continue
        next_pieces = inside if ids else at_start
        for end in range(start, len(written) + 1):
            if ways[end]:
                unfinished += [([*ids, index], end) for index in next_pieces.get(written[start:end], ()) if index not in barred]
    return finished
