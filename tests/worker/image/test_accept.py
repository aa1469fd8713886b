"""The formats that a worker asks hosts for are those that its Pillow reads."""

from __future__ import annotations

from PIL import Image, features

from worker.image.accept import accepted_types
from worker.image.decode import FORMATS


def test_every_format_that_is_read_is_asked_for_and_no_other() -> None:
    *types, rest = accepted_types().split(",")
    assert rest == "*/*;q=0.1"
    readable = [name for name in FORMATS if name not in ("WEBP", "AVIF") or features.check(name.lower())]
    assert types == [Image.MIME[name] for name in readable]
    assert {"image/png", "image/jpeg"} <= set(types)


def test_a_format_whose_library_is_missing_is_not_asked_for(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    Image.init()
    monkeypatch.delitem(Image.MIME, "WEBP")  # as in a Pillow that was built without it
    assert "image/webp" not in accepted_types()
