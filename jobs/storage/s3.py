"""S3 and compatible stores through boto3; endpoint, region and keys come from the standard AWS_* variables."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import PaginationError

from jobs.errors import OutputForbidden, SourceTooLarge, SourceUnavailable
from jobs.storage.file import HashedSource, Progress, output_file, source_file
from jobs.storage.limits import OWN_LIMITS, FetchLimits
from jobs.storage.part import Part
from jobs.storage.s3_client import client, forget_client
from jobs.storage.s3_errors import DELETE, LIST, LOOK, output_error, source_error
from jobs.storage.s3_keys import with_keys
from jobs.storage.s3_upload import CHUNK_BYTES, PART_BYTES, SINGLE_PUT_BYTES, Target, upload
from jobs.storage.s3_verdict import ERRORS, code_of, has_no_body, verdict_of
from jobs.uri import bucket_and_key, redacted

__all__ = ["PART_BYTES", "SINGLE_PUT_BYTES", "S3Store", "client", "forget_client"]

BEYOND_THE_END = ("InvalidRange", "416")  # the codes of a range that begins behind the last byte
SPOILT_TRIES = 3  # of an upload that arrives changed; a store or a proxy that changes every upload will not stop


class S3Store:
    """jobs.storage.store.Store for s3:// URIs."""

    def __init__(self, limits: FetchLimits = OWN_LIMITS) -> None:
        self._limits = limits

    def read(self, uri: str) -> bytes:
        """The object's bytes, if the policy allows its bucket to be read."""
        limits = self._limits
        body = bytearray()
        for chunk in self._chunks(uri, max_bytes=limits.max_bytes, timeout_seconds=limits.timeout_seconds):
            body += chunk
        return bytes(body)

    def read_part(self, uri: str, *, start: int, size: int) -> Part:
        """A part of the object, if the policy allows its bucket to be read.

        A store that knows no ranges is listened to up to the part's end.
        """
        if self._limits.policy is not None:
            self._limits.policy.check_source(uri)
        try:
            reply = _ask(uri, "get_object", Range=f"bytes={start}-{start + size - 1}")
            with contextlib.closing(reply["Body"]) as stream:
                total = _total(reply)
                if total is not None and total > self._limits.max_bytes:
                    raise _too_large(uri, self._limits.max_bytes)
                left_out = 0 if "ContentRange" in reply else start
                return Part(self._read(uri, stream, left_out + size)[left_out:], total)
        except ERRORS as error:
            if code_of(error) in BEYOND_THE_END:
                return Part(b"", None)
            raise source_error(uri, error) from error

    def _read(self, uri: str, stream: Any, size: int) -> bytes:
        """At most `size` bytes, within the limits of time and of bytes."""
        deadline, data = time.monotonic() + self._limits.timeout_seconds, bytearray()
        size = min(size, self._limits.max_bytes + 1)
        while len(data) < size and (chunk := stream.read(min(CHUNK_BYTES, size - len(data)))):
            data += chunk
            _check_time(uri, deadline)
        if len(data) > self._limits.max_bytes:
            raise _too_large(uri, self._limits.max_bytes)
        return bytes(data)

    def write(self, uri: str, data: bytes, content_type: str) -> None:
        """Store bytes: one request, or several for large data."""
        _until_whole(uri, lambda target: upload(target, io.BytesIO(data), content_type))

    def exists(self, uri: str) -> bool | None:
        """Whether the object is there (HEAD); None where the keys may not know."""
        try:
            _ask(uri, "head_object")
        except ERRORS as error:
            if verdict_of(error) == "missing":
                return False
            # The reply to a HEAD has no body, so it does not tell a missing right from expired keys. A GET does.
            if has_no_body(error) and verdict_of(error) not in ("away", "moved"):
                return _has_a_byte(uri)
            raise output_error(uri, error, LOOK) from error
        return True

    def names(self, folder: str) -> Iterator[str]:
        """Names directly below the prefix, a thousand a request."""
        for page, prefix in _pages(folder, Delimiter="/"):
            yield from (below["Prefix"].removeprefix(prefix) for below in page.get("CommonPrefixes", ()))
            yield from (item["Key"].removeprefix(prefix) for item in page.get("Contents", ()))

    def names_below(self, folder: str) -> Iterator[str]:
        """Names of all objects below the prefix, a thousand a request."""
        for page, prefix in _pages(folder):
            yield from (item["Key"].removeprefix(prefix) for item in page.get("Contents", ()))

    def sizes_below(self, folder: str) -> Iterator[tuple[str, int]]:
        """Names and bytes of all objects below the prefix, a thousand a request."""
        for page, prefix in _pages(folder):
            yield from ((item["Key"].removeprefix(prefix), item["Size"]) for item in page.get("Contents", ()))

    def put_file(self, uri: str, path: Path, content_type: str, *, progress: Progress | None = None) -> str:
        """Upload a local file, in parts if it is large."""
        digest = ""

        def send(target: Target) -> str | None:
            nonlocal digest
            with source_file(path) as file:
                hashed = HashedSource(file, progress)
                difference = upload(target, hashed, content_type)
            digest = hashed.hexdigest()
            return difference

        _until_whole(uri, send)
        return digest

    def get_file(self, uri: str, path: Path, *, progress: Progress | None = None) -> str:
        """Download to a local file."""
        digest, received = hashlib.sha256(), 0
        with output_file(path) as file:
            for chunk in self._chunks(uri, max_bytes=math.inf, timeout_seconds=math.inf):
                digest.update(chunk)
                file.write(chunk)
                received += len(chunk)
                if progress is not None:
                    progress(received)
        return digest.hexdigest()

    def delete(self, uri: str) -> None:
        """Delete the object, if it is there."""
        try:
            _ask(uri, "delete_object")
        except ERRORS as error:
            if verdict_of(error) != "missing":
                raise output_error(uri, error, DELETE) from error

    def delete_empty(self, folder: str) -> None:
        """A bucket has no folders; what killed uploads left in it ends by the bucket's lifecycle rule."""

    def _chunks(self, uri: str, *, max_bytes: float, timeout_seconds: float) -> Iterator[bytes]:
        """The object, a piece at a time.

        Raises:
            SourceNotFound, SourceForbidden, SourceTooLarge, SourceUnavailable: as their names say.
        """
        if self._limits.policy is not None:
            self._limits.policy.check_source(uri)
        deadline = time.monotonic() + timeout_seconds
        try:
            reply = _ask(uri, "get_object")
            # Not `with reply["Body"]`: that gives urllib3's own stream, which misses that a download broke off.
            with contextlib.closing(reply["Body"]) as stream:
                size, received = reply.get("ContentLength", 0), 0
                while size <= max_bytes and (chunk := stream.read(CHUNK_BYTES)):
                    yield chunk
                    received += len(chunk)
                    size = max(size, received)
                    _check_time(uri, deadline)
        except ERRORS as error:
            raise source_error(uri, error) from error
        if size > max_bytes:
            raise _too_large(uri, max_bytes)


def _too_large(uri: str, max_bytes: float) -> SourceTooLarge:
    return SourceTooLarge(f"{redacted(uri)} is larger than {max_bytes:,} bytes (RENDER_FETCH_MAX_BYTES)")


def _check_time(uri: str, deadline: float) -> None:
    if time.monotonic() > deadline:
        # Not the store's fault, whose tries have no limit: this object may be too large for the time.
        raise SourceUnavailable(f"{redacted(uri)} took longer than allowed (RENDER_FETCH_TIMEOUT_SECONDS)")


def _total(reply: dict[str, Any]) -> int | None:
    """The bytes of the whole object. A part's reply has them behind the slash in `bytes 0-99/1234`."""
    if "ContentRange" not in reply:
        return reply.get("ContentLength")
    total = reply["ContentRange"].rpartition("/")[2]
    return int(total) if total.isascii() and total.isdecimal() and len(total) < 19 else None


def _until_whole(uri: str, send: Callable[[Target], str | None]) -> None:
    """Upload, and again if other bytes arrived than were sent.

    Raises:
        OutputForbidden: each time, other bytes arrived. The object is deleted then, if the keys may.
        OutputForbidden, OutputFull, OutputUnavailable: as their names say.
    """
    bucket, key = bucket_and_key(uri)
    for _ in range(SPOILT_TRIES):
        try:
            difference = with_keys(bucket, lambda s3: send(Target(s3, bucket, key)))
        except ERRORS as error:
            raise output_error(uri, error) from error
        if difference is None:
            return
    with contextlib.suppress(*ERRORS):  # a spoilt object is worse than none
        _ask(uri, "delete_object")
    raise OutputForbidden(
        f"{redacted(uri)} was spoilt in each of {SPOILT_TRIES} uploads: {difference}; the store, or a proxy before it, "
        "changes what it receives (if AWS_REQUEST_CHECKSUM_CALCULATION is set, unset it: old stores keep its checksums "
        "as data)"
    )


def _has_a_byte(uri: str) -> bool | None:
    """Whether the object can be read; None if that is not known, because the keys may neither read nor list."""
    try:
        _ask(uri, "get_object", Range="bytes=0-0")["Body"].close()
    except ERRORS as error:
        verdict = verdict_of(error)
        if verdict == "missing":
            return False
        if code_of(error) in BEYOND_THE_END:  # an empty object has no first byte
            return True
        if verdict == "denied":
            return None
        raise output_error(uri, error, LOOK) from error
    return True


def _pages(folder: str, **options: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The pages of a listing, each with the prefix that its keys begin with.

    Raises:
        OutputForbidden, OutputUnavailable: as their names say.
    """
    bucket, prefix = bucket_and_key(folder.rstrip("/") + "/")
    try:
        for page in _listing(Bucket=bucket, Prefix=prefix, **options):
            yield page, prefix
    except ERRORS as error:
        raise output_error(folder, error, LIST) from error


def _listing(**arguments: str) -> Iterator[dict[str, Any]]:
    """As boto3's paginator, which cannot go on with other keys where a page was refused."""

    def ask(s3: Any) -> dict[str, Any]:
        return dict(s3.list_objects_v2(**arguments))

    while True:
        page = with_keys(arguments["Bucket"], ask)
        yield page
        token = page.get("NextContinuationToken") if page.get("IsTruncated") else None
        if token is None:
            return
        if token == arguments.get("ContinuationToken"):
            raise PaginationError(message="the store sends the same page again and again")
        arguments["ContinuationToken"] = token


def _ask(uri: str, request: str, **options: str) -> dict[str, Any]:
    """One request about one object."""
    bucket, key = bucket_and_key(uri)
    return dict(with_keys(bucket, lambda s3: getattr(s3, request)(Bucket=bucket, Key=key, **options)))
