"""The words of a page's jobs as a script, so that a browser can search all pages without a server.

A page opened from a disk may not read other files, but it may load scripts: each of these calls `gallerySearch`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from producer.gallery.cards import EMPTY_TEXT, Card


def search_script(page: int, cards: Sequence[Card]) -> str:
    """`gallerySearch(3, [[row, id, state, prompt, error, other words, preview], ...]);`"""
    rows = [_row(card) for card in cards]
    return f"gallerySearch({page}, {json.dumps(rows, ensure_ascii=False, separators=(',', ':'))});\n"


def _row(card: Card) -> list[object]:
    result = card.result
    error = " ".join(filter(None, (result.error_kind, result.error)))
    words = " ".join(filter(None, _words(card)))
    return [result.row, result.id, result.state, result.prompt or EMPTY_TEXT, error, words, card.preview]


def _words(card: Card) -> Iterable[str | None]:
    """What people look for besides prompts and errors. Names of results and seeds are numbers that match by chance."""
    yield card.pictures[0].name
    yield from (picture.problem for picture in card.pictures)
    yield from card.result.warnings
    yield from (f"{of.name} {of.value}" for of in card.parameters if not of.is_default and of.name != "seed")
    yield card.engine_set
