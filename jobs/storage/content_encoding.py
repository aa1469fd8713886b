"""Content-Encoding: undoing the compression that some hosts apply without being asked, within a cap of bytes."""

from __future__ import annotations

import zlib
from typing import Protocol

from jobs.errors import NotAnImage, SourceUnavailable

GZIP = frozenset({"gzip", "x-gzip"})
DEFLATE = "deflate"
# Compressions that need a library which we do not have. Browsers take other words, such as the `utf-8` and
# `aws-chunked` that people store with their objects, for no compression, and so do we.
UNREADABLE = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz", "bzip2", "xz", "lzma"})
GZIP_MAGIC = b"\x1f\x8b"


class Unpacker(Protocol):
    """Takes the bytes of a body as they arrive."""

    def feed(self, data: bytes, room: int) -> bytes:
        """The bytes that these add. If they add more than `room`, some bytes more than `room`, and no promise of all.

        Raises:
            NotAnImage: these bytes are not compressed in the way that the header says.
        """

    def finish(self) -> None:
        """The body has ended.

        Raises:
            SourceUnavailable: it ended in the middle.
        """


def unpacker_for(header: str, shown: str) -> Unpacker:
    """An unpacker for the value of a Content-Encoding header.

    Raises:
        NotAnImage: a compression that we do not read.
    """
    codings = [word for part in header.lower().split(",") if (word := part.strip()) in UNREADABLE | GZIP | {DEFLATE}]
    if not codings:
        return _Plain()
    if len(codings) > 1 or codings[0] in UNREADABLE:
        raise NotAnImage(
            f"{shown} was sent compressed as {', '.join(codings)[:40]!r}, though workers ask for it uncompressed; "
            "only gzip and deflate are unpacked"
        )
    return _Inflater(codings[0], shown)


class _Plain:
    def feed(self, data: bytes, room: int) -> bytes:  # noqa: ARG002 (the caller counts)
        return data

    def finish(self) -> None:
        pass


class _Inflater:
    """gzip, of any number of members, and deflate, which some hosts send without the header of zlib."""

    def __init__(self, coding: str, shown: str) -> None:
        self._coding = coding
        self._shown = shown
        self._begin = b""  # the first byte of a format, until there is the second
        self._stream: zlib._Decompress | None = None

    def feed(self, data: bytes, room: int) -> bytes:
        data, self._begin = self._begin + data, b""
        try:
            return self._inflate(data, room)
        except zlib.error as error:
            raise NotAnImage(f"{self._shown} was sent as {self._coding}, and cannot be unpacked") from error

    def _inflate(self, data: bytes, room: int) -> bytes:
        unpacked = bytearray()
        while data and len(unpacked) <= room:
            if self._stream is None or self._stream.eof:
                if len(data) < len(GZIP_MAGIC):
                    self._begin = data
                    break
                if self._stream is not None and (self._coding == DEFLATE or not data.startswith(GZIP_MAGIC)):
                    break  # padding after the end
                self._stream = zlib.decompressobj(_window_bits(self._coding, data))
            unpacked += self._stream.decompress(data, room + 1 - len(unpacked))
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        return bytes(unpacked)

    def finish(self) -> None:
        if self._begin if self._stream is None else not self._stream.eof:
            raise SourceUnavailable(f"{self._shown} broke off in the middle of its {self._coding}")


def _window_bits(coding: str, begin: bytes) -> int:
    if coding in GZIP:
        return 16 + zlib.MAX_WBITS
    has_header = begin[0] & 0x0F == 8 and (begin[0] * 256 + begin[1]) % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
