"""What a TIFF says of itself, in either byte order and size, and however it is damaged."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from worker.image.tiff_directory import TiffDirectory

TAGS = ((258, 16), (259, 5), (262, 1), (277, 1), (339, 2))


def tiff(order: str, *, big: bool, next_at: int = 0) -> bytes:
    """One directory of TAGS at the beginning, and the place of the next."""
    mark = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}H", 43 if big else 42)
    if big:
        head = mark + struct.pack(f"{order}HHQ", 8, 0, 16)
        entries = b"".join(struct.pack(f"{order}HHQHHI", tag, 3, 1, value, 0, 0) for tag, value in TAGS)
        return head + struct.pack(f"{order}Q", len(TAGS)) + entries + struct.pack(f"{order}Q", next_at)
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in TAGS)
    count = struct.pack(f"{order}H", len(TAGS))
    return mark + struct.pack(f"{order}I", 8) + count + entries + struct.pack(f"{order}I", next_at)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_a_directory_is_described(order: str, big: bool) -> None:
    directory = TiffDirectory.of(tiff(order, big=big), limit=10)
    assert str(directory) == "1 sample of 16 bits a pixel, signed integers, compression 5, colours 1"
    assert directory is not None
    assert (directory.pages, directory.compression, directory.tile_pixels) == (1, 5, 0)


@pytest.mark.parametrize("next_at", [8, 10**6, 2**32 - 1])
def test_a_chain_that_leads_back_or_out_of_the_file_ends(next_at: int) -> None:
    directory = TiffDirectory.of(tiff("<", big=False, next_at=next_at), limit=10)
    assert directory is not None
    assert directory.pages == 1


def test_pages_are_counted_to_a_limit() -> None:
    pages = [Image.new("L", (2, 2))] * 5
    pages[0].save(buffer := io.BytesIO(), "TIFF", save_all=True, append_images=pages[1:])
    found = [TiffDirectory.of(buffer.getvalue(), limit=limit) for limit in (1, 3, 5, 9)]
    assert [directory.pages for directory in found if directory] == [1, 3, 5, 5]


@given(st.binary(max_size=200), st.sampled_from([b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]))
def test_any_bytes_are_a_directory_or_none(data: bytes, mark: bytes) -> None:
    directory = TiffDirectory.of(mark + data, limit=10)
    assert directory is None or 1 <= directory.pages <= 10
