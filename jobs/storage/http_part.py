"""A part of a body: the header that asks for it, and the answers of hosts that know ranges and of those that do not."""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass

from jobs.errors import NotAnImage, SourceTooLarge, SourceUnavailable
from jobs.storage.content_encoding import unpacker_for
from jobs.storage.http_connection import Deadline
from jobs.storage.http_reply import CHUNK_BYTES, content_encoding, too_large
from jobs.storage.part import Part

PARTIAL, BEYOND_THE_END = 206, 416
STATUSES = frozenset({PARTIAL, BEYOND_THE_END})  # that mean something only where a part was asked for
_RANGE = re.compile(r"\s*bytes\s+(?:(\d{1,18})-(\d{1,18})|\*)/(?:(\d{1,18})|\*)\s*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """`size` bytes from `start` on."""

    start: int
    size: int

    @property
    def header(self) -> str:
        """For `Range`."""
        return f"bytes={self.start}-{self.start + self.size - 1}"

    def read(self, reply: http.client.HTTPResponse, deadline: Deadline, *, max_bytes: int, shown: str) -> Part:
        """The part, from any of the answers that a host may give. What it sends beyond the part is not read.

        Raises:
            SourceTooLarge: the whole file has more than `max_bytes`.
            SourceUnavailable: it broke off, or took too long.
            NotAnImage: another part than was asked for, or compressed in a way that is not read.
        """
        if reply.status not in STATUSES:
            return self._of_whole(reply, deadline, max_bytes, shown)
        first, total = _content_range(reply)
        if total is not None and total > max_bytes:
            raise SourceTooLarge(too_large(shown, max_bytes))
        if reply.status == BEYOND_THE_END:
            return Part(b"", total)
        if first != self.start or content_encoding(reply):
            raise NotAnImage(f"{shown} answered with another part of the file than it was asked for")
        data = bytearray()
        while len(data) < self.size and (chunk := reply.read1(min(CHUNK_BYTES, self.size - len(data)))):
            data += chunk
            deadline.left(shown)
        deadline.left(shown)  # a connection that was shut down ends like one that is complete
        expected = self.size if total is None else min(self.size, max(0, total - self.start))
        if len(data) < expected and (total is not None or reply.length):
            raise SourceUnavailable(f"{shown} broke off after {len(data)} of {expected} bytes")
        return Part(bytes(data), total)

    def _of_whole(self, reply: http.client.HTTPResponse, deadline: Deadline, max_bytes: int, shown: str) -> Part:
        """The part of a body that the host sends from its beginning."""
        encoding, sent = content_encoding(reply), reply.length
        if sent is not None and sent > max_bytes:
            raise SourceTooLarge(too_large(shown, max_bytes))
        end = min(self.start + self.size, max_bytes + 1)
        unpacker, body, received = unpacker_for(encoding, shown), bytearray(), 0
        while len(body) < end and (chunk := reply.read1(CHUNK_BYTES)):
            received += len(chunk)
            body += unpacker.feed(chunk, end - len(body))
            deadline.left(shown)
        deadline.left(shown)
        if len(body) >= end > max_bytes:
            raise SourceTooLarge(too_large(shown, max_bytes))
        if len(body) >= end:
            return Part(bytes(body[self.start : end]), None if encoding else sent)
        if sent is not None and received < sent:
            raise SourceUnavailable(f"{shown} broke off after {received} of {sent} bytes")
        unpacker.finish()
        return Part(bytes(body[self.start :]), len(body))


def _content_range(reply: http.client.HTTPResponse) -> tuple[int | None, int | None]:
    """The first byte and the bytes of the whole file, where the host names them."""
    match = _RANGE.fullmatch(reply.headers.get("Content-Range") or "")
    if match is None:
        return None, None
    first, _, total = match.groups()
    return None if first is None else int(first), None if total is None else int(total)
