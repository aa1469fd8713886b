"""Three channels, a size that the networks take, and edges: as ControlNet's canny2image has them."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import SourceTooLarge
from jobs.picture_size import MAX_SIDE, MULTIPLE, target_size
from tools import ROOT
from worker.image.canny import canny_edges, edge_warnings, resize_image, three_channels

THREADS = 1000
# Prints by how many bytes the memory in use grew while so many threads, one after the other, prepared a picture each.
LEFT_BEHIND = f"""
import ctypes, threading
import numpy as np
from worker.image.canny import canny_edges, resize_image

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks used".split()]
    _fields_ += [(name, ctypes.c_size_t) for name in ("fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo
picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)

def threads(number):
    for _ in range(number):
        thread = threading.Thread(target=lambda: canny_edges(resize_image(picture, 128), 100, 200))
        thread.start()
        thread.join()
    return libc.mallinfo2().used

before = threads(200)
print(threads({THREADS}) - before)
"""

SIDES = st.integers(1, 10_000)
RESOLUTIONS = st.integers(1, 32).map(lambda n: 64 * n)


def shaded(height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3]: soft shading, hard shapes."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(60, 160, (5, 5, 3), dtype=np.uint8), (width, height))
    cv2.rectangle(picture, (width // 4, height // 4), (width // 2, 3 * height // 4), (250, 220, 0), -1)
    return picture


def test_three_channels_stay_as_they_are() -> None:
    picture = shaded(9, 7)
    assert three_channels(picture) is picture


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1)])
def test_grey_is_repeated(shape: tuple[int, ...]) -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(shape)
    colours = three_channels(grey)
    assert colours.shape == (5, 4, 3)
    assert all(np.array_equal(colours[:, :, channel], grey.reshape(5, 4)) for channel in range(3))


@given(colour=st.integers(0, 255), alpha=st.integers(0, 255))
@settings(deadline=None)
def test_transparency_shows_white_by_as_much_as_it_is_transparent(colour: int, alpha: int) -> None:
    blended = three_channels(np.full((1, 1, 4), [colour, 255, 0, alpha], np.uint8))[0, 0]
    for value, exact in zip(blended, (colour, 255, 0), strict=True):
        assert abs(int(value) - (exact * alpha / 255 + 255 * (1 - alpha / 255))) < 1.01  # truncated
    if alpha == 0:
        assert blended.tolist() == [255, 255, 255]
    if alpha == 255:
        assert blended.tolist() == [colour, 255, 0]


def test_every_colour_at_every_alpha_is_blended_to_the_bit_as_the_original_does() -> None:
    values = np.stack(np.meshgrid(np.arange(256), np.arange(256), indexing="ij"), axis=2).astype(np.uint8)
    rgba = np.concatenate([values[:, :, :1]] * 3 + [values[:, :, 1:]], axis=2)  # every value with every alpha
    # annotator/util.py, HWC3, of ControlNet.
    colour, alpha = rgba[:, :, 0:3].astype(np.float32), rgba[:, :, 3:4].astype(np.float32) / 255.0
    original = (colour * alpha + 255.0 * (1.0 - alpha)).clip(0, 255).astype(np.uint8)
    assert np.array_equal(three_channels(rgba), original)


def test_strips_of_different_transparency_are_blended_alike() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (2100, 500, 4), dtype=np.uint8)  # five strips
    rgba[:700, :, 3], rgba[700:1400, :, 3] = 255, 0
    colours = three_channels(rgba)
    assert np.array_equal(colours[:700], rgba[:700, :, :3])
    assert (colours[700:1400] == 255).all()
    assert np.array_equal(colours[1400:], three_channels(rgba[1400:]))


@given(height=SIDES, width=SIDES, resolution=RESOLUTIONS)
@settings(deadline=None)
def test_the_short_side_becomes_the_resolution_and_the_other_keeps_the_proportions(
    height: int, width: int, resolution: int
) -> None:
    long_side = max(height, width) * resolution / min(height, width)
    if long_side > MAX_SIDE + MULTIPLE / 2:
        with pytest.raises(SourceTooLarge):
            target_size(height, width, resolution)
    elif long_side < MAX_SIDE:
        sides = target_size(height, width, resolution)
        assert min(sides) == resolution
        assert all(side % MULTIPLE == 0 for side in sides)
        assert abs(max(sides) - long_side) <= MULTIPLE / 2 + 1e-6
        assert (sides[0] > sides[1]) == (height > width) or sides[0] == sides[1]


def test_sizes_that_people_know() -> None:
    assert target_size(170, 256, 256) == (256, 384)
    assert target_size(1080, 1920, 512) == (512, 896)
    assert target_size(4032, 3024, 512) == (704, 512)
    assert target_size(512, 512, 512) == (512, 512)


def test_a_ribbon_is_refused_with_what_to_do() -> None:
    with pytest.raises(SourceTooLarge, match=r"6400x8 pixels .* 409600x512.* crop it, or lower image_resolution"):
        target_size(8, 6400, 512)


def test_enlarging_is_lanczos_and_shrinking_is_by_area() -> None:
    picture = shaded(100, 150)
    enlarged = cv2.resize(picture, (192, 128), interpolation=cv2.INTER_LANCZOS4)
    assert np.array_equal(resize_image(picture, 128), enlarged)
    shrunk = cv2.resize(picture, (128, 64), interpolation=cv2.INTER_AREA)
    assert np.array_equal(resize_image(picture[:, :148], 64).shape, (64, 64 * round(148 / 100), 3))
    assert np.array_equal(resize_image(picture[:, :200], 64), shrunk)


def test_a_picture_that_has_its_size_keeps_its_pixels() -> None:
    picture = shaded(128, 192)
    assert np.array_equal(resize_image(picture, 128), picture)


def test_edges_are_those_of_canny_and_nothing_between_black_and_white() -> None:
    picture = shaded(128, 128)
    edges = canny_edges(picture, 100, 200)
    assert edges.dtype == np.uint8
    assert set(np.unique(edges)) == {0, 255}
    assert np.array_equal(edges, cv2.Canny(picture, 100, 200))


def test_higher_thresholds_find_no_more_edges() -> None:
    picture = cv2.GaussianBlur(shaded(128, 128), (9, 9), 3)
    counts = [int(canny_edges(picture, low, high).sum()) for low, high in ((0, 20), (50, 100), (200, 255))]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_a_flat_picture_has_no_edges() -> None:
    assert not canny_edges(np.full((64, 64, 3), 128, np.uint8), 100, 200).any()


def edges_of(*, pixels: int, height: int = 64, width: int = 96) -> np.ndarray:
    """An edge map with so many pixels set."""
    edges = np.zeros(height * width, np.uint8)
    edges[:pixels] = 255
    return edges.reshape(height, width)


def test_a_picture_without_edges_is_warned_of_with_its_thresholds_and_what_to_change() -> None:
    (warning,) = edge_warnings(canny_edges(np.full((64, 64, 3), 128, np.uint8), 90, 180), 90, 180)
    assert warning == (
        "no edges were found at low_threshold 90 and high_threshold 180, so the picture does not guide the result: "
        "lower the thresholds, or use a picture with more contrast"
    )


def test_edges_shorter_than_half_the_short_side_are_warned_of() -> None:
    (warning,) = edge_warnings(edges_of(pixels=31), 100, 200)
    assert warning.startswith("only 31 pixels of edges were found at low_threshold 100 and high_threshold 200")
    assert edge_warnings(edges_of(pixels=32), 100, 200) == ()


def test_more_edges_than_a_third_of_the_pixels_are_warned_of() -> None:
    assert edge_warnings(edges_of(pixels=64 * 32), 100, 200) == ()
    (warning,) = edge_warnings(edges_of(pixels=64 * 32 + 1), 100, 200)
    assert warning.startswith("33% of the pixels are edges at low_threshold 100 and high_threshold 200, as in noise")


@pytest.mark.parametrize("spread", [40, 60, 100])
def test_noise_has_too_many_edges_and_shapes_have_not(spread: int) -> None:
    noise = np.random.default_rng(0).normal(128, spread, (256, 256, 3)).clip(0, 255).astype(np.uint8)
    assert "as in noise" in edge_warnings(canny_edges(noise, 100, 200), 100, 200)[0]
    assert edge_warnings(canny_edges(shaded(256, 256), 100, 200), 100, 200) == ()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not a recent glibc")
def test_threads_that_come_and_go_leave_no_memory_behind() -> None:
    """OpenCV with threads of its own leaves 0.8 KB of each thread that has called it."""
    script = [sys.executable, "-c", LEFT_BEHIND]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200 * THREADS  # bytes
