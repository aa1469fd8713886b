"""Bytes of every kind that people submit are decoded, or refused with a sentence."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from jobs.errors import NotAnImage, RenderError, SourceTooLarge
from tests.sixteen_bit_files import ZERO_IS_WHITE, grey_tiff
from worker.image.decode import FORMATS, HAS_AVIF, Picture, decode_image
from worker.image.sixteen_bits import SIXTEEN_BITS

MAX_PIXELS = 1_000_000


def decode(data: bytes) -> Picture:
    return decode_image(data, max_pixels=MAX_PIXELS)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def colours(width: int = 6, height: int = 4) -> Image.Image:
    """Red on the left, blue on the right, a green corner at the top left."""
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    image.putpixel((0, 0), (0, 255, 0))
    return image


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_that_is_named_is_read(format: str) -> None:
    careful: dict[str, dict[str, object]] = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 95, "subsampling": 0},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    options = careful.get(format, {})
    picture = decode(encoded(Image.new("RGB", (12, 8), (200, 30, 60)), format, **options))
    pixels = picture.pixels if picture.pixels.shape[2] == 3 else picture.pixels[:, :, :3]
    assert pixels.shape == (8, 12, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - (200, 30, 60)).max() <= 3
    assert picture.warnings == ()


@pytest.mark.parametrize(("mode", "bands"), [("LA", 1), ("RGBA", 3)])
def test_grey_and_colours_that_were_multiplied_by_alpha_are_divided_by_it_again(mode: str, bands: int) -> None:
    data = encoded(Image.new(mode, (6, 4), (*[60] * bands, 128)), "TIFF")
    premultiplied = data.replace(struct.pack("<HHIH", 338, 3, 1, 2), struct.pack("<HHIH", 338, 3, 1, 1))
    assert premultiplied != data
    pixels = decode(premultiplied).pixels
    assert pixels.shape == (4, 6, 4)
    assert np.abs(pixels[0, 0].astype(int) - (119, 119, 119, 128)).max() <= 1


@pytest.mark.parametrize(
    ("mode", "shape"), [("L", (4, 6)), ("1", (4, 6)), ("RGB", (4, 6, 3)), ("RGBA", (4, 6, 4)), ("LA", (4, 6, 4))]
)
def test_plain_modes_lose_nothing(mode: str, shape: tuple[int, ...]) -> None:
    picture = decode(encoded(colours().convert(mode), "PNG"))
    assert picture.pixels.shape == shape
    assert picture.warnings == ()


def test_black_and_white_becomes_0_and_255() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert decode(encoded(image, "PNG")).pixels.tolist() == [[0, 255]]


def test_a_palette_becomes_its_colours_and_keeps_its_transparency() -> None:
    opaque = decode(encoded(colours().quantize(4), "PNG"))
    assert opaque.pixels[0, 0].tolist() == [0, 255, 0]
    see_through = colours().quantize(4)
    data = encoded(see_through, "PNG", transparency=see_through.getpixel((5, 3)))
    assert decode(data).pixels[3, 5, 3] == 0
    assert decode(data).pixels[0, 0].tolist() == [0, 255, 0, 255]


def test_cmyk_is_converted_and_said() -> None:
    picture = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert picture.pixels.shape == (8, 8, 3)
    red, green, blue = picture.pixels[4, 4].tolist()
    assert red > 200
    assert green < 60
    assert blue < 60
    assert picture.warnings == ("CMYK was converted to RGB without its colour profile",)


def test_sixteen_bit_grey_is_scaled_and_said() -> None:
    values = np.array([[0, 257, 65535], [32896, 128, 129]], np.uint16)
    picture = decode(encoded(Image.fromarray(values), "PNG"))
    assert picture.pixels.tolist() == [[0, 1, 255], [128, 0, 1]]
    assert picture.warnings == (SIXTEEN_BITS,)


def test_sixteen_bit_colour_is_reduced_and_said() -> None:
    picture = decode(png(6, 4, bit_depth=16, colour_type=2, row=b"\xff\xff\x80\x00\x00\x00" * 6))
    assert picture.pixels[0, 0].tolist() == [255, 128, 0]
    assert picture.warnings == (SIXTEEN_BITS,)


def test_floating_point_is_scaled_by_its_range_and_said() -> None:
    values = np.array([[-1.0, 0.0], [1.0, np.nan]], np.float32)
    picture = decode(encoded(Image.fromarray(values), "TIFF"))
    assert picture.pixels.tolist() == [[0, 128], [255, 0]]
    assert "scaled to 8 bits" in picture.warnings[0]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_floating_point_of_either_byte_order_is_inverted_where_0_is_white(order: str, compressed: bool) -> None:
    values = np.array([[-1.0, 0.2], [1.0, np.nan]], np.float32)
    as_black = decode(grey_tiff(values, order=order, compressed=compressed))
    as_white = decode(grey_tiff(values, order=order, compressed=compressed, interpretation=ZERO_IS_WHITE))
    assert as_black.pixels.tolist() == [[0, 153], [255, 0]]
    assert as_white.pixels.tolist() == [[255, 102], [0, 0]]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_negative_bytes_are_black_and_said(order: str, compressed: bool) -> None:
    values = np.array([[-128, -32, -1], [0, 29, 127]], np.int8)
    picture = decode(grey_tiff(values, order=order, compressed=compressed))
    assert picture.pixels.tolist() == [[0, 0, 0], [0, 29, 127]]
    assert picture.warnings == ("negative values were made black",)
    assert decode(grey_tiff(values[1:], order=order, compressed=compressed)).warnings == ()


@pytest.mark.parametrize(
    ("values", "order", "extra_samples"),
    [
        (np.zeros((4, 4), np.uint16), ">", 0),
        (np.zeros((4, 4), np.uint32), "<", 0),
        (np.zeros((4, 4), np.int8), "<", 0),
        (np.zeros((4, 4), np.int16), "<", 0),
        (np.zeros((4, 8), np.uint8), "<", 1),
        (np.zeros((4, 8), np.uint16), "<", 1),
    ],
)
def test_a_kind_that_is_only_read_with_0_as_black_is_refused_with_that_advice(
    values: np.ndarray, order: str, extra_samples: int
) -> None:
    with pytest.raises(NotAnImage, match=r"this kind of TIFF .* colours 0\); .* a channel and 0 as black, or as"):
        decode(grey_tiff(values, order=order, interpretation=ZERO_IS_WHITE, extra_samples=extra_samples))


def test_32_bit_integers_beyond_16_bits_are_scaled_by_the_largest_and_said() -> None:
    values = np.array([[0, 1_000_000], [500_000, -7]], np.int32)
    picture = decode(encoded(Image.fromarray(values), "TIFF"))
    assert picture.pixels.tolist() == [[0, 255], [128, 0]]
    assert picture.warnings == ("32 bits a channel were reduced to 8 by the largest value, 1,000,000",)


def test_unsigned_32_bit_integers_are_not_taken_for_negative_ones() -> None:
    values = np.array([[0, 2**32 - 1], [2**31, 2**30]], np.uint32)
    assert decode(tiff(values.astype("<u4").tobytes(), bits=32, kind=1)).pixels.tolist() == [[0, 255], [128, 64]]


@pytest.mark.parametrize(
    ("bits", "kind", "samples", "said"),
    [
        (64, 3, 1, "1 sample of 64 bits a pixel, floating point"),
        (16, 3, 1, "1 sample of 16 bits a pixel, floating point"),
        (32, 3, 3, "3 samples of 32 bits a pixel, floating point"),
        (32, 1, 3, "3 samples of 32 bits a pixel, unsigned integers"),
        (8, 2, 3, "3 samples of 8 bits a pixel, signed integers"),
        (24, 1, 1, "1 sample of 24 bits a pixel, unsigned integers"),
        (64, 6, 1, "1 sample of 64 bits a pixel, complex numbers"),
    ],
)
def test_a_tiff_that_cannot_be_read_is_described_and_not_called_damaged(
    bits: int, kind: int, samples: int, said: str
) -> None:
    with pytest.raises(NotAnImage, match=f"this kind of TIFF cannot be read \\({said}.*; save it with 8 or 16 bits"):
        decode(tiff(bytes(4 * samples * bits // 8), bits=bits, kind=kind, samples=samples))


def tiff(pixels: bytes, *, bits: int, kind: int, samples: int = 1) -> bytes:
    """A TIFF of 2x2 pixels; `kind` is TIFF's sample format."""
    tags = [(256, 2), (257, 2), (258, bits), (259, 1), (262, 2 if samples == 3 else 1), (273, 8), (277, samples),
            (278, 2), (279, len(pixels)), (339, kind)]  # fmt: skip
    entries = b""
    for tag, value in tags:
        count = samples if tag in (258, 339) else 1
        several = 8 + len(pixels) + (6 if tag == 339 else 0)
        entries += struct.pack("<HHI", tag, 3 if count > 1 else 4, count)
        entries += struct.pack("<I", several if count > 2 else value)
    tables = struct.pack(f"<{samples}H", *[bits] * samples).ljust(6, b"\0") + struct.pack(
        f"<{samples}H", *[kind] * samples
    )
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    body = pixels + tables
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory


def test_floating_point_without_a_number_is_no_picture() -> None:
    with pytest.raises(NotAnImage, match="not numbers"):
        decode(encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_used_and_said(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    picture = decode(data)
    red, green, _ = picture.pixels[4, 4, :3].tolist()
    assert red > 240
    assert green < 15
    assert picture.warnings == ("the first of 3 frames was used",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(colours())
    undo = {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: lambda p: np.rot90(p, 3),
    }
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    assert np.array_equal(decode(encoded(stored, "PNG", exif=exif)).pixels, upright)


def test_a_colour_profile_does_no_harm() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decode(encoded(colours(), "PNG", icc_profile=profile)).pixels, np.asarray(colours()))


def test_an_odd_second_page_does_not_spoil_the_first() -> None:
    good, odd = encoded(Image.new("L", (2, 2), 9), "TIFF"), tiff(bytes(64), bits=64, kind=6)
    at = len(good) + len(good) % 2
    (first,) = struct.unpack_from("<I", good, 4)
    (count,) = struct.unpack_from("<H", good, first)
    data = bytearray(good.ljust(at, b"\0") + odd)
    struct.pack_into("<I", data, first + 2 + 12 * count, at + struct.unpack_from("<I", odd, 4)[0])
    picture = decode(bytes(data))
    assert picture.pixels.tolist() == [[9, 9], [9, 9]]
    assert picture.warnings == ("the first of 2 frames was used",)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_not_make_the_pixels_damaged(format: str) -> None:
    data = encoded(colours(), format, exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff no directory")
    assert decode(data).pixels.shape == (4, 6, 3)


@pytest.mark.skipif(not HAS_AVIF, reason="this Pillow reads no AVIF")
def test_of_an_avif_the_first_frame_is_used_and_its_alpha_kept() -> None:
    frames = [Image.new("RGBA", (16, 8), (250, 10, 10, alpha)) for alpha in (90, 200)]
    picture = decode(encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:]))
    assert picture.pixels.shape == (8, 16, 4)
    assert abs(int(picture.pixels[4, 4, 3]) - 90) < 4
    assert picture.warnings == ("the first of 2 frames was used",)


@pytest.mark.skipif(not HAS_AVIF, reason="this Pillow reads no AVIF")
def test_an_avif_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(Image.new("RGB", (16, 8)), "AVIF", exif=exif)).pixels.shape == (16, 8, 3)


@pytest.mark.parametrize("magic", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"II*\0"])
def test_a_file_that_only_begins_as_a_picture_is_called_damaged(magic: bytes) -> None:
    with pytest.raises(NotAnImage, match=r"truncated or damaged: it begins as a (PNG|JPEG|GIF|TIFF)"):
        decode(magic + b"no more")


def png(width: int, height: int, *, bit_depth: int = 8, colour_type: int = 0, row: bytes | None = None) -> bytes:
    """A PNG written by hand; without `row`, one whose data is far too short for its header."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000 if row is None else (b"\0" + row) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_by_its_header() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow has nothing to say of it either
        with pytest.raises(SourceTooLarge, match=r"20000x5000 = 100,000,000 pixels; 1,000,000 are .*RENDER_MAX_PIXELS"):
            decode(png(20_000, 5_000))


def test_as_many_pixels_as_allowed_are_read_and_one_row_more_is_not() -> None:
    data = encoded(Image.new("L", (50, 20)), "PNG")
    assert decode_image(data, max_pixels=1000).pixels.shape == (20, 50)
    with pytest.raises(SourceTooLarge):
        decode_image(data, max_pixels=999)


def test_zero_bytes_are_no_picture() -> None:
    with pytest.raises(NotAnImage, match=r"empty \(0 bytes\)"):
        decode(b"")


@pytest.mark.parametrize(
    "data",
    [b"<html>404</html>", b"%PDF-1.7 ...", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0" * 100],
    ids=["html", "pdf", "svg", "zeros"],
)
def test_what_is_no_picture_is_shown_by_its_first_bytes(data: bytes) -> None:
    with pytest.raises(NotAnImage, match="not a picture that can be read: it begins with") as caught:
        decode(data)
    assert repr(data[:8]) in str(caught.value)
    assert "PNG, JPEG, WebP" in str(caught.value)


@pytest.mark.parametrize("format", ["PPM", "ICO", "TGA", "PCX", "EPS"])
def test_formats_that_are_not_on_the_short_list_are_not_decoded(format: str) -> None:
    with pytest.raises(NotAnImage, match="can"):
        decode(encoded(Image.new("RGB", (32, 32)), format))


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_picture_is_refused_and_not_filled_with_grey(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(NotAnImage):
            decode(data[: int(len(data) * share)])


@given(st.binary(min_size=1, max_size=200), st.sampled_from(FORMATS), st.integers(0, 10_000))
@settings(deadline=None, max_examples=150)
def test_damaged_bytes_end_in_a_picture_or_in_a_sentence(noise: bytes, format: str, place: int) -> None:
    data = bytearray(encoded(colours(40, 30), format))
    start = place % len(data)
    data[start : start + len(noise)] = noise
    try:
        outcome = decode(bytes(data)).pixels.dtype.name
    except RenderError as error:
        outcome = str(error)
    assert outcome == "uint8" or len(outcome) > 10
