"""A picture's file as Pillow gets to see it: the first frame, and nothing that no pixel depends on."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import IO, Self, cast

from worker.image.gif_blocks import GIF_BEGIN, first_frame
from worker.image.heif import kind_of
from worker.image.jpeg_file import JPEG_BEGIN, JpegFile, check_segments
from worker.image.png_chunks import PNG_BEGIN, without_extras
from worker.image.tiff_directory import TIFF_BEGIN, TiffDirectory

FRAMES_COUNTED = 1000


@dataclass(frozen=True, eq=False)
class Source:
    """The parts of a file that are read. `frames` is None where Pillow reads the number from the file's header."""

    data: bytes
    parts: Sequence[memoryview] = ()  # none: the whole file
    frames: int | None = None
    tiff: TiffDirectory | None = None
    heif: str | None = None  # AVIF or HEIC

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Look at the file's structure; decode nothing.

        Raises:
            NotAnImage: it has so many parts that passing over them takes far longer than decoding a picture.
        """
        if data.startswith(PNG_BEGIN):
            return cls(data, without_extras(data))
        if data.startswith(GIF_BEGIN):
            parts, frames = first_frame(data, limit=FRAMES_COUNTED)
            return cls(data, parts, frames)
        if data.startswith(TIFF_BEGIN):
            tiff = TiffDirectory.of(data, limit=FRAMES_COUNTED)
            return cls(data, frames=tiff.pages if tiff else 1, tiff=tiff)
        if data.startswith(JPEG_BEGIN):
            check_segments(data)
        return cls(data, heif=kind_of(data))

    def open(self) -> IO[bytes]:
        """A file object; each has its own position."""
        if self.data.startswith(JPEG_BEGIN):
            return JpegFile(self.data)
        return cast(IO[bytes], Spliced(self.parts)) if self.parts else io.BytesIO(self.data)


class Spliced(io.RawIOBase):
    """Several parts of memory, read as one file: joining them would take the memory of a second file."""

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = list(accumulate(len(part) for part in self._parts))
        self._at = 0

    def read(self, size: int | None = -1) -> bytes:
        """As many bytes as there are, up to `size`; all that are left if it is negative."""
        total = self._ends[-1] if self._ends else 0
        end = total if size is None or size < 0 else min(self._at + size, total)
        pieces = []
        while self._at < end:
            number = bisect_right(self._ends, self._at)
            part = self._parts[number]
            start = self._ends[number] - len(part)
            pieces.append(part[self._at - start : end - start])
            self._at += len(pieces[-1])
        return b"".join(pieces)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; a place before the beginning is a ValueError, one beyond the end is not."""
        total = self._ends[-1] if self._ends else 0
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: total}[whence]
        if at < 0:
            raise ValueError(f"negative position {at}")
        self._at = at
        return at

    def tell(self) -> int:
        """The position, in bytes from the start."""
        return self._at

    def readable(self) -> bool:
        """True: io.RawIOBase says False by itself."""
        return True

    def seekable(self) -> bool:
        """True: decoders seek."""
        return True
