"""The text of each token of a response.

A token's text depends on its neighbours: a character can be spread over several tokens, and a tokenizer with byte
fallback (Llama 2's, Gemma's, Mistral's) decodes a whole run of bytes to U+FFFD until its last character is complete.
A response is cut where a text stays as it is when the next token comes, never within a run of bytes, and each
stretch between two cuts is decoded as a whole; a token ends where its text agrees with that of the stretch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, takewhile

from transformers import PreTrainedTokenizerBase

CONTEXT = 16  # tokens in front of one that decide how it is written
UNFINISHED = "\ufffd"
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token of byte fallback


def token_texts(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], ids: Sequence[int]) -> list[str]:
    """The text of each token of a response; joined, they are what the response adds to the prompt.

    A character of several tokens is shown at its last one, U+FFFD itself perhaps before.
    """
    start = _start(tokenizer, prompt_ids)
    every = [*prompt_ids[start:], *ids]
    alone = {token: tokenizer.decode([token]) for token in set(ids)}
    if not any(UNFINISHED in text for text in alone.values()):  # mostly each token is written the same everywhere
        texts = [alone[token] for token in ids]
        if tokenizer.decode(every[: len(every) - len(ids)]) + "".join(texts) == tokenizer.decode(every):
            return texts
    # ids beyond the vocabulary, which a model can draw, have no token
    is_byte = [bool(_BYTE.fullmatch(str(token))) for token in tokenizer.convert_ids_to_tokens(every)]
    cut = len(every) - len(ids)
    start, cuts, texts = 0, [0, cut], []
    decoded = [tokenizer.decode(every[:cut])]  # of the stretch: up to its cut, and with each token after it
    for stop in range(cut + 1, len(every) + 1):
        now = tokenizer.decode(every[start:stop])
        stands = now.startswith(decoded[-1]) and not decoded[-1].endswith(UNFINISHED)
        if len(decoded) > 1 and stands and not (is_byte[stop - 2] and is_byte[stop - 1]):
            texts += _added(decoded)
            cuts.append(stop - 1)
            start = max(place for place in cuts if place <= max(0, stop - 1 - CONTEXT))
            decoded = [tokenizer.decode(every[start : stop - 1])]
            now = tokenizer.decode(every[start:stop])
        decoded.append(now)
    return texts + _added(decoded)


def plain_texts(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], ids: Sequence[int]) -> list[str]:
    """The same with no text for special tokens: joined, what rewards read."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    texts = token_texts(tokenizer, prompt_ids, ids)
    return ["" if token in special else text for token, text in zip(ids, texts, strict=True)]


def tokens_within(texts: Sequence[str], start: int, end: int) -> list[bool]:
    """Which tokens have a part of the characters from `start` up to `end` of the joined text.

    Tokens of no text are the first ones of a character of several tokens, and go with it.
    """
    within, place = [], 0
    for text in texts:
        within.append(place < end and place + max(len(text), 1) > start)
        place += len(text)
    return within


def _start(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int]) -> int:
    """Where the context in the prompt begins: not within a character."""
    start = max(0, len(prompt_ids) - CONTEXT)
    while start and tokenizer.decode(prompt_ids[start:]).startswith(UNFINISHED):
        start -= 1
    return start


def _added(decoded: Sequence[str]) -> list[str]:
    """What each token adds to the text of its stretch."""
    whole = decoded[-1]
    ends: list[int] = []
    for text in decoded:
        agreeing = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, whole, strict=False)))
        ends.append(max([agreeing, *ends[-1:]]))
    return [whole[before:after] for before, after in pairwise(ends)]
