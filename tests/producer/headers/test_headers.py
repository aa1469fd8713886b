"""The size of a picture from its header: that which a worker sees, whatever file it is."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, TiffImagePlugin

from jobs.errors import NotAnImage
from producer.headers.header import upright_size
from producer.headers.parts import MOST_PARTS, Parts
from tests.producer.headers.files import (
    XMP,
    Reads,
    box,
    exif_of,
    heif,
    png_chunk,
    saved,
    size_of,
    workers_size,
)
from worker.image.decode import HAS_AVIF, HAS_HEIC

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", *(("AVIF",) if HAS_AVIF else ()))
PNG_HEAD = 33  # bytes of the signature and IHDR


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [(70, 33), (1, 9), (300, 200), (64, 64)])
def test_a_plain_picture_has_the_size_that_a_worker_decodes(format: str, size: tuple[int, int]) -> None:
    data = saved(format, size)
    assert size_of(data) == size_of(data, knows_total=False) == workers_size(data) == size


@pytest.mark.parametrize("format", [format for format in FORMATS if format not in ("GIF", "BMP")])
@pytest.mark.parametrize("orientation", range(10))
def test_an_orientation_swaps_the_sides_as_in_a_worker(format: str, orientation: int) -> None:
    data = saved(format, orientation=orientation)
    assert size_of(data) == workers_size(data) == ((33, 70) if 5 <= orientation <= 8 else (70, 33))


def behind_the_pixels(*chunks: bytes) -> bytes:
    png = saved("PNG")
    return png[:-12] + b"".join(chunks) + png[-12:]


def before_the_pixels(*chunks: bytes) -> bytes:
    png = saved("PNG")
    return png[:PNG_HEAD] + b"".join(chunks) + png[PNG_HEAD:]


def raw_profile(orientation: int) -> bytes:
    exif = b"Exif\0\0" + exif_of(orientation)
    return f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()


def text(keyword: bytes, body: bytes) -> bytes:
    return png_chunk(b"iTXt", keyword + b"\0\0\0\0\0" + body)


XMP_KEYWORD, PROFILE = b"XML:com.adobe.xmp", b"Raw profile type exif\0"
TURNED_PNGS = {
    "EXIF before the pixels": before_the_pixels(png_chunk(b"eXIf", exif_of(6))),
    "EXIF behind them": behind_the_pixels(png_chunk(b"eXIf", exif_of(6))),
    "the first of two": before_the_pixels(png_chunk(b"eXIf", exif_of(6)), png_chunk(b"eXIf", exif_of(1))),
    "XMP": before_the_pixels(text(XMP_KEYWORD, XMP % 8)),
    "XMP behind them": behind_the_pixels(text(XMP_KEYWORD, XMP % 8)),
    "XMP without one, and EXIF behind": behind_the_pixels(text(XMP_KEYWORD, b"<x/>"), png_chunk(b"eXIf", exif_of(5))),
    "XMP, compressed": before_the_pixels(png_chunk(b"iTXt", XMP_KEYWORD + b"\0\1\0\0\0" + zlib.compress(XMP % 6))),
    "ImageMagick's text": before_the_pixels(png_chunk(b"tEXt", PROFILE + raw_profile(7))),
    "the same, compressed": before_the_pixels(png_chunk(b"zTXt", PROFILE + b"\0" + zlib.compress(raw_profile(6)))),
}
STRAIGHT_PNGS = {
    "EXIF goes before XMP": before_the_pixels(png_chunk(b"eXIf", exif_of(1)), text(XMP_KEYWORD, XMP % 8)),
    "damaged EXIF": before_the_pixels(png_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")),
    "an orientation of 99": before_the_pixels(png_chunk(b"eXIf", exif_of(99))),
    "another text": before_the_pixels(text(b"Comment", XMP % 8)),
    "a text that is a bomb": before_the_pixels(png_chunk(b"zTXt", PROFILE + b"\0" + zlib.compress(b"0" * 3_000_000))),
}


@pytest.mark.parametrize("data", TURNED_PNGS.values(), ids=TURNED_PNGS.keys())
def test_a_png_may_say_in_many_places_that_it_lies(data: bytes) -> None:
    assert size_of(data) == workers_size(data) == (33, 70)


@pytest.mark.parametrize("data", STRAIGHT_PNGS.values(), ids=STRAIGHT_PNGS.keys())
def test_a_png_is_not_turned_for_nothing(data: bytes) -> None:
    assert size_of(data) == workers_size(data) == (70, 33)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_with(*parts: bytes) -> bytes:
    jpeg = saved("JPEG")
    return jpeg[:2] + b"".join(parts) + jpeg[2:]


EXIF = b"Exif\0\0" + exif_of(6)
JPEGS = {
    "padding and junk": (jpeg_with(b"\xff" * 50, b"\xff\x01" * 0 + segment(0xFE, b"hello"), b"\0\0\0"), (70, 33)),
    "segments of all kinds": (jpeg_with(*(segment(marker, b"x" * 3000) for marker in range(0xE3, 0xF0))), (70, 33)),
    "megabytes before the size": (jpeg_with(*[segment(0xE5, b"y" * 65_000)] * 40, segment(0xE1, EXIF)), (33, 70)),
    "EXIF in two parts": (jpeg_with(segment(0xE1, EXIF[:20]), segment(0xE1, b"Exif\0\0" + EXIF[20:])), (33, 70)),
    "XMP": (jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP % 5)), (33, 70)),
    "damaged EXIF": (jpeg_with(segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")), (70, 33)),
    "EXIF of big-endian order": (
        jpeg_with(segment(0xE1, b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, 8, 0, 0))),
        (33, 70),
    ),
    "progressive": (saved("JPEG", progressive=True), (70, 33)),
}


@pytest.mark.parametrize(("data", "size"), JPEGS.values(), ids=JPEGS.keys())
def test_a_jpeg_is_read_up_to_its_pixels(data: bytes, size: tuple[int, int]) -> None:
    assert size_of(data) == workers_size(data) == size


def animated(format: str, **options: object) -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (70, 33), (shade, 0, 0)) for shade in (0, 99, 200)]
    frames[0].save(file, format, save_all=True, append_images=frames[1:], **options)
    return file.getvalue()


def alpha_webp(orientation: int) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGBA", (70, 33), (9, 9, 9, 99)).save(file, "WEBP", exif=exif)
    return file.getvalue()


WEBPS = {
    "lossless": (saved("WEBP", lossless=True), (70, 33)),
    "lossless and turned": (saved("WEBP", orientation=6, lossless=True), (33, 70)),
    "with alpha": (alpha_webp(8), (33, 70)),
    "XMP alone": (saved("WEBP", xmp=XMP % 6), (33, 70)),
    "animated": (animated("WEBP"), (70, 33)),
    "animated and turned": (animated("WEBP", exif=b"Exif\0\0" + exif_of(6)), (33, 70)),
}


@pytest.mark.parametrize(("data", "size"), WEBPS.values(), ids=WEBPS.keys())
def test_a_webp_of_any_kind_is_read(data: bytes, size: tuple[int, int]) -> None:
    assert size_of(data) == workers_size(data) == size


def tiff(order: str, *, big: bool, orientation: int, gap: int = 0) -> bytes:
    """One grey strip of 5x3 pixels, the directory behind it and a gap."""
    pixels = b"\x80" * 15 + b"\0" * (gap + 1)
    head = 16 if big else 8
    tags = [(256, 4, 5), (257, 3, 3), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, head), (274, 3, orientation),
            (277, 3, 1), (278, 3, 3), (279, 4, 15)]  # fmt: skip

    def value(kind: int, number: int) -> bytes:
        return struct.pack(order + ("H" if kind == 3 else "I"), number).ljust(8 if big else 4, b"\0")

    entries = [struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, 1) + value(kind, n) for tag, kind, n in tags]
    place = head + len(pixels)
    begin = b"II" if order == "<" else b"MM"
    begin += struct.pack(order + "HHHQ", 43, 8, 0, place) if big else struct.pack(order + "HI", 42, place)
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    return begin + pixels + count + b"".join(entries) + b"\0" * 8


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])  # not ">": Pillow refuses it
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_tiff_may_have_its_directory_at_its_end(order: str, big: bool, orientation: int) -> None:
    data = tiff(order, big=big, orientation=orientation, gap=300_000)
    assert size_of(data) == workers_size(data) == ((3, 5) if orientation == 6 else (5, 3))


@pytest.mark.parametrize(("kind", "size"), [(1, (70, 33)), (3, (33, 70)), (4, (33, 70)), (8, (33, 70)), (9, (33, 70))])
def test_a_tiff_s_orientation_may_be_of_any_kind_that_a_worker_reads(kind: int, size: tuple[int, int]) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[274], tags[274] = kind, 6
    data = saved("TIFF", tiffinfo=tags)
    assert size_of(data) == workers_size(data) == size


def small_copy_first(*, subfile: int, others: str) -> bytes:
    """A TIFF whose first page may be a small copy, with more pages, a directory in a directory, or neither."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = subfile
    if others == "directory":
        tags[330] = 8
    pages: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (700, 330))]}
    return saved("TIFF", tiffinfo=tags, **pages if others == "page" else {})


@pytest.mark.parametrize("others", ["page", "directory"])
def test_a_camera_s_raw_file_is_not_taken_for_its_small_copy(others: str) -> None:
    data = small_copy_first(subfile=1, others=others)
    for reads in (size_of, workers_size):
        with pytest.raises(NotAnImage, match="begins with a small copy of its picture, as a camera's raw file does"):
            reads(data)
    for subfile, there in ((1, "none"), (0, others), (2, others)):
        data = small_copy_first(subfile=subfile, others=there)
        assert size_of(data) == workers_size(data) == (70, 33)


@pytest.mark.parametrize("mark", [b"CR\2\0\0\0\0\0", b"\xba\xb0\xac\xbb\0\0\0\0"], ids=["CR2", "1D"])
@pytest.mark.parametrize("pages", [1, 2])
def test_a_raw_file_of_canon_is_known_by_its_mark(mark: bytes, pages: int) -> None:
    """Its small copy is not called one: it has a mark behind the first eight bytes."""
    plain = Image.new("RGB", (70, 33))
    data = saved("TIFF", save_all=True, append_images=[plain] * (pages - 1))
    (first,) = struct.unpack("<I", data[4:8])
    assert first >= 8
    # All places in the file would move by the mark's length: the directory is copied to the end instead.
    (count,) = struct.unpack_from("<H", data, first)
    directory = data[first : first + 2 + 12 * count + 4]
    raw = data[:4] + struct.pack("<I", len(data) + len(mark)) + mark + data[8:] + b"\0" * len(mark) + directory
    for reads in (size_of, workers_size):
        with pytest.raises(NotAnImage, match="as a camera's raw file does"):
            reads(raw)


def test_a_tiff_may_be_turned_by_xmp() -> None:
    data = saved("TIFF", tiffinfo={700: XMP % 6})
    assert size_of(data) == workers_size(data)


def test_a_bitmap_may_stand_on_its_head_or_be_of_the_oldest_kind() -> None:
    upside_down = bytearray(saved("BMP"))
    upside_down[22:26] = struct.pack("<i", -33)
    assert size_of(bytes(upside_down)) == workers_size(bytes(upside_down)) == (70, 33)
    oldest = b"BM" + struct.pack("<IHHI", 26 + 8, 0, 0, 26) + struct.pack("<IHHHH", 12, 2, 1, 1, 24) + b"\x55" * 8
    assert size_of(oldest) == workers_size(oldest) == (2, 1)


def test_a_first_frame_may_be_larger_than_its_gif() -> None:
    gif = bytearray(saved("GIF"))
    gif[6:10] = struct.pack("<HH", 20, 10)
    assert size_of(bytes(gif)) == workers_size(bytes(gif)) == (70, 33)
    assert size_of(animated("GIF", comment=b"c" * 2000)) == (70, 33)


def test_a_heic_is_cropped_and_turned_by_its_properties_and_an_avif_is_turned_alone() -> None:
    crop = box(b"clap", struct.pack(">8I", 120, 2, 40, 1, 0, 1, 0, 1))
    turn = box(b"irot", b"\3")
    mirror = box(b"imir", b"\1")
    assert size_of(heif(b"heic", (70, 50))) == (70, 50)
    assert size_of(heif(b"heic", (70, 50), turn)) == (50, 70)
    assert size_of(heif(b"heic", (70, 50), crop, turn, wide=True)) == (40, 60)
    assert size_of(heif(b"mif1", (70, 50), mirror, box(b"irot", b"\2"))) == (70, 50)
    assert size_of(heif(b"avif", (70, 50), crop, turn)) == (50, 70)


@pytest.mark.skipif(not HAS_HEIC, reason="pillow-heif is not installed")
def test_a_heic_is_not_turned_again_by_an_odd_xmp() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (70, 33)).save(buffer, "HEIF", xmp=XMP % 6)
    data = buffer.getvalue()
    assert size_of(data) == workers_size(data) == (33, 70)  # the library writes `irot`
    odd = data.replace(b"adobe.com", b"adobe\0com")  # it leaves the orientation in such a one
    assert size_of(odd) == workers_size(odd) == (33, 70)


@pytest.mark.skipif(not HAS_AVIF, reason="this Pillow reads no AVIF")
def test_an_avif_is_not_turned_by_its_xmp() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (70, 33)).save(buffer, "AVIF", xmp=XMP % 6)
    data = buffer.getvalue()
    assert size_of(data) == workers_size(data) == (70, 33)


BAD = {
    "nothing": (b"", "the file is empty"),
    "text": (b"<html>not found</html>", "not a picture that can be read: it begins with b'<html>no'"),
    "a PNG of no size": (saved("PNG")[:16] + b"\0" * 8 + saved("PNG")[24:], "0x0 pixels"),
    "a JPEG without a size": (b"\xff\xd8\xff\xd9", "its pixels begin before its size"),
    "a GIF without a frame": (saved("GIF")[:13] + b";", "truncated|no frame"),
    "a TIFF that leads beyond its end": (b"II*\0\xff\xff\xff\x7f", "truncated"),
    "a BMP of another kind": (b"BM" + b"\0" * 12 + b"\x63" + b"\0" * 50, "a header of 99 bytes"),
    "boxes without a size": (box(b"ftyp", b"heic", b"\0" * 4) + box(b"mdat", b"x" * 99), "do not say its size"),
    "a box as long as no file": (box(b"ftyp", b"avif") + b"\xff" * 8, "do not say its size"),
    "a WebP of another kind": (b"RIFF\0\0\0\0WEBPVP9 " + b"\0" * 40, "does not begin with its size"),
}


@pytest.mark.parametrize(("data", "why"), BAD.values(), ids=BAD.keys())
def test_what_has_no_size_is_refused_with_a_sentence(data: bytes, why: str) -> None:
    with pytest.raises(NotAnImage, match=why):
        size_of(data)


def samples() -> list[bytes]:
    heifs = [heif(b"heic", (70, 50), box(b"irot", b"\1")), heif(b"avif", (70, 50), wide=True)]
    turned = [saved(format, orientation=6) for format in ("PNG", "JPEG", "WEBP", "TIFF")]
    return [*heifs, *turned, saved("GIF"), saved("BMP"), tiff(">", big=True, orientation=6)]


def size_or_refusal(data: bytes) -> None:
    """Nothing but NotAnImage comes of any bytes."""
    try:
        width, height = size_of(data, knows_total=len(data) % 2 == 0)
    except NotAnImage:
        return
    assert min(width, height) > 0


def test_a_header_may_end_anywhere_or_be_damaged_in_any_way() -> None:
    chance = random.Random(3)
    for data in samples():
        for end in range(min(len(data), 400)):
            size_or_refusal(data[:end])
        for _ in range(300):
            damaged = bytearray(data)
            for _ in range(chance.choice((1, 1, 2, 8))):
                damaged[chance.randrange(min(len(data), 400))] = chance.choice(
                    (0, 1, 127, 128, 255, chance.randrange(256))
                )
            size_or_refusal(bytes(damaged))


ENDLESS: dict[str, Callable[[int], bytes]] = {
    "empty segments": lambda bytes_: b"\xff\xd8" + b"\xff\xe5\0\2" * (bytes_ // 4),
    "padding": lambda bytes_: b"\xff\xd8" + b"\xff" * bytes_,
    "extensions": lambda bytes_: saved("GIF")[:13] + b"!\xfe\0" * (bytes_ // 3),
    "junk in a GIF": lambda bytes_: saved("GIF")[:13] + b"\0" * bytes_,
    "empty chunks": lambda bytes_: saved("PNG")[:PNG_HEAD] + png_chunk(b"teST", b"") * (bytes_ // 12),
    "free boxes": lambda bytes_: box(b"ftyp", b"heic", b"\0" * 4) + box(b"free") * (bytes_ // 8),
}


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS.keys())
def test_a_header_without_an_end_is_given_up(endless: Callable[[int], bytes]) -> None:
    file = Reads(endless(2_000_000))
    with pytest.raises(NotAnImage):
        upright_size(Parts(file.read))
    assert len(file.asked) <= MOST_PARTS


def test_a_header_is_one_small_read_and_its_end_another() -> None:
    large = saved("JPEG") + b"\0" * 5_000_000
    file = Reads(large)
    upright_size(Parts(file.read))
    assert len(file.asked) == 1
    assert sum(size for _, size in file.asked) < 100_000
    noisy = Image.effect_noise((900, 700), 99)
    buffer = io.BytesIO()
    noisy.save(buffer, "PNG")
    file = Reads(buffer.getvalue())
    assert upright_size(Parts(file.read)) == (900, 700)
    assert [start for start, _ in file.asked] == [0, len(file.data) - 64 * 2**10]
