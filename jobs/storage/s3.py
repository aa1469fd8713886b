"""S3 and compatible stores through boto3; endpoint, region and keys come from the standard AWS_* variables."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from jobs.errors import (
    OutputForbidden,
    OutputFull,
    OutputUnavailable,
    RenderError,
    SourceForbidden,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
)
from jobs.storage.file import HashedSource, output_file, source_file
from jobs.storage.limits import OWN_LIMITS, FetchLimits
from jobs.uri import bucket_and_key

CONNECT_SECONDS = 5
SILENT_SECONDS = 30  # the longest that the server may send nothing
SINGLE_PUT_BYTES = 16 * 2**20  # larger files go in parts, so that a broken connection costs one part only
PART_BYTES = 8 * 2**20
CHUNK_BYTES = 64 * 2**10

# Job threads upload in parallel already, so boto3's transfer manager starts no threads of its own.
_IN_THIS_THREAD = TransferConfig(
    multipart_threshold=SINGLE_PUT_BYTES + 1,
    multipart_chunksize=PART_BYTES,
    use_threads=False,
    preferred_transfer_client="classic",
)
_LOCK = threading.Lock()
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_NO_BUCKET = frozenset({"NoSuchBucket"})
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"})
_SLOW = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded"})
_CONFIGURATION = (NoCredentialsError, PartialCredentialsError, ProfileNotFound)
_UNUSABLE = (ParamValidationError, ValueError)  # a bucket or key that boto3 refuses to send
_ERRORS = (ClientError, BotoCoreError, OSError, ValueError)


def client() -> Any:
    """The process's one S3 client. Threads may share a boto3 client, but only one at a time may create one."""
    with _LOCK:
        return _client()


@cache
def _client() -> Any:
    # boto3 retries once, within a second; longer retries are the caller's (retry.py).
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=SILENT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 2},
        max_pool_connections=64,
    )
    # A session of our own, because the default one keeps the first credentials that it reads.
    return boto3.session.Session().client("s3", config=config)


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

    def write(self, uri: str, data: bytes, content_type: str) -> None:
        """Store bytes: one request, or several for large data."""
        _upload(uri, io.BytesIO(data), content_type)

    def exists(self, uri: str) -> bool:
        """Whether the object is there (HEAD)."""
        bucket, key = bucket_and_key(uri)
        try:
            client().head_object(Bucket=bucket, Key=key)
        except _ERRORS as error:
            if _code(error) in _MISSING:
                return False
            raise _output_error(uri, error) from error
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

    def put_file(self, uri: str, path: Path, content_type: str) -> str:
        """Upload a local file, in parts if it is large."""
        with source_file(path) as file:
            hashed = HashedSource(file)
            _upload(uri, hashed, content_type)
        return hashed.hexdigest()

    def get_file(self, uri: str, path: Path) -> str:
        """Download to a local file."""
        digest = hashlib.sha256()
        with output_file(path) as file:
            for chunk in self._chunks(uri, max_bytes=math.inf, timeout_seconds=math.inf):
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest()

    def delete(self, uri: str) -> None:
        """Delete the object, if it is there."""
        bucket, key = bucket_and_key(uri)
        try:
            client().delete_object(Bucket=bucket, Key=key)
        except _ERRORS as error:
            if _code(error) not in _MISSING:
                raise _output_error(uri, error) from error

    def _chunks(self, uri: str, *, max_bytes: float, timeout_seconds: float) -> Iterator[bytes]:
        """The object, a piece at a time.

        Raises:
            SourceNotFound, SourceForbidden, SourceTooLarge, SourceUnavailable: as their names say.
        """
        if self._limits.policy is not None:
            self._limits.policy.check_source(uri)
        bucket, key = bucket_and_key(uri)
        deadline = time.monotonic() + timeout_seconds
        try:
            reply = client().get_object(Bucket=bucket, Key=key)
            # Not `with reply["Body"]`: that gives urllib3's own stream, which misses that a download broke off.
            with contextlib.closing(reply["Body"]) as stream:
                size, received = reply.get("ContentLength", 0), 0
                while size <= max_bytes and (chunk := stream.read(CHUNK_BYTES)):
                    yield chunk
                    received += len(chunk)
                    size = max(size, received)
                    if time.monotonic() > deadline:
                        raise SourceUnavailable(f"{uri} took longer than allowed (RENDER_FETCH_TIMEOUT_SECONDS)")
        except _ERRORS as error:
            raise _source_error(uri, error) from error
        if size > max_bytes:
            raise SourceTooLarge(f"{uri} is larger than {max_bytes:,} bytes (RENDER_FETCH_MAX_BYTES)")


def _upload(uri: str, file: Any, content_type: str) -> None:
    """Upload what `file.read` gives: one PUT, or a multipart upload that is visible only once it is complete.

    boto3 aborts a multipart upload that fails or is interrupted. A kill -9 leaves parts that are stored but invisible:
    docs/operations.md names the bucket's rule that removes them.
    """
    bucket, key = bucket_and_key(uri)
    try:
        client().upload_fileobj(file, bucket, key, ExtraArgs={"ContentType": content_type}, Config=_IN_THIS_THREAD)
    except _ERRORS as error:
        raise _output_error(uri, error) from error


def _pages(folder: str, **options: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The pages of a listing, each with the prefix that its keys begin with.

    Raises:
        OutputForbidden, OutputUnavailable: as their names say.
    """
    bucket, prefix = bucket_and_key(folder.rstrip("/") + "/")
    try:
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **options):
            yield page, prefix
    except _ERRORS as error:
        raise _output_error(folder, error) from error


def _code(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _is_transient(error: Exception) -> bool:
    """Whether another try may help: after a broken connection, throttling or a server error."""
    if not isinstance(error, ClientError):
        return not isinstance(error, _CONFIGURATION + _UNUSABLE)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or status in (408, 429) or _code(error) in _SLOW


def _source_error(uri: str, error: Exception) -> RenderError:
    if _is_transient(error):
        return SourceUnavailable(f"{uri} could not be read: {_code(error) or type(error).__name__}")
    if _code(error) in _MISSING | _NO_BUCKET:
        return SourceNotFound(f"{uri} does not exist ({_code(error)})")
    return SourceForbidden(f"{uri} may not be read: {_reason(error)}")


def _output_error(uri: str, error: Exception) -> RenderError:
    if _is_transient(error):
        return OutputUnavailable(f"{uri} could not be written: {_code(error) or type(error).__name__}")
    if _code(error) in _NO_BUCKET:
        return OutputForbidden(
            f"{uri} cannot be written: the bucket {bucket_and_key(uri)[0]!r} does not exist; create it first"
        )
    if _code(error) in _FULL:
        return OutputFull(f"{uri} cannot be written: no space left ({_code(error)})")
    return OutputForbidden(f"{uri} may not be written: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, _UNUSABLE):
        return "not a usable bucket or key"
    if isinstance(error, _CONFIGURATION):
        variables = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for compatible stores, AWS_ENDPOINT_URL_S3"
        return f"{type(error).__name__}; check {variables}"
    return _code(error) or type(error).__name__


def forget_client() -> None:
    """Make the next call read the AWS_* variables again."""
    with _LOCK:
        _client.cache_clear()
