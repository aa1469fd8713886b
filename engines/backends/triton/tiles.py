"""How products are cut into tiles: measured on an H200, and made smaller where a GPU has less shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

# A step of the product takes this many bytes of each pixel's channels: a row of shared memory.
STEP_BYTES = 128
RESERVED_BYTES = 1024  # for barriers, and by the driver
SMALLEST = 64  # pixels, or outputs
WIDEST = 64  # pixels of a row of a picture in one tile


class Tile(NamedTuple):
    """What one program computes at a time, and how.

    `swapped`: the product's rows are output channels and its columns pixels, so that the tensor cores' widest
    instruction takes pixels, which there are always enough of. `merged`: the loops over tiles and steps are one, and
    the first copies for a tile run while the one before it is finished.
    """

    pixels: int
    outputs: int
    warps: int
    stages: int
    resident: int  # programs on one multiprocessor
    swapped: bool = False
    merged: bool = False


@dataclass(frozen=True)
class Device:
    """What the choice of tiles needs to know of a GPU: multiprocessors, and a program's shared memory in bytes."""

    processors: int
    shared: int


# A narrow tile where there are few, a usual one, and a large one for outputs that no multiple of 128 divides evenly.
NARROW = Tile(128, 64, warps=4, stages=6, resident=1, swapped=True)
USUAL = Tile(128, 128, warps=8, stages=4, resident=1, swapped=True)
LARGE = Tile(256, 128, warps=8, stages=3, resident=1, swapped=True)
LINEAR = Tile(128, 128, warps=4, stages=4, resident=1, merged=True)
GATED = Tile(128, 128, warps=4, stages=3, resident=2, merged=True)


def tile_for(shape: tuple[int, int, int, int], side: int, device: Device, *, added: bool = False) -> Tile:
    """The tile for an output of this shape [R,H,W,C] of side * side taps; `added`: another tensor is added to it.

    The fastest of some thirty, on an H200 at one and eight pictures of 512x512 (docs/notes/).
    """
    rows, height, width, outputs = shape
    pixels, uneven = rows * height * width, outputs % 128 > 0
    half = device.processors // 2
    if side == 1:
        tile = LARGE if added and uneven and pixels >= 128 * device.processors else LINEAR
    elif uneven and _tiles(pixels, outputs, LARGE) >= half:
        tile = LARGE
    else:
        tile = NARROW if _tiles(pixels, outputs, USUAL) < half else USUAL
    return fitting(tile, device, buffers=2 if added and tile.merged else 1)


def _tiles(pixels: int, outputs: int, tile: Tile) -> int:
    return _cdiv(pixels, tile.pixels) * _cdiv(outputs, tile.outputs)


def fitting(tile: Tile, device: Device, *, buffers: int) -> Tile:
    """The tile with as many stages as the GPU has shared memory for, and smaller if that is not enough for two.

    `buffers`: tiles of float16 outputs that are in shared memory beside the stages.
    """
    kept = tile.pixels * tile.outputs * 2 * buffers + RESERVED_BYTES
    stages = (device.shared // tile.resident - kept) // ((tile.pixels + tile.outputs) * STEP_BYTES)
    if stages >= 2:
        return tile._replace(stages=min(tile.stages, stages))
    if tile.resident > 1:
        return fitting(tile._replace(resident=1), device, buffers=buffers)
    if tile.pixels > SMALLEST:
        return fitting(tile._replace(pixels=tile.pixels // 2, warps=4), device, buffers=buffers)
    return tile._replace(outputs=SMALLEST, stages=2)


def box_of(pixels: int, rows: int, height: int, width: int) -> tuple[int, int, int]:
    """A tile of so many pixels as rows x height x width: as little as possible of it outside the pictures, then wide.

    It has pixels of several rows only where pictures are smaller than a tile, and is the same for every batch.
    """
    if rows * height == 1:
        return 1, 1, pixels
    shapes = [(down, across) for down in _powers(pixels) for across in _powers(pixels // down) if across <= WIDEST]
    most_rows = max(1, pixels // (height * width))
    fitting_rows = [(down, across) for down, across in shapes if pixels // (down * across) <= most_rows]

    def outside(shape: tuple[int, int]) -> tuple[int, int]:
        down, across = shape
        return _cdiv(height, down) * down * _cdiv(width, across) * across, -across

    down, across = min(fitting_rows or shapes, key=outside)
    return pixels // (down * across), down, across


def _powers(most: int) -> list[int]:
    """The powers of two up to a power of two."""
    return [1 << i for i in range(most.bit_length())]


def step_of(channels: int, tile: Tile) -> int:
    """Input channels a step: a row of shared memory, or half of one for large tiles where that leaves none empty."""
    halves = tile.pixels == LARGE.pixels and channels % STEP_BYTES > 0 and channels % (STEP_BYTES // 2) == 0
    return STEP_BYTES // 2 if halves else STEP_BYTES


def _cdiv(value: int, divisor: int) -> int:
    return -(-value // divisor)
