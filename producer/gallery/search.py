"""The words of a page's jobs as a script, so that a browser can search all pages without a server.

A page opened from a disk may not read other files, but it may load scripts: each of these calls `gallerySearch`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from producer.gallery.cards import EMPTY_TEXT, Card


def search_script(page: int, cards: Sequence[Card]) -> str:
    """`gallerySearch(3, [[row, id, state, prompt, other words, preview], ...]);`"""
    rows = [_row(card) for card in cards]
    return f"gallerySearch({page}, {json.dumps(rows, ensure_ascii=False, separators=(',', ':'))});\n"


def _row(card: Card) -> list[object]:
    result = card.result
    return [result.row, result.id, result.state, result.prompt or EMPTY_TEXT, _words(card), card.preview]


def _words(card: Card) -> str:
    """What the card shows besides its prompt, in its order: names of files, the end and the parameters."""
    return " ".join(filter(None, _parts(card)))


def _parts(card: Card) -> Iterable[str | None]:
    result = card.result
    yield from (picture.name for picture in card.pictures)
    yield from (picture.problem for picture in card.pictures)
    yield result.error_kind
    yield result.error
    yield from result.warnings
    yield from (f"{parameter.name} {parameter.value}" for parameter in card.parameters if not parameter.is_default)
    yield card.engine_set
