"""What pictures say of themselves is read from the files of our workers and of AUTOMATIC1111's web interface."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image, PngImagePlugin

from producer.picture_texts import texts_of, without_warnings

TEXT = "a cät, 日本\nSteps: 20, Seed: 5"
ORDERS = {"<": b"II*\0", ">": b"MM\0*"}


def exif(comment: bytes, order: str = ">", kind: int = 7) -> bytes:
    """EXIF with this UserComment, in the order of a program of that machine."""
    first = struct.pack(f"{order}HHHIII", 1, 0x8769, 4, 1, 26, 0)
    second = struct.pack(f"{order}HHHIII", 1, 0x9286, kind, len(comment), 44, 0)
    return b"Exif\0\0" + ORDERS[order] + struct.pack(f"{order}I", 8) + first + second + comment


def picture(format_: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format_, **options)
    with without_warnings():  # Pillow looks into the EXIF for the resolution
        return Image.open(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("format_", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "data",
    [
        exif(b"UNICODE\0" + TEXT.encode("utf-16-be")),  # piexif, on any machine
        exif(b"UNICODE\0" + TEXT.encode("utf-16-be"), "<"),
        exif(b"UNICODE\0" + TEXT.encode("utf-16-le"), "<"),
        exif(bytes(8) + TEXT.encode()),
        exif(TEXT.encode()),
        exif(b"UNICODE\0" + TEXT.encode("utf-16-be"), kind=1),  # Pillow gives it the type of bytes
        exif(b"UNICODE\0" + b"\xff\xfe" + TEXT.encode("utf-16-le")),
        exif(b"UNICODE\0" + b"\xfe\xff" + TEXT.encode("utf-16-be"), "<"),
    ],
    ids=["piexif", "little-endian file", "little-endian text", "no code", "no header", "bytes", "mark LE", "mark BE"],
)
def test_a_comment_is_read_however_it_is_written(format_: str, data: bytes) -> None:
    assert texts_of(picture(format_, exif=data)) == {"parameters": TEXT}


def test_a_png_s_texts_are_read_and_other_chunks_are_not() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", TEXT)
    info.add_text("render", '{"seed": 5}')
    info.add_text("Software", "x")
    assert texts_of(picture("PNG", pnginfo=info)) == {"parameters": TEXT, "render": '{"seed": 5}'}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\xff",
        exif(b""),
        exif(b"UNICODE\0"),
        exif(b"x" * 30)[:-25],
        b"Exif\0\0" + ORDERS[">"] + struct.pack(">IHHHIII", 8, 1, 0x8769, 4, 1, 2**31, 0),
    ],
)
def test_a_photograph_and_damaged_exif_say_nothing_of_their_making(data: bytes) -> None:
    assert "render" not in texts_of(picture("JPEG", exif=data))
    assert "Steps" not in texts_of(picture("JPEG", exif=data)).get("parameters", "")


def test_a_camera_s_title_is_no_json_of_ours() -> None:
    of_camera = Image.Exif()
    of_camera[0x010E] = "OLYMPUS DIGITAL CAMERA"
    assert texts_of(picture("JPEG", exif=of_camera)) == {}
