"""Small copies of odd pictures: many large ones at once, and those with long texts and colour profiles."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from jobs.storage.http import FetchLimits
from producer.gallery.cards import _link
from producer.gallery.pixel_budget import PixelBudget
from producer.gallery.thumbnails import Thumbnail, Thumbnails

ZEROS = zlib.compress(bytes(2**22))
EXTRAS = {
    "zTXt": b"comment\0\0" + ZEROS,
    "iTXt": b"comment\0\1\0\0\0" + ZEROS,
    "iTXt of our name": b"render\0\1\0\0\0" + ZEROS,
    "iCCP": b"profile\0\0" + ZEROS,
    "tEXt": b"comment\0" + b"x" * 2**21,
}


@pytest.fixture
def thumbnails(tmp_path: Path) -> Thumbnails:
    return Thumbnails(tmp_path / "small", FetchLimits(), max_pixels=1_000_000)


class Watched(PixelBudget):
    """Notes how many pixels are held, and the most that were."""

    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        self.all, self.held, self.most = pixels, 0, 0
        self.lock = threading.Lock()

    @contextmanager
    def taking(self, pixels: int) -> Iterator[None]:
        share = min(pixels, self.all)
        with super().taking(pixels):
            with self.lock:
                self.held += share
                self.most = max(self.most, self.held)
            try:
                yield
            finally:
                with self.lock:
                    self.held -= share


def test_threads_decode_no_more_pixels_at_once_than_the_budget_has(
    thumbnails: Thumbnails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Watched(2 * 600 * 600)
    monkeypatch.setattr("producer.gallery.small_copy._decoding", budget)
    for number in range(8):
        Image.new("RGBA", (600, 600), (number, 0, 0, 255)).save(tmp_path / f"{number}.png")
    Image.new("RGBA", (990, 990)).save(tmp_path / "8.png")  # larger than all of it
    with ThreadPoolExecutor(8) as pool:
        uris = [(tmp_path / f"{number}.png").as_uri() for number in range(9)]
        made = list(pool.map(lambda uri: thumbnails.of(uri, made_at=0), uris))
    assert [copy.problem for copy in made] == [None] * 9
    assert 0 < budget.most <= 2 * 600 * 600
    assert budget.held == 0


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_long_text_or_profile_hides_no_picture(thumbnails: Thumbnails, tmp_path: Path, extra: str) -> None:
    ours = _chunk(b"tEXt", b'render\0{"seed": 1}')
    made = _of(thumbnails, tmp_path, with_chunks(ours + _chunk(extra[:4].encode(), EXTRAS[extra])))
    assert (made.problem, made.width, made.height) == (None, 448, 224)
    assert made.text == '{"seed": 1}'


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"no picture", "of no known format"),
        (b"", "of no known format"),
        (lambda: with_chunks(b"")[:300], "it is damaged"),
        (lambda: with_chunks(b"", side=2000), "2,000 x 1,000 pixels are more than the 1,000,000 of RENDER_MAX_PIXELS"),
    ],
    ids=["text", "empty", "cut", "large"],
)
def test_a_picture_without_a_small_copy_says_why(
    thumbnails: Thumbnails, tmp_path: Path, data: object, sentence: str
) -> None:
    made = _of(thumbnails, tmp_path, data if isinstance(data, bytes) else data())  # type: ignore[operator]
    assert made.problem is not None
    assert made.problem.startswith("not a readable picture: ")
    assert sentence in made.problem
    assert "Error" not in made.problem


@pytest.mark.parametrize(("mode", "bands"), [("LA", 1), ("RGBA", 3)])
def test_grey_and_colours_multiplied_by_alpha_are_shown_on_white(
    thumbnails: Thumbnails, tmp_path: Path, mode: str, bands: int
) -> None:
    file = io.BytesIO()
    Image.new(mode, (600, 400), (*[60] * bands, 128)).save(file, "TIFF")
    data = file.getvalue().replace(struct.pack("<HHIH", 338, 3, 1, 2), struct.pack("<HHIH", 338, 3, 1, 1))
    made = _of(thumbnails, tmp_path, data)
    assert made.problem is None
    assert made.path is not None
    with Image.open(made.path) as copy:
        assert abs(copy.convert("L").getpixel((9, 9)) - (60 + 127)) <= 2  # type: ignore[operator]


def heif(kind: str) -> bytes:
    file = io.BytesIO()
    picture = Image.linear_gradient("L").resize((900, 600)).convert("RGB")
    if kind == "HEIC":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(picture).save(file, quality=60)
    else:
        picture.save(file, kind, speed=10)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
def test_a_heif_has_a_small_copy_or_the_page_says_which_library_is_missing(
    thumbnails: Thumbnails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    data = heif(kind)
    with monkeypatch.context() as without:
        without.setattr("producer.gallery.heif._is_read", lambda kind: False)
        refused = _of(thumbnails, tmp_path, data)
        uri = (tmp_path / "picture.png").as_uri()
        assert thumbnails.of(uri, made_at=0, known=refused) is refused
    assert (refused.file, refused.may_change) == (None, False)
    assert refused.problem is not None
    assert f"{kind}, which " in refused.problem
    assert {"HEIC": "pip install 'batch-renderer[heic]'", "AVIF": "Pillow 11.3"}[kind] in refused.problem
    made = thumbnails.of(uri, made_at=0, known=refused)  # the library is installed now
    assert (made.problem, made.width, made.height) == (None, 448, 299)
    assert made.path is not None
    with Image.open(made.path) as copy:
        assert copy.format == "JPEG"


@pytest.mark.parametrize(
    ("name", "is_linked"), [("a.heic", False), ("a.TIF", False), ("a.avif", True), ("a.jpg", True)]
)
def test_a_picture_that_no_browser_shows_opens_as_its_small_copy(tmp_path: Path, name: str, is_linked: bool) -> None:
    for uri in ((tmp_path / name).as_uri(), f"https://example.org/{name}?size=large"):
        assert (_link(uri, tmp_path) is not None) is is_linked


def with_chunks(chunks: bytes, *, side: int = 1000) -> bytes:
    """A PNG with chunks behind its header."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((side, side // 2)).save(file, "PNG")
    data = file.getvalue()
    return data[:33] + chunks + data[33:]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _of(thumbnails: Thumbnails, folder: Path, data: bytes) -> Thumbnail:
    (folder / "picture.png").write_bytes(data)
    return thumbnails.of((folder / "picture.png").as_uri(), made_at=0)
