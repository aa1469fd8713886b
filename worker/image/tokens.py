"""Prompts -> token ids, equal to those of Stable Diffusion's CLIP tokenizer; and the weights of the tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from jobs.prompt_weights import Weighted, weighted_pieces
from worker.image.chunks import Token, in_chunks
from worker.image.embedding_words import embedding_words

COMMA = ",</w>"  # CLIP's token of a comma


@dataclass(frozen=True, eq=False)
class Tokens:
    """int64 [77 * chunks], each chunk with begin, end and padding; `cut` is the text that did not fit, or ''.

    `weights` are float32 [77 * chunks], or None where all are 1.
    """

    ids: np.ndarray
    cut: str
    chunks: int = 1
    weights: np.ndarray | None = None


class Piece(NamedTuple):
    """A token of a text, and the place in the text where it begins."""

    id: int
    begin: int


class PromptEncoder:
    """Makes chunks of `length` ids of prompts. Safe to use from many threads if `tokenize` is."""

    def __init__(
        self,
        tokenize: Callable[[str], Sequence[Piece]],
        *,
        length: int,
        special: tuple[int, int, int],
        comma: int | None,
        words: Mapping[int, int] | None = None,
    ) -> None:
        """`special` are the ids that begin, end and pad a chunk; `comma` is a comma's id, or None.

        `words` are those of embeddings, each by the id of its first token, with the number of its tokens.
        """
        self._tokenize = tokenize
        self._room = length - 2
        self._bos, self._eos, self._pad = special
        self._comma = comma
        self._words = words

    def encode(self, text: str, *, chunk: bool = False, weighted: bool = False) -> Tokens:
        """Tokenise. A text that is too long for one chunk is cut, or fills more chunks (`chunk`).

        Raises:
            ValueError: the weights of a `weighted` text cannot be read (jobs/prompt_weights.py).
        """
        pieces = weighted_pieces(text) if weighted else [Weighted(text, 1.0)]
        if not chunk:
            return self._cut(pieces)
        parts = (
            None if piece.is_break else [Token(id_, piece.weight) for id_, _ in self._tokenize(piece.text)]
            for piece in pieces
        )
        return self._tokens(in_chunks(parts, room=self._room, comma=self._comma, words=self._words))

    def lengthened(self, tokens: Tokens, chunks: int) -> Tokens:
        """With empty chunks at the end, so that there are so many."""
        missing = chunks - tokens.chunks
        if missing == 0:
            return tokens
        assert missing > 0, (tokens.chunks, chunks)
        empty = self._tokens([[]] * missing)
        weights = tokens.weights
        if weights is not None:
            weights = np.concatenate([weights, np.ones(len(empty.ids), np.float32)])
        return replace(tokens, ids=np.concatenate([tokens.ids, empty.ids]), chunks=chunks, weights=weights)

    def _cut(self, pieces: Sequence[Weighted]) -> Tokens:
        """One chunk. A BREAK only separates words: there is no other chunk."""
        kept: list[Token] = []
        cut: list[str] = []
        for piece in pieces:
            text, weight = (" ", 1.0) if piece.is_break else piece
            tokens = self._tokenize(text)
            free = self._room - len(kept)
            if cut:
                cut.append(text)
            elif len(tokens) > free:
                cut.append(text[tokens[free].begin :])
            kept += [Token(id_, weight) for id_, _ in tokens[:free]]
        return self._tokens([kept], cut="".join(cut))

    def _tokens(self, chunks: Sequence[Sequence[Token]], *, cut: str = "") -> Tokens:
        ids: list[int] = []
        weights: list[float] = []
        for chunk in chunks:
            padding = self._room - len(chunk)
            ids += [self._bos, *(token.id for token in chunk), self._eos, *[self._pad] * padding]
            weights += [1.0, *(token.weight for token in chunk), *[1.0] * (1 + padding)]
        varied = any(weight != 1.0 for weight in weights)
        return Tokens(
            np.array(ids, dtype=np.int64), cut, len(chunks), np.array(weights, dtype=np.float32) if varied else None
        )


class Tokenizer(PromptEncoder):
    """The tokenizer.json of an engine set."""

    def __init__(self, path: Path, *, length: int, bos_token_id: int, eos_token_id: int, pad_token_id: int) -> None:
        self._tokenizer = FastTokenizer.from_file(str(path))
        # Cutting and padding happen in `encode`, which can tell what was cut; the file may or may not ask for either.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        special = (bos_token_id, eos_token_id, pad_token_id)
        comma, words = self._tokenizer.token_to_id(COMMA), embedding_words(self._tokenizer.to_str())
        super().__init__(self._pieces, length=length, special=special, comma=comma, words=words)

    def _pieces(self, text: str) -> list[Piece]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return [Piece(id_, begin) for id_, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True)]
