"""Words that stand for an embedding's vectors, taught to a tokenizer of the `tokenizers` package.

A word becomes one private character a vector when text is normalised, and each of these is a token of its own. So one
word gives several ids in whatever reads the tokenizer.json, and they count towards the length of a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from engines.errors import ModelRefused
from engines.model.libraries import library

_FIRST_PRIVATE = 0xF0000  # Unicode's private plane 15: no keyboard and no model's vocabulary has these


class Word(NamedTuple):
    """A word of prompts, and the number of its vectors."""

    text: str
    vectors: int


def add_words(backend: Any, words: Sequence[Word]) -> None:
    """Teach a tokenizer words; their ids follow its own, in order. Words are found whole, whatever their case.

    Raises:
        ModelRefused: a word is nothing to the tokenizer, or two words are one to it.
    """
    if not words:
        return
    tokenizers = library("tokenizers")
    normalizers = tokenizers.normalizers
    own = backend.normalizer
    special = {token.content for token in backend.get_added_tokens_decoder().values()}
    found: dict[str, str] = {}
    tokens: list[Any] = []
    for word in words:
        text = (word.text if own is None else own.normalize_str(word.text)).strip()
        if word.text in special:
            raise ModelRefused(f"--embedding: {word.text!r} is a token that the tokenizer has already; write FILE:word")
        if not text or text in found:
            raise ModelRefused(
                f"--embedding: the tokenizer reads the word {word.text!r} as {text!r}, "
                + ("which another embedding has; give one of them another word" if text else "which is not a word")
            )
        characters = [chr(_FIRST_PRIVATE + len(tokens) + i) for i in range(word.vectors)]
        found[text] = "".join(characters)
        tokens += [tokenizers.AddedToken(each, normalized=True, special=False) for each in characters]
    # The longest first: a word may begin with another one.
    replaced = [
        normalizers.Replace(tokenizers.Regex(_whole(text)), found[text])
        for text in sorted(found, key=len, reverse=True)
    ]
    backend.normalizer = normalizers.Sequence([*([] if own is None else [own]), *replaced])
    backend.add_tokens(tokens)


def _whole(text: str) -> str:
    """A pattern for a word that is not part of a longer one: `cat` is not found in `category`, `<cat>` anywhere."""
    before = r"(?<!\w)" if re.match(r"\w", text[0]) else ""
    after = r"(?!\w)" if re.match(r"\w", text[-1]) else ""
    return before + re.escape(text) + after
