"""16 bits a channel -> 8, by what the values say.

A camera or scanner of 10, 12 or 14 bits often writes its values into 16 as they are. Read as 16-bit values, a 12-bit
picture is nearly black and has no edges. So a picture whose largest value is below 2^k, for the smallest such k of 10,
12 and 14, is read as a k-bit picture: value * 255 / (2^k - 1). Every other one, and a black one, is read as before.

Integers of 32 bits whose values exceed 16 are scaled by the largest one. Negative values are black.

In a TIFF, 0 may be white. Pillow inverts such values of up to 8 bits and leaves wider ones as they are stored.

Pillow keeps only the high byte of 16-bit colours. The low byte comes from the same decoder, which is told that samples
have the other byte order: no other library has to read a stranger's bytes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Self, cast

import numpy as np
from PIL import Image

from jobs.errors import NotAnImage
from worker.image.orientation import turn_upright
from worker.image.strips import PIXELS_AT_ONCE, filled, strips_of

SIXTEEN_BITS = "16 bits a channel were reduced to 8"
STORED_IN_32 = "32 bits a channel were reduced to 8"
TWELVE_BITS = "12 bits a channel were reduced to 8"
THIRTY_TWO_BITS = "32 bits a channel were reduced to 8 by the largest value, {largest:,}"
NARROWER = (10, 12, 14)

# Tags of a TIFF, and a value of theirs.
BITS_PER_SAMPLE = 258
INTERPRETATION, ZERO_IS_WHITE = 262, 0
PLANES, SEPARATE = 284, 2
SAMPLE_FORMAT, SIGNED = 339, 2
UNSIGNED = re.compile("I;32[BN]?$")  # a raw mode; Pillow keeps the values in signed integers
THIRTY_TWO = re.compile("I(;32.*)?$")  # of an integer; a PNG's has 16 bits and the raw mode I;16B
SIXTEEN = re.compile(";16([BLN])$")
SIGNED_OR_FLOAT = re.compile(";(16|32)B?([SF])$")
OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
# Raw modes of a PNG. Pillow has none for its low bytes, but can read all four bytes of a pixel as R, G, B and A.
GREY_AND_ALPHA, ALL_FOUR = "LA;16B", "RGBA"
IN_PLANES = "its 16-bit colours are stored in separate planes, which cannot be read here; save it with 8 bits a channel"


def narrower_bits(largest: int) -> int | None:
    """10, 12 or 14 if the largest value of a picture says that it has no more bits; None for 16 bits and for black."""
    return next((bits for bits in NARROWER if 0 < largest < 2**bits), None)


def grey_to_eight_bits(image: Image.Image, kind: GreyKind) -> tuple[np.ndarray, str]:
    """Mode I or I;16, loaded -> uint8 [H, W], and what was done.

    The range is that of the stored values, also where 0 is white: inverted first, those of a 12-bit scanner would lie
    between 61,440 and 65,535 and would look like a 16-bit picture that is nearly white.
    """
    largest = max(int(kind.values(strip).max()) for _, strip in strips_of(image))
    if largest >= 2**16:
        scale = 255 / largest
        pixels = filled(
            image, 1, lambda strip: kind.shown((kind.values(strip).clip(0) * scale).round().astype(np.uint8))
        )
        return pixels, THIRTY_TWO_BITS.format(largest=largest)
    bits = 12 if kind.has_twelve_bits else narrower_bits(largest)
    table = kind.shown(_table(bits))
    pixels = filled(image, 1, lambda strip: table[kind.values(strip).clip(0)])
    if kind.has_twelve_bits:
        return pixels, TWELVE_BITS
    return pixels, _sentence(bits, largest, kind.stored, "bright" if kind.zero_is_white else "dark")


@dataclass(frozen=True)
class GreyKind:
    """What a file says of its grey values, and Pillow's mode does not. The raw modes show it only before loading."""

    has_twelve_bits: bool  # a TIFF's
    is_unsigned: bool  # 32 bits
    stored: str = SIXTEEN_BITS  # the beginning of the sentence that says what was done
    zero_is_white: bool = False  # and Pillow leaves the values as they are stored
    has_signed_bytes: bool = False  # which Pillow reads as unsigned ones

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """Read from an opened picture that is not loaded yet."""
        raw_modes = [_raw_mode(tile) for tile in _tiles(image)]
        # Pillow's own reading of the tags, since the raw mode follows from it. A TIFF without an interpretation is one
        # whose 0 is black: so libtiff reads it.
        tags = getattr(image, "tag_v2", {})
        return cls(
            any("I;12" in mode for mode in raw_modes),
            any(UNSIGNED.match(mode) for mode in raw_modes),
            STORED_IN_32 if any(THIRTY_TWO.match(mode) for mode in raw_modes) else SIXTEEN_BITS,
            image.mode.startswith(("I", "F")) and tags.get(INTERPRETATION) == ZERO_IS_WHITE,
            image.mode == "L" and SIGNED in tags.get(SAMPLE_FORMAT, ()),
        )

    def values(self, strip: Image.Image) -> np.ndarray:
        """Integers [H, W]."""
        values = np.asarray(strip)
        return values.view(np.uint32) if self.is_unsigned and values.dtype == np.int32 else values

    def shown(self, eight_bit: np.ndarray) -> np.ndarray:
        """Values that were reduced to uint8 -> as they are meant, with 0 for black."""
        return 255 - eight_bit if self.zero_is_white else eight_bit


@dataclass(frozen=True)
class SixteenBitColours:
    """A file with 16-bit colours, which Pillow reduces to 8 bits when it loads them."""

    open_file: Callable[[], IO[bytes]]
    format: str
    raw_mode: str

    @classmethod
    def of(cls, image: Image.Image, open_file: Callable[[], IO[bytes]]) -> Self | None:
        """For an opened picture that is not loaded yet: only its raw mode shows what the file holds.

        Raises:
            NotAnImage: the colours are stored in separate planes that Pillow cannot read.
        """
        _read_planes(image)
        raw_modes = [] if image.mode.startswith("I") else [_raw_mode(tile) for tile in _tiles(image)]
        raw_mode = next((mode for mode in raw_modes if SIXTEEN.search(mode)), None)
        return None if raw_mode is None or image.format is None else cls(open_file, image.format, raw_mode)

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
        picture = Image.new("RGBa" if is_premultiplied else high.mode, high.size)
        for (rows, highs), (_, lows) in zip(strips_of(stored), strips_of(low), strict=True):
            pixels = _combined(np.asarray(highs), np.asarray(lows), bits, alpha_bits)
            picture.paste(Image.frombytes(picture.mode, highs.size, pixels.tobytes()), (0, rows.start))
        return _finished(picture, high, _table(bits)), _sentence(bits, largest)

    def _low_bytes(self) -> Image.Image:
        if self.raw_mode != GREY_AND_ALPHA:
            return self._load(_other_byte)
        _, grey, _, alpha = self._load(lambda _: ALL_FOUR).split()
        return Image.merge("RGBA", (grey, grey, grey, alpha))

    def _load(self, change: Callable[[str], str]) -> Image.Image:
        """The first frame, upright, with another raw mode."""
        image = Image.open(self.open_file(), formats=(self.format,))  # in memory: nothing has to be closed
        image.seek(0)
        _read_planes(image)
        if _is_planar(image) and _tiles(image)[0][0] == "libtiff":
            raise NotAnImage(IN_PLANES)  # libtiff would return the high bytes whatever it is told
        _change_raw_modes(image, change)
        image.load()
        turn_upright(image)
        return image


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


def _finished(picture: Image.Image, before: Image.Image, table: np.ndarray) -> Image.Image:
    key = before.info.get("transparency")  # the colour of a PNG that is transparent
    if isinstance(key, tuple):
        picture.info["transparency"] = tuple(int(table[value]) for value in key)
    return picture if picture.mode == before.mode else picture.convert(before.mode)


def _table(bits: int | None) -> np.ndarray:
    """uint8 [65536]: what each 16-bit value becomes in a picture of so many bits."""
    scaled: np.ndarray = (np.arange(2**16) * (255 / (2 ** (bits or 16) - 1))).round().clip(0, 255).astype(np.uint8)
    return scaled


def _sentence(bits: int | None, largest: int, stored: str = SIXTEEN_BITS, shade: str = "dark") -> str:
    if bits is None:
        return (
            stored if stored == SIXTEEN_BITS else f"{stored} as those of a 16-bit picture, since none reaches {2**16:,}"
        )
    if largest < 256:
        doubt = "no value exceeds 255, so save an 8-bit picture with 8 bits a channel"
    else:
        doubt = f"if it is meant to be so {shade}, save it with 8 bits a channel"
    return f"{stored} as those of a {bits}-bit picture, since no value reaches {2**bits:,}; {doubt}"


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


def read_native_order(image: Image.Image) -> None:
    """Let Pillow read what libtiff decompresses in this machine's byte order, as libtiff returns it.

    For unsigned integers it does so itself; signed ones and floating point it takes for the file's byte order.
    """
    if any(tile[0] == "libtiff" for tile in _tiles(image)):
        _change_raw_modes(image, lambda mode: SIGNED_OR_FLOAT.sub(r";\1N\2", mode))


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
