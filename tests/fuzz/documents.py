"""JSON documents for the fuzz tests: a real one with changed values, lost keys and new keys."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

VALUES = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, -1, 10**30, 1e308, "", "0", "\0", "é", "x" * 5000, [], {}, [[]], {"a": 1}]),
    st.text(max_size=30),
)
KEYS = st.sampled_from(["", "x", "id", "version", "format", "image", "__class__"]) | st.text(max_size=5)
HOSTILE = (
    b"",
    b"null",
    b"5",
    b'"text"',
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"9" * 10_000,
    b'{"format":' + b"9" * 5000 + b"}",
    b'{"format":NaN}',
    b'"\\ud800"',
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b"{}{}",
)


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """A copy of the document with one to four changes anywhere in it."""
    copied = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 4))):
        _change(draw, copied)
    return copied


def _change(draw: st.DrawFn, node: Any) -> None:
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        if not (isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 4))):
            break
        node = node[key]
    what = draw(st.sampled_from(["change", "change", "lose", "add"]))
    if what == "lose":
        del node[key]
    elif what == "add" and isinstance(node, dict):
        node[draw(KEYS)] = copy.deepcopy(draw(VALUES))  # a list may be changed next
    else:
        node[key] = copy.deepcopy(draw(VALUES))


@st.composite
def damaged_text(draw: st.DrawFn, text: bytes) -> bytes:
    """The text, with a few bytes changed."""
    data = bytearray(text)
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def any_text(document: Any) -> st.SearchStrategy[bytes]:
    """Texts in place of the document: damaged ones, hostile ones and noise."""
    whole = json.dumps(document).encode()
    return st.one_of(
        changed(document).map(lambda damaged: json.dumps(damaged).encode()),
        changed(document).map(lambda damaged: json.dumps(damaged).encode()),
        damaged_text(whole),
        st.integers(0, len(HOSTILE) - 1).map(HOSTILE.__getitem__),  # not sampled_from, which prints them all
        st.binary(max_size=60),
    )
