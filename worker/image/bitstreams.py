"""What the pictures inside an AVIF or HEIC are, by their own headers: AV1's sequence header and HEVC's parameter set.

The file around them says their sizes as well, but a decoder believes these. Sources: the AV1 Bitstream & Decoding
Process Specification, 5.3 and 5.5; ITU-T H.265, 7.3.1, 7.3.2.2 and 7.3.3; ISO/IEC 14496-15, 8.3.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SEQUENCE_HEADER, FRAMES_OF_AV1 = 1, (3, 6)  # types of OBUs: a frame's header, alone or with the frame
PARAMETER_SET, FRAMES_OF_HEVC = 33, range(32)  # types of NAL units
HEADER_BYTES = 256  # of a parameter set, as far as its size
HVCC_ARRAYS = 22  # where the configuration of HEVC has its arrays
MOST_UNITS = 10_000  # in one picture; a large one has some hundred slices or tiles
TOO_MANY_UNITS = f"a picture in it has more than {MOST_UNITS:,} parts"


class Damaged(ValueError):
    """The bytes are not what they should be."""


@dataclass(frozen=True)
class Coded:
    """The largest width and height in pixels that headers say, how many frames follow them, and in how many units."""

    width: int = 0
    height: int = 0
    frames: int = 0
    units: int = 0

    def __add__(self, other: Coded) -> Coded:
        width, height = max(self.width, other.width), max(self.height, other.height)
        return Coded(width, height, self.frames + other.frames, self.units + other.units)


class Bits:
    """Bytes, read bit by bit, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data)
        self._left = 8 * len(data)

    def read(self, bits: int) -> int:
        """An unsigned number of so many bits.

        Raises:
            Damaged: there are not so many.
        """
        self._left -= bits
        if self._left < 0:
            raise Damaged("a header ends early")
        return self._value >> self._left & ((1 << bits) - 1)

    def exp_golomb(self) -> int:
        """ue(v) of HEVC; uvlc() of AV1 is the same."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise Damaged("a number has too many bits")
        return (1 << zeros) - 1 + self.read(zeros)


def av1(data: memoryview) -> Coded:
    """The OBUs of a picture, or those of its configuration."""
    coded = Coded()
    for kind, body in _obus(data):
        if kind == SEQUENCE_HEADER:
            coded += Coded(*_sequence_size(Bits(body)))
        coded += Coded(frames=int(kind in FRAMES_OF_AV1), units=1)
    return coded


def hevc_configuration(data: memoryview) -> tuple[Coded, int]:
    """The body of `hvcC`: what its parameter sets say, and how many bytes the length of a unit has in the picture."""
    coded, at = Coded(), HVCC_ARRAYS + 1
    if len(data) < at:
        raise Damaged("the configuration ends early")
    for _ in range(data[HVCC_ARRAYS]):
        at += 3
        for _ in range(int.from_bytes(data[at - 2 : at])):
            end = at + 2 + int.from_bytes(data[at : at + 2])
            if end > len(data):
                raise Damaged("the configuration ends early")
            coded += _nal_unit(bytes(data[at + 2 : end]))
            at = end
    return coded, (data[HVCC_ARRAYS - 1] & 3) + 1


def hevc(data: memoryview, *, length_bytes: int) -> Coded:
    """The NAL units of a picture, each behind its length."""
    coded, at = Coded(), 0
    while at + length_bytes <= len(data):
        begin = at + length_bytes
        at = begin + int.from_bytes(data[at:begin])
        coded += _nal_unit(bytes(data[begin : min(at, begin + HEADER_BYTES)]))
        if coded.units > MOST_UNITS:
            raise Damaged(TOO_MANY_UNITS)
    return coded


def _obus(data: memoryview) -> Iterator[tuple[int, bytes]]:
    at, units = 0, 0
    while at < len(data):
        kind, has_extension, has_size = data[at] >> 3 & 15, data[at] & 4, data[at] & 2
        at += 2 if has_extension else 1
        size = len(data) - at
        if has_size:
            size, at = _leb128(data, at)
        yield kind, bytes(data[at : at + min(size, HEADER_BYTES)])
        at, units = at + size, units + 1
        if units > MOST_UNITS:
            raise Damaged(TOO_MANY_UNITS)


def _leb128(data: memoryview, at: int) -> tuple[int, int]:
    """The number, and where it ends."""
    value = 0
    for place in range(8):
        if at + place >= len(data):
            raise Damaged("a length ends early")
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value, at + place + 1
    raise Damaged("a length has too many bytes")


def _sequence_size(bits: Bits) -> tuple[int, int]:
    bits.read(3 + 1)  # profile, still picture
    if bits.read(1):  # a still picture with a reduced header
        bits.read(5)
    else:
        _pass_over_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(width_bits) + 1, bits.read(height_bits) + 1


def _pass_over_operating_points(bits: Bits) -> None:
    delay_bits = 0
    if bits.read(1):  # timing
        bits.read(32 + 32)
        if bits.read(1):
            bits.exp_golomb()
        if bits.read(1):  # decoder model
            delay_bits = bits.read(5) + 1
            bits.read(32 + 5 + 5)
    has_display_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:  # level
            bits.read(1)  # tier
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if has_display_delay and bits.read(1):
            bits.read(4)


def _nal_unit(data: bytes) -> Coded:
    """What one unit adds. Those of other layers (a picture for each eye) are not decoded."""
    if len(data) < 3:
        return Coded(units=1)
    kind, layer = data[0] >> 1 & 63, (data[0] & 1) << 5 | data[1] >> 3
    if layer == 0 and kind == PARAMETER_SET:
        header = Bits(data[2:HEADER_BYTES].replace(b"\0\0\3", b"\0\0"))
        return Coded(*_parameter_set_size(header), units=1)
    is_frame = layer == 0 and kind in FRAMES_OF_HEVC and bool(data[2] & 0x80)  # its first slice
    return Coded(frames=int(is_frame), units=1)


def _parameter_set_size(bits: Bits) -> tuple[int, int]:
    bits.read(4)
    sub_layers = bits.read(3)
    bits.read(1 + 96)  # nesting; the general profile, tier and level
    flags = [(bits.read(1), bits.read(1)) for _ in range(sub_layers)]
    if sub_layers:
        bits.read(2 * (8 - sub_layers))
    for has_profile, has_level in flags:
        bits.read(88 * has_profile + 8 * has_level)
    bits.exp_golomb()
    if bits.exp_golomb() == 3:  # chroma
        bits.read(1)
    return bits.exp_golomb(), bits.exp_golomb()
