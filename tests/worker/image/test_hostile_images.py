"""Pictures made to do harm: judged by their header, only in the formats on the list, and only their first frame."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import pytest
from PIL import Image

from jobs.errors import NotAnImage, SourceTooLarge
from worker.image.decode import FORMATS, HAS_AVIF, HAS_HEIC, decode_image

SIDE = 60_000  # squared: 3.6 thousand million pixels


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(side: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def header_of(format_: str) -> bytes:
    """The header of a picture of SIDE x SIDE pixels, without the pixels."""
    short, long = struct.pack("<H", SIDE), struct.pack("<I", SIDE)
    if format_ == "GIF":
        return b"GIF89a" + short + short + b"\0\0\0,\0\0\0\0" + short + short + b"\0\x02\x02\x44\x01\0;"
    if format_ == "BMP":
        return b"BM" + bytes(8) + struct.pack("<II", 54, 40) + long + long + struct.pack("<HH", 1, 24) + bytes(24)
    if format_ == "JPEG":
        big = struct.pack(">HH", SIDE, SIDE)
        return b"\xff\xd8\xff\xc0\x00\x0b\x08" + big + b"\x01\x01\x11\x00\xff\xda\x00\x08\x01\x01\0\0\x3f\0"
    if format_ == "TIFF":
        tags = [(256, SIDE), (257, SIDE), (258, 8), (259, 1), (262, 1), (273, 8), (278, SIDE), (279, 10)]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(100)
    return png(SIDE, chunk(b"IDAT", zlib.compress(bytes(1000))))


@pytest.mark.parametrize("format_", ["PNG", "GIF", "BMP", "JPEG", "TIFF"])
def test_the_size_is_judged_by_the_header_before_anything_is_unpacked(format_: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(SourceTooLarge, match="RENDER_MAX_PIXELS"):
            decode_image(header_of(format_), max_pixels=50_000_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("format_", ["ICO", "PPM", "TGA", "PCX", "EPS", "SGI", "PDF", "JPEG2000", "ICNS", "DDS"])
def test_formats_that_are_not_on_the_list_are_refused(format_: str) -> None:
    buffer = io.BytesIO()
    try:
        Image.new("RGB", (64, 64)).save(buffer, format_)
    except (KeyError, OSError) as error:
        pytest.skip(f"this Pillow cannot write {format_}: {error}")
    with pytest.raises(NotAnImage, match=r"PNG, JPEG, WebP, GIF, BMP(,| and) TIFF((,| and) AVIF)?( and HEIC)? can"):
        decode_image(buffer.getvalue(), max_pixels=10_000)


def test_the_list_is_short() -> None:
    optional = (*(["AVIF"] if HAS_AVIF else []), *(["HEIF"] if HAS_HEIC else []))
    assert ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", *optional) == FORMATS


def test_compressed_text_in_a_picture_is_not_unpacked_without_end() -> None:
    """100 MB of text, compressed to 100 kB."""
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(100_000_000), 9))
    tracemalloc.start()
    try:
        data = png(64, *[text] * 3, chunk(b"IDAT", zlib.compress(bytes(65 * 64))))
        assert decode_image(data, max_pixels=10_000).pixels.shape == (64, 64)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_pixels_that_unpack_to_more_than_the_header_says_are_cut_off() -> None:
    data = png(8, chunk(b"IDAT", zlib.compress(bytes(50_000_000), 9)))
    tracemalloc.start()
    try:
        assert decode_image(data, max_pixels=64).pixels.shape == (8, 8)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_small_tiff_with_tiles_of_many_pixels_is_refused_before_a_decoder_makes_room_for_one() -> None:
    tags = [(256, 8), (257, 8), (258, 8), (259, 5), (262, 1), (322, 32_768), (323, 32_768), (324, 8), (325, 10)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(100)
    with pytest.raises(SourceTooLarge, match=r"tiles of 1,073,741,824 pixels; 10,000 are .*RENDER_MAX_PIXELS"):
        decode_image(data, max_pixels=10_000)


def tiff(*changed: tuple[int, int, int, int], values: bytes = bytes(100)) -> bytes:
    """8 x 8 grey pixels; entries of tag, kind, count and value take the place of the usual ones."""
    usual = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 64)]
    entries = {tag: (tag, 4, 1, value) for tag, value in usual} | {entry[0]: entry for entry in changed}
    packed = b"".join(struct.pack("<HHII", *entries[tag]) for tag in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4) + values


BEYOND = (270, 3, 8, 2**31)  # a tag whose values would be beyond the file's end


def test_a_directory_that_the_file_ends_in_hides_nothing_either() -> None:
    cut = struct.pack("<HHHIIHHI", 2, 324, 1, 10**6, 0, 323, 3, 1)
    with pytest.raises(NotAnImage, match="the TIFF has 1,000,000 tiles"):
        decode_image(b"II*\0\x08\0\0\0" + cut, max_pixels=1000)


@pytest.mark.parametrize("beside", [(), (BEYOND,)], ids=["alone", "beside a broken tag"])
@pytest.mark.parametrize("tag", [258, 273, 320, 324, 338, 339])
def test_a_tiff_with_far_too_many_strips_is_refused_before_pillow_makes_an_object_of_each(
    tag: int, beside: tuple[tuple[int, int, int, int], ...]
) -> None:
    number = 10**6
    tracemalloc.start()
    try:
        with pytest.raises(NotAnImage, match=r"the TIFF has 1,000,000 .*; 100,000 are read: save it again"):
            decode_image(tiff((tag, 1, number, 134), *beside, values=bytes(number + 100)), max_pixels=1000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_tag_beyond_the_end_does_not_hide_how_large_the_tiles_are() -> None:
    data = tiff((259, 4, 1, 5), (322, 4, 1, 32_768), (323, 4, 1, 32_768), (324, 4, 1, 8), (325, 4, 1, 10), BEYOND)
    with pytest.raises((SourceTooLarge, NotAnImage), match=r"tiles of 1,073,741,824 pixels|truncated or damaged"):
        decode_image(data, max_pixels=10_000)


def test_many_frames_and_a_long_comment_take_no_longer_than_one_frame() -> None:
    """Pillow reads every frame to count them, and gathers a comment in time that grows with its square."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\x10\x20\x30\xff\xff\xff"
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * 60_000 + b"\0"
    frames = 200_000
    picture = decode_image(screen + comment + frame * frames + b";", max_pixels=10)
    assert picture.pixels.tolist() == [[[0x10, 0x20, 0x30]]]
    assert picture.warnings == ("the first of 1000 or more frames was used",)
