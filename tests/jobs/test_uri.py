"""URIs: what people write in a cell, and what may be shown of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import InvalidJob
from jobs.uri import path_of, redacted, resolve_uri


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat.png", "file:///data/cat.png"),
        ("a b/ü.png", "file:///data/a%20b/%C3%BC.png"),
        ("/abs/cat.png", "file:///abs/cat.png"),
        ("file:///abs/cat.png", "file:///abs/cat.png"),
        ("file://cat.png", "file:///data/cat.png"),
        ("s3://bucket/key.png", "s3://bucket/key.png"),
        ("https://example.org/a.png?x=1", "https://example.org/a.png?x=1"),
    ],
)
def test_a_cell_becomes_an_absolute_uri(text: str, expected: str) -> None:
    assert resolve_uri(text, Path("/data")) == expected


def test_a_path_survives_the_round_trip() -> None:
    assert path_of(resolve_uri("50% off #1?.png", Path("/data"))) == Path("/data/50% off #1?.png")


@pytest.mark.parametrize("text", ["ftp://host/a.png", "s3:///key", "http:///a.png"])
def test_an_unusable_uri_is_refused(text: str) -> None:
    with pytest.raises(InvalidJob):
        resolve_uri(text, Path("/data"))


def test_passwords_and_signatures_are_not_shown() -> None:
    shown = redacted("https://user:secret@example.org:8080/a.png?X-Amz-Signature=secret")
    assert shown == "https://…@example.org:8080/a.png?X-Amz-Signature=…"
