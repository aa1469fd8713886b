"""Replies: what a status means, the body within its limits, and what a host says when it refuses."""

from __future__ import annotations

import contextlib
import html
import http.client
import re
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from jobs import redaction
from jobs.errors import NotAnImage, RenderError, SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnavailable
from jobs.storage.content_encoding import unpacker_for
from jobs.storage.host_pace import LONGEST_PAUSE_SECONDS
from jobs.storage.http_connection import Deadline
from jobs.storage.http_request import Request

CHUNK_BYTES = 64 * 1024
OK = frozenset({200, 203})  # 203: a proxy on the way changed something
_GONE = frozenset({404, 410})
_DENIED = frozenset({401, 402, 403, 405, 451})
_TRY_AGAIN = frozenset({408, 421, 423, 425, 429})
# GitHub and others answer 403 to those who ask too often; Retry-After tells.
_MAY_ASK_FOR_A_PAUSE = frozenset({403, 408, 425, 429})

SHOWN_CHARACTERS = 200  # of an error's body
CLEANED_CHARACTERS = 1000  # of it: secrets are looked for in no more, which may take long while other threads wait
LOOKED_AT_BYTES = 4096
LOOKED_AT_SECONDS = 2.0
_TEXT = re.compile(r"text/|application/(?:[\w.-]+\+)?(?:json|xml)", re.IGNORECASE)
_NOT_SHOWN = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|$)|<!--.*?(?:-->|$)|<[^>]*(?:>|$)", re.DOTALL | re.IGNORECASE)
# Signatures, tokens and request numbers. The lookbehind lets it begin only where a word begins: it takes linear time.
_OPAQUE = re.compile(r"(?<![\w+/=%-])(?=[\w+/=%-]*\d)[\w+/=%-]{24,}")
_WORD_ENDS = " ,;&\"'<>"


class Refused(SourceUnavailable):
    """The host answers, and asks for a pause: 429, or another status with Retry-After."""

    def __init__(self, message: str, retry_after_seconds: float | None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


def check_status(reply: http.client.HTTPResponse, request: Request, secrets: frozenset[str]) -> None:
    """Raise the error that a status means; nothing for a picture.

    Raises:
        Refused, SourceNotFound, SourceForbidden, SourceUnavailable, NotAnImage: with what the host says about it.
    """
    if reply.status in OK:
        return
    says = _excerpt(reply, secrets)
    text = f"{request.shown} answered with HTTP status {reply.status}{_phrase(reply.status)}{says and f': {says}'}"
    pause = _pause_seconds(reply)
    may_ask = reply.status in _MAY_ASK_FOR_A_PAUSE or reply.status >= 500
    if reply.status == 429 or (may_ask and pause is not None):
        raise Refused(text, pause)
    raise _error_class(reply.status)(text)


def _error_class(status: int) -> type[RenderError]:
    if status in _GONE:
        return SourceNotFound
    if status in _DENIED:
        return SourceForbidden
    return SourceUnavailable if status in _TRY_AGAIN or status >= 500 else NotAnImage


def _phrase(status: int) -> str:
    with contextlib.suppress(ValueError):
        return f" ({HTTPStatus(status).phrase})"
    return ""


def _pause_seconds(reply: http.client.HTTPResponse) -> float | None:
    """Retry-After, in seconds or as a date, at most LONGEST_PAUSE_SECONDS; None without one that can be read."""
    value = (reply.headers.get("Retry-After") or "").strip()
    if re.fullmatch(r"[0-9]{1,300}(\.[0-9]{1,300})?", value):
        return min(LONGEST_PAUSE_SECONDS, float(value))
    until = _date(value)
    if until is None:
        return None
    # By the host's own clock, where it tells it: ours may be wrong.
    now = _date(reply.headers.get("Date") or "")
    return min(LONGEST_PAUSE_SECONDS, max(0.0, until - (time.time() if now is None else now)))


def _date(value: str) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def read_body(reply: http.client.HTTPResponse, deadline: Deadline, max_bytes: int, shown: str) -> bytes:
    """The body, unpacked.

    Raises:
        SourceTooLarge: more than `max_bytes`, as sent or unpacked.
        SourceUnavailable: it broke off, or took too long.
        NotAnImage: compressed in a way that is not read.
    """
    expected = reply.length  # None where the server does not say, or says nonsense
    if expected is not None and expected > max_bytes:
        raise SourceTooLarge(too_large(shown, max_bytes))
    unpacker = unpacker_for(content_encoding(reply), shown)
    received, body = 0, bytearray()  # not a list of chunks: tiny ones would take fifty times their bytes
    # read1 returns what has arrived; read() would wait for everything and ignore the limit.
    while chunk := reply.read1(CHUNK_BYTES):
        received += len(chunk)
        body += unpacker.feed(chunk, max_bytes - len(body))
        if max(received, len(body)) > max_bytes:
            raise SourceTooLarge(too_large(shown, max_bytes))
        deadline.left(shown)
    deadline.left(shown)  # a connection that was shut down ends like one that is complete
    if expected is not None and received < expected:
        raise SourceUnavailable(f"{shown} broke off after {received} of {expected} bytes")
    unpacker.finish()
    return bytes(body)


def too_large(shown: str, max_bytes: int) -> str:
    """The sentence for a body that is too large."""
    return f"{shown} is larger than {max_bytes:,} bytes (RENDER_FETCH_MAX_BYTES)"


def _excerpt(reply: http.client.HTTPResponse, secrets: frozenset[str]) -> str:
    """The beginning of an error's body as one line without tags and secrets; '' where it is not text."""
    if not _TEXT.match(reply.headers.get("Content-Type") or ""):
        return ""
    body, whole = _beginning(reply)
    text = html.unescape(_NOT_SHOWN.sub(" ", _decoded(body, reply.headers.get_content_charset("utf-8"))))
    words = "".join(letter if letter.isprintable() else " " for letter in text).split()
    # The last word of a part may be half a secret, which nothing would recognise.
    text = without_secrets(" ".join(words if whole else words[:-1]), secrets)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _beginning(reply: http.client.HTTPResponse) -> tuple[bytes, bool]:
    """A few kilobytes of the body, of what arrives soon, and whether that is all of it."""
    end, body = time.monotonic() + LOOKED_AT_SECONDS, bytearray()
    with contextlib.suppress(http.client.HTTPException, OSError, ValueError, RenderError):
        unpacker = unpacker_for(content_encoding(reply), "")
        while len(body) <= LOOKED_AT_BYTES and time.monotonic() < end:
            chunk = reply.read1(LOOKED_AT_BYTES)
            if not chunk:
                return bytes(body), True
            body += unpacker.feed(chunk, LOOKED_AT_BYTES)
    return bytes(body[:LOOKED_AT_BYTES]), False


def content_encoding(reply: http.client.HTTPResponse) -> str:
    """The value of all of its Content-Encoding headers."""
    return ",".join(reply.headers.get_all("Content-Encoding", []))


def _decoded(body: bytes, charset: str) -> str:
    try:
        return body.decode(charset, errors="replace")
    except (LookupError, ValueError):
        return body.decode(errors="replace")


def without_secrets(text: str, secrets: frozenset[str]) -> str:
    """A host's words without what the request held of secrets, and without whatever else looks like one."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "…")
    return _OPAQUE.sub("…", redaction.without_secrets(_shortened(text)))


def _shortened(text: str) -> str:
    """The text up to where a word ends: the beginning of a secret may look like none."""
    if len(text) <= CLEANED_CHARACTERS:
        return text
    return text[: max(0, *(text.rfind(end, 0, CLEANED_CHARACTERS) for end in _WORD_ENDS))]
