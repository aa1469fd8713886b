"""AVIF and HEIC: what a file makes its decoder do is known before it does it, and is in proportion to the picture."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from jobs.errors import NotAnImage, SourceTooLarge
from tests.worker.image.heif_files import HeifFile, Part, box, coded, full, grid, ispe, number, picture, saved, still
from worker.image import decode
from worker.image.bitstreams import Bits, Damaged, hevc, hevc_configuration
from worker.image.decode import HAS_AVIF, HAS_HEIC, decode_image
from worker.image.heif import MOST_FRAMES, check_heif, kind_of

pytestmark = pytest.mark.skipif(not HAS_AVIF, reason="this Pillow reads no AVIF")
needs_heic = pytest.mark.skipif(not HAS_HEIC and "CI" not in os.environ, reason="pillow-heif is not installed")
MAX_PIXELS = 1_100_000
LARGE = (1200, 1000)  # more than that
LINKS = box(b"dimg", number(1), b"\xff\xff" * 65_536)
CLAP = box(b"clap", *(number(value, 4) for value in (10, 1, 10, 1, 0, 1, 0, 1)))


def checked(file: HeifFile | bytes, max_pixels: int = MAX_PIXELS) -> int:
    data = bytes(file)
    return check_heif(data, kind_of(data) or "", max_pixels=max_pixels)


def nothing_is_decoded(pixels: int) -> None:
    pytest.fail(f"{pixels} pixels were about to be decoded")


def refused(file: HeifFile | bytes, error: type[Exception] = NotAnImage, max_pixels: int = MAX_PIXELS) -> str:
    """What is said of a file; nothing is decoded for it."""
    with pytest.raises(error) as caught:
        checked(file, max_pixels)
    with pytest.raises((NotAnImage, SourceTooLarge)):
        decode_image(bytes(file), max_pixels=max_pixels, admit=nothing_is_decoded)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("frames", [1, 3])
def test_files_of_pillow_are_as_large_as_they_say(mode: str, frames: int) -> None:
    image = picture(170, 130).convert(mode)
    options: dict[str, Any] = {"save_all": True, "append_images": [image] * (frames - 1)} if frames > 1 else {}
    assert checked(saved(image, **options)) == 170 * 130


def test_files_put_together_here_are_read() -> None:
    """Otherwise the refusals below would prove little."""
    assert decode_image(bytes(HeifFile([still(picture(96, 64))])), max_pixels=10_000).pixels.shape == (64, 96, 3)
    tiles = [still(picture(64, 64)) for _ in range(4)]
    file = HeifFile([grid(2, 2, (128, 128), says=(128, 128), of=(2, 3, 4, 5)), *tiles])
    assert checked(file) == 128 * 128
    assert decode_image(bytes(file), max_pixels=128 * 128).pixels.shape == (128, 128, 3)


def test_what_follows_the_last_box_is_left_alone() -> None:
    data = bytes(HeifFile([still(picture(64, 64))])) + b"\0\0\0\x02notes of a phone"
    assert checked(data) == 64 * 64


def test_a_small_picture_that_is_large_inside_is_refused() -> None:
    said = refused(HeifFile([still(picture(*LARGE), says=(64, 64))]))
    assert said == "the AVIF says 64x64 pixels, and a picture in it 1200x1000: save it again"


def test_so_is_a_tile_of_a_picture() -> None:
    tiles = [still(picture(*LARGE), says=(64, 64))]
    assert "1200x1000" in refused(HeifFile([grid(1, 1, (64, 64), says=(64, 64), of=(2,)), *tiles]))
    assert "9000x9000" in refused(HeifFile([grid(1, 1, (9000, 9000), says=(64, 64), of=(2,)), still(picture(64, 64))]))


def test_a_corner_of_a_large_picture_is_refused_as_the_large_picture() -> None:
    said = refused(HeifFile([still(picture(*LARGE), more=[CLAP])]), SourceTooLarge)
    assert "1200x1000 = 1,200,000 pixels in it; 1,100,000 are allowed (RENDER_MAX_PIXELS)" in said


def test_thousands_of_copies_of_one_picture_are_refused() -> None:
    copies = [2] * 60_000
    said = refused(HeifFile([grid(256, 256, (64, 64), says=(64, 64), of=copies), still(picture(64, 64))]))
    assert said.startswith("the AVIF is put together from parts with 245,764,096 pixels in all")


def test_copies_of_copies_are_counted_without_end() -> None:
    levels = [grid(1, 200, (64, 64), says=(64, 64), of=[level + 2] * 200) for level in range(4)]
    assert "put together" in refused(HeifFile([*levels, still(picture(64, 64))]))
    circle = [grid(1, 1, (64, 64), says=(64, 64), of=(2,)), grid(1, 1, (64, 64), says=(64, 64), of=(1,))]
    assert "derived from each other without end" in refused(HeifFile(circle))


def test_a_film_in_a_still_is_refused() -> None:
    part = still(picture(64, 64))
    film = Part(part.kind, part.data * (MOST_FRAMES + 1), part.properties)
    assert f"has {MOST_FRAMES + 1} frames in one picture" in refused(HeifFile([film]))


def test_parts_without_end_are_refused() -> None:
    part = still(picture(64, 64))
    padding = b"\x7a\0" * 20_000  # OBUs of padding
    assert "more than 10,000 parts" in refused(HeifFile([Part(part.kind, padding + part.data, part.properties)]))


@pytest.mark.parametrize(
    "broken",
    [
        HeifFile([still(picture(64, 64))], inside={b"pitm": full(b"pitm", number(9))}),
        HeifFile([still(picture(64, 64))], inside={b"extra": full(b"pitm", number(1))}),
        HeifFile([still(picture(64, 64), more=[ispe(8000, 8000)])]),
        HeifFile([Part(b"av01", b"", [])]),
        HeifFile([still(picture(64, 64))], inside={b"iloc": full(b"iloc", number(0x4400), number(9))}),
        HeifFile([still(picture(64, 64))], inside={b"iprp": box(b"iprp", b"\0\0\0\x01")}),
        HeifFile([Part(b"grid", b"\0", [ispe(64, 64)])]),
        HeifFile([still(picture(64, 64))], more=[box(b"free")] * 10_001),
        HeifFile([still(picture(64, 64), more=[b"\0\0\0\x02free"])]),
        HeifFile([still(picture(64, 64))], inside={b"pitm": b""}),
        HeifFile([still(picture(64, 64))], inside={b"iref": full(b"iref", LINKS, LINKS)}),
    ],
    ids=["primary", "primaries", "sizes", "size", "short", "shorter", "grid", "boxes", "box", "none", "links"],
)  # fmt: skip
def test_damaged_boxes_are_a_sentence(broken: HeifFile) -> None:
    assert refused(broken).startswith("the picture is truncated or damaged: its AVIF boxes cannot be read: ")


def test_other_kinds_of_pictures_are_not_read() -> None:
    file = HeifFile([Part(b"unci", bytes(100), [ispe(64, 64)])], brand=b"heic")
    with pytest.raises(NotAnImage, match=r"this kind of HEIC \('unci'\) is not read; save it as JPEG or PNG"):
        checked(file)


def test_the_check_copies_no_file() -> None:
    data = bytes(HeifFile([still(picture(64, 64))], more=[box(b"free", bytes(20_000_000))]))
    tracemalloc.start()
    try:
        checked(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_worker_without_pillow_heif_says_what_to_install_and_leaves_the_row_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode, "HAS_HEIC", False)
    monkeypatch.setattr(decode, "FORMATS", ("PNG", "JPEG"))
    begin = box(b"ftyp", b"heic", bytes(4), b"mif1", b"heic")
    said, fault = refusal(begin + bytes(100))
    assert "which this worker cannot read: run pip install 'batch-renderer[heic]'" in said
    assert fault == "worker"
    monkeypatch.setattr(decode, "HAS_AVIF", False)
    said, fault = refusal(saved(picture(8, 8)))
    assert "install Pillow 11.3 or later" in said
    assert fault == "worker"


def refusal(data: bytes) -> tuple[str, str]:
    with pytest.raises(NotAnImage) as caught:
        decode_image(data, max_pixels=100)
    return str(caught.value), caught.value.fault


def test_headers_that_end_early_are_damage_and_no_other_error() -> None:
    for data in (b"", b"\x01" * 22, b"\x01" * 22 + b"\x05" + b"\x21\0\x01\xff\xff\x42\x01"):
        with pytest.raises(Damaged):
            hevc_configuration(memoryview(data))
    with pytest.raises(Damaged):
        Bits(bytes(20)).exp_golomb()
    assert hevc(memoryview(b"\0\0\0\x09\x26\x01\x80"), length_bytes=4).frames == 1


# -- HEIC, where it is installed ---------------------------------------------------------------------------------------


def heic(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "HEIF", **options)
    return buffer.getvalue()


def heics() -> Iterator[tuple[bytes, tuple[int, ...]]]:
    image = picture(170, 130)
    yield heic(image), (130, 170, 3)
    yield heic(image.convert("RGBA")), (130, 170, 4)
    yield heic(image.convert("L")), (130, 170)
    yield heic(image, tile_size=64), (130, 170, 3)
    yield heic(picture(17, 13)), (13, 17, 3)


@needs_heic
def test_heic_is_read_in_all_its_kinds() -> None:
    for data, shape in heics():
        assert kind_of(data) == "HEIC"
        assert decode_image(data, max_pixels=170 * 130).pixels.shape == shape


@needs_heic
def test_a_heic_is_turned_upright_and_its_main_picture_used() -> None:
    image = picture(170, 130)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    assert decode_image(heic(image), max_pixels=100_000).pixels.shape == (170, 130, 3)
    several = decode_image(heic(picture(64, 64), save_all=True, append_images=[image]), max_pixels=100_000)
    assert several.warnings == ("the main one of 2 frames was used",)
    last = heic(picture(64, 64), save_all=True, append_images=[picture(96, 64)], primary_index=1)
    assert decode_image(last, max_pixels=100_000).pixels.shape == (64, 96, 3)


@needs_heic
def test_a_heic_that_lies_about_its_size_is_refused_and_a_large_one_by_its_header() -> None:
    data = bytearray(heic(picture(400, 300)))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = number(10, 4) + number(10, 4)
    assert "the HEIC says 10x10 pixels, and a picture in it" in refused(bytes(data))
    with pytest.raises(SourceTooLarge, match="RENDER_MAX_PIXELS"):
        decode_image(heic(picture(400, 300)), max_pixels=10_000, admit=nothing_is_decoded)


@needs_heic
def test_a_heic_with_several_pictures_in_one_item_is_refused() -> None:
    """Its decoder decodes all of them."""
    part = coded(heic(picture(64, 64)), says=(64, 64))
    assert decode_image(bytes(HeifFile([part], brand=b"heic")), max_pixels=64 * 64).pixels.shape == (64, 64, 3)
    film = Part(part.kind, part.data * (MOST_FRAMES + 1), part.properties)
    assert f"has {MOST_FRAMES + 1} frames in one picture" in refused(HeifFile([film], brand=b"heic"))


@needs_heic
def test_truncated_heics_are_a_sentence() -> None:
    data = heic(picture(170, 130))
    for end in range(20, len(data), max(1, len(data) // 40)):
        with pytest.raises(NotAnImage):
            decode_image(data[:end], max_pixels=100_000)
