"""Chunks that no pixel depends on are passed over, whatever their size and whatever is wrong with them."""

from __future__ import annotations

import io
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from jobs.errors import NotAnImage
from tests.sixteen_bit_files import chunk
from worker.image import png_chunks
from worker.image.decode import decode_image
from worker.image.png_chunks import MOST_CHUNKS, without_extras

MEGABYTES = 3 * 2**20


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def png(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG", **options)
    return buffer.getvalue()


def with_chunk(name: bytes, body: bytes, *, where: str = "before", data: bytes | None = None) -> bytes:
    """A good picture with one more chunk, before or after its pixels."""
    data = png() if data is None else data
    at = data.index(b"IDAT" if where == "before" else b"IEND") - 4
    return data[:at] + chunk(name, body) + data[at:]


EXTRAS = {
    "a long text": (b"tEXt", b"parameters\0" + b"x" * MEGABYTES),
    "a long compressed text": (b"zTXt", b"parameters\0\0" + zlib.compress(b"x" * MEGABYTES)),
    "a long international text": (b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(b"x" * MEGABYTES)),
    "a long text by the name of XMP": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * MEGABYTES)),
    "EXIF as a long text": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"x" * MEGABYTES)),
    "a long colour profile": (b"iCCP", b"profile\0\0" + zlib.compress(b"x" * MEGABYTES)),
    "a colour profile that is damaged": (b"iCCP", b"profile\0\0no zlib"),
    "a text without an end": (b"tEXt", b"x" * 200),
    "a text that is damaged": (b"zTXt", b"parameters\0\0no zlib"),
    "an empty text": (b"iTXt", b""),
    "a chunk that nobody knows": (b"prVt", b"x" * MEGABYTES),
    "long EXIF": (b"eXIf", b"MM\0*" + b"x" * MEGABYTES),
}


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_a_good_picture_stays_good_beside(extra: str, where: str) -> None:
    decoded = decode_image(with_chunk(*EXTRAS[extra], where=where), max_pixels=1000)
    assert np.array_equal(decoded.pixels, picture())
    assert decoded.warnings == ()


def test_a_wrong_checksum_of_a_text_does_no_harm() -> None:
    data = with_chunk(b"tEXt", b"parameters\0steps: 20")
    at = data.index(b"steps: 20") + 9
    assert np.array_equal(decode_image(data[:at] + b"oops" + data[at + 4 :], max_pixels=1000).pixels, picture())


def test_a_wrong_checksum_of_pixels_is_found() -> None:
    data = with_chunk(b"tEXt", b"parameters\0steps: 20")
    at = data.index(b"IDAT") + 40
    with pytest.raises(NotAnImage, match="truncated or damaged"):
        decode_image(data[:at] + b"oops" + data[at + 4 :], max_pixels=1000)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_picture_that_is_cut_after_a_text_is_truncated(share: float) -> None:
    data = with_chunk(b"tEXt", b"parameters\0steps: 20")
    with pytest.raises(NotAnImage, match="truncated or damaged"):
        decode_image(data[: int(len(data) * share)], max_pixels=1000)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_orientation_in_a_text_is_still_applied(compressed: bool) -> None:
    xmp = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    body = b"\1\0\0\0" + zlib.compress(xmp) if compressed else b"\0\0\0\0" + xmp
    data = with_chunk(b"iTXt", b"XML:com.adobe.xmp\0" + body)
    assert np.array_equal(decode_image(data, max_pixels=1000).pixels, np.rot90(picture(), -1))


def test_nothing_is_copied_where_nothing_is_left_out() -> None:
    data = png()
    (whole,) = without_extras(data)
    assert whole.obj is data
    assert len(whole) == len(data)


def test_transparency_and_animation_are_kept() -> None:
    data = png(transparency=tuple(int(value) for value in picture()[0, 0]))
    assert decode_image(with_chunk(b"tEXt", b"a\0b", data=data), max_pixels=1000).pixels[0, 0, 3] == 0
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(buffer := io.BytesIO(), "PNG", save_all=True, append_images=frames[1:])
    moving = decode_image(with_chunk(b"tEXt", b"a\0b", data=buffer.getvalue()), max_pixels=1000)
    assert moving.pixels[0, 0].tolist() == [255, 0, 0]
    assert moving.warnings == ("the first of 3 frames was used",)


def many(*chunks: tuple[bytes, bytes], number: int) -> bytes:
    """A good picture with these chunks, again and again."""
    data, end = png(), b"".join(chunk(name, body) for name, body in chunks) * number
    at = data.index(b"IDAT") - 4
    return data[:at] + end + data[at:]


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"tEXt", b"a\0b")],
        [(b"eXIf", b"MM")],
        [(b"IDAT", b"")],
        [(b"tRNS", b""), (b"tEXt", b"a\0")],
        [(b"fcTL", b""), (b"tEXt", b"a\0")],
        [(b"pr1v", b"")],
    ],
)
def test_far_too_many_chunks_are_refused(chunks: list[tuple[bytes, bytes]]) -> None:
    """Each of them costs time, before anything looks at the picture's size or at a stop."""
    with pytest.raises(NotAnImage, match=r"more than 100,000 chunks.*save it again"):
        decode_image(many(*chunks, number=MOST_CHUNKS), max_pixels=1000)


def test_chunks_that_are_kept_and_left_out_by_turns_take_little_memory() -> None:
    data = many((b"tRNS", b""), (b"tEXt", b"a\0"), number=MOST_CHUNKS // 20)  # a tenth of what is allowed
    tracemalloc.start()
    try:
        without_extras(data)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "keyword"),
    [(b"zTXt", b"Raw profile type exif\0\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0")],
)
@pytest.mark.parametrize("size", [2**20 - 1000, 2**20 + 1000])
def test_only_one_text_of_a_kind_is_unpacked(
    name: bytes, keyword: bytes, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[int] = []
    unpacks = png_chunks._unpacks_to_little

    def counted(text: bytes) -> bool:
        unpacked.append(len(text))
        return unpacks(text)

    monkeypatch.setattr(png_chunks, "_unpacks_to_little", counted)
    data = many((name, keyword + zlib.compress(b"x" * size)), number=2000)
    assert np.array_equal(decode_image(data, max_pixels=1000).pixels, picture())
    assert len(unpacked) == 1


def test_only_one_exif_is_kept() -> None:
    parts = without_extras(many((b"eXIf", b"MM"), number=1000))
    assert b"".join(parts).count(b"eXIf") == 1


def test_a_name_that_pillow_passes_over_does_not_end_the_search_for_texts() -> None:
    data = many((b"pr1v", b""), (b"zTXt", b"parameters\0\0" + zlib.compress(b"x" * MEGABYTES)), number=2)
    assert np.array_equal(decode_image(data, max_pixels=1000).pixels, picture())
