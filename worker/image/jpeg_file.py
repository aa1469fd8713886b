"""A JPEG's bytes, read in no more small pieces than a picture has.

Pillow reads what comes before the pixels marker by marker, and byte by byte where there is no marker. A file of 64 MiB
may hold sixteen million empty segments, or sixty million bytes of padding, which take a minute or more.
"""

from __future__ import annotations

import io
import re
from itertools import islice

from jobs.errors import NotAnImage

JPEG_BEGIN = b"\xff\xd8"
# Pillow joins segments of EXIF one by one, in time that grows with the square of their number. One is usual.
EXIF_SEGMENT, MOST_EXIF = re.compile(rb"\xff\xe1..Exif\0\0", re.DOTALL), 100
PHOTOSHOP_RESOURCE, MOST_RESOURCES = b"8BIM", 20_000  # a hundred are usual; Pillow reads each by itself

MARKER_BYTES = 2  # a marker, or the length behind it; bodies and pixels are read in larger pieces
MOST_SMALL_READS = 50_000  # three for a segment: a camera writes a dozen segments, a long colour profile 255


def check_segments(data: bytes) -> None:
    """Look for segments that take Pillow far longer than others.

    Raises:
        NotAnImage: there are too many of them.
    """
    if len(list(islice(EXIF_SEGMENT.finditer(data), MOST_EXIF + 1))) > MOST_EXIF:
        raise NotAnImage(f"the JPEG has more than {MOST_EXIF} segments of EXIF, where one is usual: save it again")
    if (number := data.count(PHOTOSHOP_RESOURCE)) > MOST_RESOURCES:
        raise NotAnImage(f"the JPEG has {number:,} Photoshop resources, where a hundred are usual: save it again")


class JpegFile(io.BytesIO):
    """The file as Pillow reads it. Each has its own position and count."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = MOST_SMALL_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes.

        Raises:
            NotAnImage: there were too many small reads.
        """
        if size is not None and 0 <= size <= MARKER_BYTES:
            self._left -= 1
            if self._left < 0:
                raise NotAnImage("the JPEG has tens of thousands of segments before its pixels: save it again")
        return super().read(size)
