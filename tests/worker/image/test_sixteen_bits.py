"""16 bits a channel become 8 by what the values say: a picture of 10, 12 or 14 bits in 16 keeps its contrast."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import pytest
from PIL import Image

from jobs.errors import NotAnImage
from tests.sixteen_bit_files import CMYK, ZERO_IS_WHITE, chunk, grey_tiff, png16, tiff16
from worker.image.canny import canny_edges, three_channels
from worker.image.decode import Picture, decode_image
from worker.image.sixteen_bits import SIXTEEN_BITS, TWELVE_BITS, narrower_bits

HEIGHT, WIDTH = 13, 17
WRITERS: dict[str, tuple[int, Callable[[np.ndarray], bytes]]] = {
    "png": (3, png16),
    "png with alpha": (4, png16),
    "png, grey with alpha": (2, png16),
    "tiff of Intel's order": (3, tiff16),
    "tiff of Motorola's order": (3, partial(tiff16, order=">")),
    "tiff, compressed": (3, partial(tiff16, compressed=True)),
    "tiff, compressed, of Motorola's order": (3, partial(tiff16, compressed=True, order=">")),
    "tiff with alpha": (4, partial(tiff16, extra_sample=2)),
    "tiff with an unknown sample": (4, partial(tiff16, extra_sample=0)),
    "tiff in planes": (3, partial(tiff16, planes=True)),
    "tiff in planes, of Motorola's order": (3, partial(tiff16, planes=True, order=">")),
    "tiff in planes with alpha": (4, partial(tiff16, planes=True, extra_sample=2)),
}


def decode(data: bytes) -> Picture:
    return decode_image(data, max_pixels=10_000)


def values_below(limit: int, channels: int = 1) -> np.ndarray:
    """uint16 [H, W, C] of all sizes; the largest is limit - 1, in the colours and in the last channel."""
    values = np.random.default_rng(limit).integers(0, limit, (HEIGHT, WIDTH, channels)).astype(np.uint16)
    values[0, 0] = limit - 1
    return values


def scaled(values: np.ndarray, bits: int) -> np.ndarray:
    eight: np.ndarray = np.round(values * (255 / (2**bits - 1))).astype(np.uint8)
    return eight


def grey(values: np.ndarray, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values[:, :, 0]).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("largest", "bits"),
    [(0, None), (1, 10), (255, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16383, 14), (16384, None)],
)
def test_the_smallest_number_of_bits_that_holds_the_largest_value_is_chosen(largest: int, bits: int | None) -> None:
    assert narrower_bits(largest) == bits


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_grey_of_fewer_bits_is_scaled_by_them_and_said(format: str, bits: int) -> None:
    values = values_below(2**bits)
    picture = decode(grey(values, format))
    assert np.array_equal(picture.pixels, scaled(values[:, :, 0], bits))
    (warning,) = picture.warnings
    assert warning == (
        f"16 bits a channel were reduced to 8 as those of a {bits}-bit picture, since no value reaches {2**bits:,}; "
        "if it is meant to be so dark, save it with 8 bits a channel"
    )


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_one_value_more_makes_it_a_picture_of_more_bits(bits: int) -> None:
    values = values_below(2**bits)
    values[1, 1] = 2**bits
    expected = {10: 12, 12: 14, 14: 16}[bits]
    assert np.array_equal(decode(grey(values)).pixels, scaled(values[:, :, 0], expected))


@pytest.mark.parametrize("order", ["<u2", ">u2", "<i2", "<i4"])
def test_every_kind_of_grey_integer_is_read_by_its_values(order: str) -> None:
    values = values_below(2**12)
    data = grey(values.astype(order), "TIFF")
    assert np.array_equal(decode(data).pixels, scaled(values[:, :, 0], 12))


def test_negative_values_are_black() -> None:
    values = np.full((4, 4, 1), -5, np.int16)
    assert not decode(grey(values, "TIFF")).pixels.any()
    values[0, 0] = 4095
    pixels = decode(grey(values, "TIFF")).pixels
    assert (pixels[0, 0], pixels[1, 1]) == (255, 0)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["i2", "i4"])
def test_signed_integers_of_either_byte_order_are_read_with_negative_values_as_black(
    kind: str, order: str, compressed: bool
) -> None:
    values = values_below(2**12)[:, :, 0].astype(kind) - 1000
    values[0, 0] = 4095
    picture = decode(grey_tiff(values, order=order, compressed=compressed))
    assert np.array_equal(picture.pixels, scaled(values.clip(0), 12))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_grey_whose_0_is_white_is_inverted_within_the_bits_of_the_stored_values(bits: int, compressed: bool) -> None:
    values = values_below(2**bits)[:, :, 0]
    picture = decode(grey_tiff(values, compressed=compressed, interpretation=ZERO_IS_WHITE))
    assert np.array_equal(picture.pixels, 255 - scaled(values, bits))
    (warning,) = picture.warnings
    assert warning == SIXTEEN_BITS or "if it is meant to be so bright" in warning


def test_a_picture_of_zeros_that_are_white_is_white() -> None:
    picture = decode(grey_tiff(np.zeros((4, 4), np.uint16), interpretation=ZERO_IS_WHITE))
    assert (picture.pixels == 255).all()
    assert picture.warnings == (SIXTEEN_BITS,)


def test_a_picture_whose_0_is_white_equals_the_8_bit_one_that_pillow_inverts() -> None:
    eight = np.arange(0, 255, 3, dtype=np.uint8).reshape(5, 17)
    expected = decode(grey_tiff(eight, interpretation=ZERO_IS_WHITE)).pixels
    assert np.array_equal(expected, 255 - eight)
    sixteen = eight.astype(np.uint16) * 257
    assert np.array_equal(decode(grey_tiff(sixteen, interpretation=ZERO_IS_WHITE)).pixels, expected)


def test_a_tiff_that_says_nothing_of_its_0_has_it_as_black() -> None:
    values = values_below(2**16)[:, :, 0]
    assert np.array_equal(decode(grey_tiff(values, interpretation=None)).pixels, scaled(values, 16))


def test_values_that_fit_8_bits_are_read_as_10_and_doubted() -> None:
    values = values_below(256)
    picture = decode(grey(values))
    assert np.array_equal(picture.pixels, scaled(values[:, :, 0], 10))
    assert "no value exceeds 255, so save an 8-bit picture with 8 bits a channel" in picture.warnings[0]


@pytest.mark.parametrize(("limit", "bits"), [(100, 10), (2**12, 12), (2**16, 16)])
def test_a_picture_stored_in_32_bits_is_said_to_be_so(limit: int, bits: int) -> None:
    values = values_below(limit).astype(np.int32)
    (warning,) = decode(grey(values, "TIFF")).warnings
    assert warning.startswith(f"32 bits a channel were reduced to 8 as those of a {bits}-bit picture, since no")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_black_picture_stays_black_and_is_read_as_before(channels: int) -> None:
    values = np.zeros((HEIGHT, WIDTH, channels), np.uint16)
    if channels in (2, 4):
        values[:, :, -1] = 65535
    picture = decode(png16(values))
    assert not three_channels(picture.pixels).any()
    assert picture.warnings == (SIXTEEN_BITS,)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("name", WRITERS)
def test_colours_of_fewer_bits_are_scaled_by_them_and_said(name: str, bits: int) -> None:
    channels, write = WRITERS[name]
    values = values_below(2**bits, channels)
    picture = decode(write(values))
    expected = scaled(values, bits)
    if channels == 2:
        expected = np.concatenate([expected[:, :, :1]] * 3 + [expected[:, :, 1:]], axis=2)
    assert np.array_equal(picture.pixels, expected[:, :, : picture.pixels.shape[2]])
    assert f"as those of a {bits}-bit picture" in picture.warnings[0]


@pytest.mark.parametrize("name", WRITERS)
def test_colours_of_16_bits_lose_their_low_byte_as_before(name: str) -> None:
    channels, write = WRITERS[name]
    values = values_below(2**16, channels)
    picture = decode(write(values))
    expected = (values >> 8).astype(np.uint8)
    if channels == 2:
        expected = np.concatenate([expected[:, :, :1]] * 3 + [expected[:, :, 1:]], axis=2)
    assert np.array_equal(picture.pixels, expected[:, :, : picture.pixels.shape[2]])
    assert picture.warnings == (SIXTEEN_BITS,)


@pytest.mark.parametrize(("alpha", "expected"), [(65535, 255), (4095, 255), (1023, 255), (0, 0), (32768, 128)])
def test_alpha_has_a_range_of_its_own(alpha: int, expected: int) -> None:
    values = values_below(2**10, 4)
    values[:, :, 3] = alpha
    pixels = decode(png16(values)).pixels
    assert np.array_equal(pixels[:, :, :3], scaled(values[:, :, :3], 10))
    assert set(pixels[:, :, 3].flat) == {expected}


def test_colours_that_were_multiplied_by_alpha_are_divided_by_it_again() -> None:
    values = np.empty((4, 4, 4), np.uint16)
    values[:] = (2000, 1000, 500, 2048)  # of 12 bits, half transparent
    picture = decode(tiff16(values, extra_sample=1))
    assert "12-bit" in picture.warnings[0]
    assert np.abs(picture.pixels[0, 0].astype(int) - (249, 125, 62, 128)).max() <= 2  # divided in 8 bits
    assert decode(tiff16(values * 16, extra_sample=1)).warnings == (SIXTEEN_BITS,)


def test_cmyk_of_12_bits_is_scaled_before_it_is_converted() -> None:
    values = np.zeros((4, 4, 4), np.uint16)
    values[:, :, 0] = 4095  # cyan
    picture = decode(tiff16(values, interpretation=CMYK))
    assert picture.pixels[0, 0].tolist() == [0, 255, 255]
    assert len(picture.warnings) == 2


def test_compressed_planes_are_read_where_the_high_byte_is_enough_and_refused_where_not() -> None:
    values = values_below(2**16, 3)
    assert np.array_equal(decode(tiff16(values, planes=True, compressed=True)).pixels, values >> 8)
    with pytest.raises(NotAnImage, match=r"separate planes.*save it with 8 bits a channel"):
        decode(tiff16(values_below(2**12, 3), planes=True, compressed=True))


def test_planes_of_cmyk_are_refused_and_not_misread() -> None:
    with pytest.raises(NotAnImage, match="separate planes"):
        decode(tiff16(values_below(2**16, 4), planes=True, interpretation=CMYK))


def test_a_transparent_colour_is_scaled_like_the_others() -> None:
    values = values_below(2**12, 3)
    values[5, 5], values[6, 6] = (4000, 16, 300), (4000, 40, 300)
    pixels = decode(png16(values, chunk(b"tRNS", values[5, 5].astype(">u2").tobytes()))).pixels
    assert pixels[5, 5].tolist() == [*scaled(values[5, 5], 12), 0]
    assert pixels[6, 6].tolist() == [*scaled(values[6, 6], 12), 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_turned_picture_is_turned_upright(channels: int) -> None:
    values = values_below(2**12, channels)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = decode(png16(values, chunk(b"eXIf", exif.tobytes()[6:])))
    assert np.array_equal(picture.pixels.reshape(WIDTH, HEIGHT, channels), np.rot90(scaled(values, 12), -1))


def test_a_tiff_that_says_that_it_has_12_bits_is_believed_also_when_it_is_dark() -> None:
    dark = np.array([[[0], [500], [1000], [7]]] * 2, np.uint16)
    picture = decode(twelve_bit_tiff(dark))
    assert np.array_equal(picture.pixels, scaled(dark[:, :, 0], 12))
    assert picture.warnings == (TWELVE_BITS,)


def twelve_bit_tiff(values: np.ndarray) -> bytes:
    """A grey TIFF with two values in three bytes."""
    height, width, _ = values.shape
    data = bytes.fromhex("".join(f"{value:03x}" for value in values.flat))
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(data)))
    entries = b"".join(
        np.array([tag, 4], "<u2").tobytes() + np.array([1, value], "<u4").tobytes() for tag, value in tags
    )
    start = 8 + len(data)
    return (
        b"II*\0"
        + np.array([start], "<u4").tobytes()
        + data
        + np.array([len(tags)], "<u2").tobytes()
        + entries
        + bytes(4)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_12_bit_picture_has_the_edges_of_the_same_picture_in_8_bits(channels: int) -> None:
    picture = np.full((128, 128, channels), 60, np.uint8)
    cv2.circle(picture, (64, 64), 30, (200,) * channels, -1)
    expected = canny_edges(three_channels(picture), 100, 200)
    twelve = np.round(picture.astype(float) / 255 * 4095).astype(np.uint16)
    pixels = decode_image(png16(twelve), max_pixels=20_000).pixels
    assert expected.any()
    assert np.array_equal(canny_edges(three_channels(pixels), 100, 200), expected)


def test_memory_stays_flat_where_0_is_white() -> None:
    side = 1500
    values = np.full((side, side), 4095, np.uint16)
    data = grey_tiff(values, interpretation=ZERO_IS_WHITE)
    tracemalloc.start()
    try:
        decode_image(data, max_pixels=side * side)
        assert tracemalloc.get_traced_memory()[1] < 8 * side * side
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("channels", [1, 3])
def test_memory_stays_within_a_few_copies_of_the_picture(channels: int) -> None:
    side = 1500
    values = np.zeros((side, side, channels), np.uint16)
    values[::2] = 4095
    data = png16(values)
    tracemalloc.start()
    try:
        decode_image(data, max_pixels=side * side)
        assert tracemalloc.get_traced_memory()[1] < 16 * side * side * channels
    finally:
        tracemalloc.stop()
