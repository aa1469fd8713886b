"""How products are cut into tiles: every pixel is in one, few are outside, and shared memory is enough."""

from __future__ import annotations

import pytest

from engines.backends.triton.tiles import (
    GATED,
    LARGE,
    LINEAR,
    NARROW,
    RESERVED_BYTES,
    STEP_BYTES,
    USUAL,
    Device,
    Tile,
    box_of,
    fitting,
    step_of,
    tile_for,
)

H200 = Device(processors=132, shared=232_448)
RTX_4090 = Device(processors=128, shared=101_376)


@pytest.mark.parametrize(
    ("shape", "side", "added", "tile"),
    [
        ((16, 64, 64, 320), 3, True, LARGE),
        ((2, 64, 64, 320), 3, False, LARGE),
        ((16, 32, 32, 640), 3, True, USUAL),
        ((2, 16, 16, 1280), 3, False, NARROW),
        ((16, 8, 8, 1280), 3, False, USUAL),
        ((1, 1, 65536, 320), 1, True, LARGE),
        ((1, 1, 65536, 960), 1, False, LINEAR),
    ],
)
def test_the_tiles_of_an_h200_are_the_measured_ones(
    shape: tuple[int, int, int, int], side: int, added: bool, tile: Tile
) -> None:
    found = tile_for(shape, side, H200, added=added)
    assert found._replace(stages=tile.stages) == tile
    assert 3 <= found.stages <= tile.stages  # two were never measured there


@pytest.mark.parametrize("device", [H200, RTX_4090], ids=["h200", "rtx4090"])
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("tile", [NARROW, USUAL, LARGE, LINEAR, GATED])
def test_a_tile_fits_into_shared_memory(tile: Tile, added: bool, device: Device) -> None:
    buffers = 2 if added and tile.merged else 1
    found = fitting(tile, device, buffers=buffers)
    stages = found.stages * (found.pixels + found.outputs) * STEP_BYTES
    used = stages + found.pixels * found.outputs * 2 * buffers + RESERVED_BYTES
    assert used * found.resident <= device.shared
    assert found.stages >= 2


@pytest.mark.parametrize("pixels", [64, 128, 256])
@pytest.mark.parametrize(
    ("rows", "height", "width", "most"),
    [
        (16, 64, 64, 1.0),
        (2, 32, 32, 1.0),
        (4, 8, 8, 1.0),
        (1, 1, 4096, 1.0),
        (2, 64, 96, 1.0),
        (2, 40, 24, 1.34),
        (2, 12, 8, 1.34),
        (2, 7, 5, 4.0),
    ],
)
def test_a_box_has_as_many_pixels_and_few_of_them_outside(
    pixels: int, rows: int, height: int, width: int, most: float
) -> None:
    box = box_of(pixels, rows, height, width)
    assert box[0] * box[1] * box[2] == pixels
    covered = 1
    for size, whole in zip(box[1:], (height, width), strict=True):
        covered *= -(-whole // size) * size
    assert covered <= most * height * width


def test_large_tiles_take_half_a_row_of_channels_where_a_whole_one_would_be_partly_empty() -> None:
    assert step_of(320, LARGE) == 64
    assert step_of(640, LARGE) == 128
    assert step_of(320, USUAL) == 128
    assert step_of(96, LARGE) == 128
