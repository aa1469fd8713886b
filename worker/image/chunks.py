"""The tokens of a prompt in chunks of as many as the text encoder takes, laid out as in AUTOMATIC1111's web interface.

A chunk ends where it is full, and at a BREAK. The tokens of an embedding's word stay together: if they do not fit any
more, the chunk ends before them. If it becomes full within a few tokens after a comma, it ends at that
comma instead, and what follows moves to the next chunk, so that a phrase stays together (modules/sd_hijack_clip.py,
tokenize_line, with the web interface's default for `comma_padding_backtrack`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from worker.image.embedding_words import lengths

COMMA_BACKTRACK = 20  # tokens


class Token(NamedTuple):
    """A token's id, and the factor of its encoding."""

    id: int
    weight: float = 1.0


def in_chunks(
    parts: Iterable[Sequence[Token] | None], *, room: int, comma: int | None, words: Mapping[int, int] | None = None
) -> list[list[Token]]:
    """At least one chunk, each of at most `room` tokens. None among the parts is a BREAK, `comma` the comma's id.

    `words` are those of embeddings: the id of the first token -> the number of tokens.
    """
    layout = _Layout(room, comma)
    for part in parts:
        if part is None:
            layout.end_chunk()
            continue
        place = 0
        for length in lengths([token.id for token in part], words or {}):
            layout.add(part[place], following=length - 1)
            for token in part[place + 1 : place + length]:
                layout.add(token)
            place += length
    return layout.ended()


class _Layout:
    """Chunks that are complete, and the one that is being filled."""

    def __init__(self, room: int, comma: int | None) -> None:
        self._room, self._comma = room, comma
        self._complete: list[list[Token]] = []
        self._current: list[Token] = []
        self._last_comma: int | None = None  # its place in the current chunk

    def add(self, token: Token, *, following: int = 0) -> None:
        """Append a token, in a new chunk where the current one is full, or too full for those that stay with it."""
        if len(self._current) == self._room:
            moved = [] if token.id == self._comma else self._after_a_near_comma()
            self.end_chunk()
            self._current = moved
        if self._room - len(self._current) <= following < self._room:
            self.end_chunk()
        if token.id == self._comma:
            self._last_comma = len(self._current)
        self._current.append(token)

    def end_chunk(self) -> None:
        """Begin another chunk, also where the current one is empty."""
        self._complete.append(self._current)
        self._current, self._last_comma = [], None

    def ended(self) -> list[list[Token]]:
        """All chunks; an empty one at the end is left out unless it is the only one."""
        if self._current or not self._complete:
            self.end_chunk()
        return self._complete

    def _after_a_near_comma(self) -> list[Token]:
        """Take the tokens after the last comma out of the full chunk, if the comma is near its end."""
        if self._last_comma is None or len(self._current) - self._last_comma > COMMA_BACKTRACK:
            return []
        begin = self._last_comma + 1
        moved, self._current = self._current[begin:], self._current[:begin]
        return moved
