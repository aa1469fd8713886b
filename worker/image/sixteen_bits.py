"""16 bits a channel -> 8, by what the values say.

A camera or scanner of 10, 12 or 14 bits often writes its values into 16 as they are. Read as 16-bit values, a 12-bit
picture is nearly black and has no edges. So a picture whose largest value is below 2^k, for the smallest such k of 10,
12 and 14, is read as a k-bit picture: value * 255 / (2^k - 1). Every other one, and a black one, is read as before.

Pillow keeps only the high byte of 16-bit colours. The low byte comes from the same decoder, which is told that samples
have the other byte order: no other library has to read a stranger's bytes.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
from PIL import Image, ImageOps

from jobs.errors import NotAnImage

SIXTEEN_BITS = "16 bits a channel were reduced to 8"
TWELVE_BITS = "12 bits a channel were reduced to 8"
NARROWER = (10, 12, 14)
PIXELS_AT_ONCE = 2**18  # numpy turns each index of a look-up into 8 bytes

BITS_PER_SAMPLE, PLANES, SEPARATE = 258, 284, 2  # two tags of a TIFF, and a value of the second one
SIXTEEN = re.compile(";16([BLN])$")
OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
# Of a PNG. Pillow has no raw mode for its low bytes, but can read all four bytes of a pixel as R, G, B and A.
GREY_AND_ALPHA, ALL_FOUR = "LA;16B", "RGBA"
IN_PLANES = "its 16-bit colours are stored in separate planes, which cannot be read here; save it with 8 bits a channel"


def narrower_bits(largest: int) -> int | None:
    """10, 12 or 14 if the largest value of a picture says that it has no more bits; None for 16 bits and for black."""
    return next((bits for bits in NARROWER if 0 < largest < 2**bits), None)


def grey_to_eight_bits(image: Image.Image, *, has_twelve: bool) -> tuple[np.ndarray, str]:
    """Mode I or I;16 -> uint8 [H, W], and what was done. `has_twelve`: the file says that its values have 12 bits."""
    values = np.asarray(image)
    largest = int(values.max())
    bits = 12 if has_twelve else narrower_bits(largest)
    pixels, table = np.empty(values.size, np.uint8), _table(bits)
    for some in _slices(values.size):
        pixels[some] = table[values.reshape(-1)[some].clip(0, 2**16 - 1)]
    return pixels.reshape(values.shape), TWELVE_BITS if has_twelve else _sentence(bits, largest)


def has_twelve_bit_grey(image: Image.Image) -> bool:
    """Whether a TIFF says that its values have 12 bits. Only the raw mode, before loading, shows it."""
    return any("I;12" in str(tile[3]) for tile in _tiles(image))


@dataclass(frozen=True)
class SixteenBitColours:
    """A file with 16-bit colours, which Pillow reduces to 8 bits when it loads them."""

    data: bytes
    format: str
    raw_mode: str

    @classmethod
    def of(cls, image: Image.Image, data: bytes) -> Self | None:
        """For an opened picture that is not loaded yet: only its raw mode shows what the file holds.

        Raises:
            NotAnImage: the colours are stored in separate planes that Pillow cannot read.
        """
        _read_planes(image)
        raw_modes = [] if image.mode.startswith("I") else [_raw_mode(tile) for tile in _tiles(image)]
        raw_mode = next((mode for mode in raw_modes if SIXTEEN.search(mode)), None)
        return None if raw_mode is None or image.format is None else cls(data, image.format, raw_mode)

    def by_range(self, high: Image.Image) -> tuple[Image.Image, str]:
        """The picture as Pillow loads it, upright -> as its values say, in the same mode; and what was done."""
        is_premultiplied = self.raw_mode.startswith("RGBa")  # Pillow divides by alpha, so `high` is not what is stored
        stored = self._load(_without_division) if is_premultiplied else high
        largest = _largest(stored, with_alpha=is_premultiplied)
        if largest >= 2 ** (NARROWER[-1] - 8):
            return high, SIXTEEN_BITS
        low = self._low_bytes()
        largest = largest * 256 + (255 if largest else _largest(low, with_alpha=is_premultiplied))
        bits = narrower_bits(largest)
        if bits is None:
            return high, SIXTEEN_BITS
        has_own_alpha = stored.mode == "RGBA" and not is_premultiplied
        alpha_bits = narrower_bits(_largest_alpha(stored, low)) if has_own_alpha else bits
        pixels = _combined(np.asarray(stored), np.asarray(low), bits, alpha_bits)
        return _picture(pixels, high, "RGBa" if is_premultiplied else high.mode, _table(bits)), _sentence(bits, largest)

    def _low_bytes(self) -> Image.Image:
        if self.raw_mode != GREY_AND_ALPHA:
            return self._load(_other_byte)
        _, grey, _, alpha = self._load(lambda _: ALL_FOUR).split()
        return Image.merge("RGBA", (grey, grey, grey, alpha))

    def _load(self, change: Callable[[str], str]) -> Image.Image:
        """The first frame, upright, with another raw mode."""
        with Image.open(io.BytesIO(self.data), formats=(self.format,)) as image:
            image.seek(0)
            _read_planes(image)
            if _is_planar(image) and _tiles(image)[0][0] == "libtiff":
                raise NotAnImage(IN_PLANES)  # libtiff would return the high bytes whatever it is told
            _change_raw_modes(image, change)
            image.load()
            return ImageOps.exif_transpose(image)


def _combined(high: np.ndarray, low: np.ndarray, bits: int, alpha_bits: int | None) -> np.ndarray:
    """Two pictures, uint8 [H, W, 3 or 4], of the high and of the low bytes -> one in 8 bits of the same shape.

    A fourth channel has `alpha_bits`.
    """
    channels = high.shape[2]
    highs, lows = high.reshape(-1, channels), low.reshape(-1, channels)
    pixels, table, alpha_table = np.empty_like(highs), _table(bits), _table(alpha_bits)
    for some in _slices(len(highs)):
        values = highs[some].astype(np.uint16) << 8 | lows[some]
        pixels[some] = table[values]
        if channels == 4:
            pixels[some, 3] = alpha_table[values[:, 3]]
    return pixels.reshape(high.shape)


def _picture(pixels: np.ndarray, before: Image.Image, mode: str, table: np.ndarray) -> Image.Image:
    height, width = pixels.shape[:2]
    picture = Image.frombytes(mode, (width, height), pixels.tobytes())
    key = before.info.get("transparency")  # the colour of a PNG that is transparent
    if isinstance(key, tuple):
        picture.info["transparency"] = tuple(int(table[value]) for value in key)
    return picture.convert(before.mode)


def _table(bits: int | None) -> np.ndarray:
    """uint8 [65536]: what each 16-bit value becomes in a picture of so many bits."""
    scaled: np.ndarray = (np.arange(2**16) * (255 / (2 ** (bits or 16) - 1))).round().clip(0, 255).astype(np.uint8)
    return scaled


def _sentence(bits: int | None, largest: int) -> str:
    if bits is None:
        return SIXTEEN_BITS
    if largest < 256:
        doubt = "no value exceeds 255, so save an 8-bit picture with 8 bits a channel"
    else:
        doubt = "if it is meant to be so dark, save it with 8 bits a channel"
    return f"{SIXTEEN_BITS} as those of a {bits}-bit picture, since no value reaches {2**bits:,}; {doubt}"


def _largest(image: Image.Image, *, with_alpha: bool) -> int:
    bands = cast(tuple[tuple[int, int], ...], image.getextrema())
    return max(high for _, high in (bands if with_alpha or image.mode != "RGBA" else bands[:3]))


def _largest_alpha(high: Image.Image, low: Image.Image) -> int:
    """An upper bound, which is exact enough for `narrower_bits`."""
    largest_high, largest_low = (cast(Any, image.getextrema())[-1][1] for image in (high, low))
    return int(largest_high * 256 + 255 if largest_high else largest_low)


def _slices(length: int) -> list[slice]:
    return [slice(start, start + PIXELS_AT_ONCE) for start in range(0, length, PIXELS_AT_ONCE)]


# -- Pillow's tiles: (decoder, box, offset, arguments); the raw mode is the first argument or the only one ------------


def _tiles(image: Image.Image) -> list[Any]:
    return list(getattr(image, "tile", ()))


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _change_raw_modes(image: Image.Image, change: Callable[[str], str]) -> None:
    tiles = []
    for tile in _tiles(image):
        raw_mode, arguments = change(_raw_mode(tile)), tile[3]
        changed = (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode
        tiles.append(tile._replace(args=changed) if hasattr(tile, "_replace") else (*tile[:3], changed))
    cast(Any, image).tile = tiles


def _other_byte(raw_mode: str) -> str:
    return SIXTEEN.sub(lambda match: f";16{OTHER_BYTE[match[1]]}", _without_division(raw_mode))


def _without_division(raw_mode: str) -> str:
    return raw_mode.replace("RGBa", "RGBA")


def _is_planar(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    return tags.get(PLANES) == SEPARATE and 16 in tags.get(BITS_PER_SAMPLE, ())


def _read_planes(image: Image.Image) -> None:
    """Let Pillow read uncompressed planes of 16 bits as such: it takes each byte for a pixel."""
    if not _is_planar(image) or any(tile[0] != "raw" or SIXTEEN.search(_raw_mode(tile)) for tile in _tiles(image)):
        return
    if image.mode not in ("RGB", "RGBA"):
        raise NotAnImage(IN_PLANES)
    order = "L" if cast(Any, image).tag_v2.prefix == b"II" else "B"
    _change_raw_modes(image, lambda band: f"{band};16{order}")
