"""The words of embeddings in a set's tokenizer: how many tokens each stands for.

`engines build --embedding` teaches them to tokenizer.json (engines/model/words.py): a word becomes one private
character for each vector, and each of these is a token. Their ids follow each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

FIRST_PRIVATE = "\U000f0000"  # Unicode's private plane 15


def embedding_words(tokenizer: str) -> dict[int, int]:
    """The id of a word's first token -> the number of its tokens; of a tokenizer.json's text."""
    described = json.loads(tokenizer)
    ids = {token["content"]: token["id"] for token in described.get("added_tokens") or ()}
    words = (each for each in _replaced(described.get("normalizer")) if each and all(one in ids for one in each))
    return {ids[word[0]]: len(word) for word in words}


def _replaced(normalizer: Mapping[str, Any] | None) -> Iterator[str]:
    """What a normalizer puts in place of words: private characters."""
    if normalizer is None:
        return
    for part in normalizer.get("normalizers") or ():
        yield from _replaced(part)
    content = normalizer.get("content")
    if isinstance(content, str) and all(character >= FIRST_PRIVATE for character in content):
        yield content


def lengths(ids: Sequence[int], words: Mapping[int, int]) -> Iterator[int]:
    """The ids of a text as runs: the length of each word of an embedding, and 1 for any other token."""
    place = 0
    while place < len(ids):
        first, number = ids[place], words.get(ids[place], 1)
        is_whole = list(ids[place : place + number]) == list(range(first, first + number))
        length = number if is_whole else 1
        yield length
        place += length
