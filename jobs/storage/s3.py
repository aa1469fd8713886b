"""S3 and compatible stores through boto3; endpoint, region and keys come from the standard AWS_* variables."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import boto3
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
from jobs.uri import bucket_and_key

CONNECT_SECONDS = 5
SILENT_SECONDS = 30  # between two signs of life of the server
SINGLE_PUT_BYTES = 16 * 2**20  # larger files go in parts, so that what a broken connection costs is one part
PART_BYTES = 8 * 2**20
CHUNK_BYTES = 64 * 2**10

_LOCK = threading.Lock()
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_NO_BUCKET = frozenset({"NoSuchBucket"})
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"})
_SLOW = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded"})
_CONFIGURATION = (NoCredentialsError, PartialCredentialsError, ProfileNotFound)
_UNUSABLE = (ParamValidationError, ValueError)  # a bucket or key that boto3 cannot even ask for
_ERRORS = (ClientError, BotoCoreError, OSError, ValueError)


def client() -> Any:
    """The process's one S3 client; boto3's clients are safe to share between threads, making one is not."""
    with _LOCK:
        return _client()


@cache
def _client() -> Any:
    # Retries of a second or less are boto3's; longer ones are ours (retry.py), which log and give up in one place.
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=SILENT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 2},
        max_pool_connections=64,
    )
    # A session of our own: the default one keeps the credentials that it met first.
    return boto3.session.Session().client("s3", config=config)


class S3Store:
    """jobs.storage.store.Store for s3:// URIs. `max_bytes` bounds what is read back."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    def write(self, uri: str, data: bytes, content_type: str) -> None:
        """Store bytes."""
        write(uri, data, content_type)

    def exists(self, uri: str) -> bool:
        """Whether the object is there."""
        return exists(uri)

    def read(self, uri: str) -> bytes:
        """The object's bytes."""
        return read(uri, self._max_bytes)

    def names(self, folder: str) -> Iterator[str]:
        """What lies directly below the prefix."""
        return names(folder)


def read(uri: str, max_bytes: int, *, timeout_seconds: float = 300.0) -> bytes:
    """The object's bytes.

    Raises:
        SourceNotFound, SourceForbidden, SourceTooLarge, SourceUnavailable: as their names say.
    """
    bucket, key = bucket_and_key(uri)
    deadline = time.monotonic() + timeout_seconds
    body = bytearray()
    try:
        reply = client().get_object(Bucket=bucket, Key=key)
        # Not `with reply["Body"]`: that gives urllib3's own stream, which takes a download that breaks off for whole.
        with contextlib.closing(reply["Body"]) as stream:
            size = reply.get("ContentLength", 0)
            while size <= max_bytes and (chunk := stream.read(CHUNK_BYTES)):
                body += chunk
                size = max(size, len(body))
                if time.monotonic() > deadline:
                    raise SourceUnavailable(f"{uri} took longer than allowed (RENDER_FETCH_TIMEOUT_SECONDS)")
    except _ERRORS as error:
        raise _source_error(uri, error) from error
    if size > max_bytes:
        raise SourceTooLarge(f"{uri} is larger than {max_bytes:,} bytes (RENDER_FETCH_MAX_BYTES)")
    return bytes(body)


def write(uri: str, data: bytes, content_type: str) -> None:
    """Put bytes: the object is visible whole or not at all, however many requests that takes.

    Raises:
        OutputForbidden, OutputFull, OutputUnavailable: as their names say.
    """
    bucket, key = bucket_and_key(uri)
    place = {"Bucket": bucket, "Key": key}
    try:
        if len(data) <= SINGLE_PUT_BYTES:
            client().put_object(**place, Body=data, ContentType=content_type)
        else:
            _put_in_parts(place, data, content_type)
    except _ERRORS as error:
        raise _output_error(uri, error) from error


def _put_in_parts(place: dict[str, str], data: bytes, content_type: str) -> None:
    """Multipart: nothing is visible before the last request, and what was uploaded in vain is taken back.

    What a kill -9 leaves is invisible, but stored: docs/operations.md names the bucket's rule that removes it.
    """
    s3 = client()
    upload = place | {"UploadId": s3.create_multipart_upload(**place, ContentType=content_type)["UploadId"]}
    try:
        parts = []
        for number, begin in enumerate(range(0, len(data), PART_BYTES), start=1):
            stored = s3.upload_part(**upload, PartNumber=number, Body=data[begin : begin + PART_BYTES])
            parts.append({"PartNumber": number, "ETag": stored["ETag"]})
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    except BaseException:
        with contextlib.suppress(*_ERRORS):  # the first error is the one to tell
            s3.abort_multipart_upload(**upload)
        raise


def exists(uri: str) -> bool:
    """Whether the object is there (HEAD)."""
    bucket, key = bucket_and_key(uri)
    try:
        client().head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if _code(error) in _MISSING:
            return False
        raise _output_error(uri, error) from error
    except _ERRORS as error:
        raise _output_error(uri, error) from error
    return True


def names(folder: str) -> Iterator[str]:
    """Names directly below a prefix, a thousand a request; what has more below it ends with '/'.

    Raises:
        OutputForbidden, OutputUnavailable: as their names say.
    """
    bucket, key = bucket_and_key(folder.rstrip("/") + "/")
    try:
        pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key, Delimiter="/")
        for page in pages:
            yield from (found["Prefix"].removeprefix(key) for found in page.get("CommonPrefixes", ()))
            yield from (found["Key"].removeprefix(key) for found in page.get("Contents", ()))
    except _ERRORS as error:
        raise _output_error(folder, error) from error


def _code(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _passing(error: Exception) -> bool:
    """Whether another try may help: a broken connection, throttling or a server error."""
    if not isinstance(error, ClientError):
        return not isinstance(error, _CONFIGURATION + _UNUSABLE)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or status in (408, 429) or _code(error) in _SLOW


def _source_error(uri: str, error: Exception) -> RenderError:
    if _passing(error):
        return SourceUnavailable(f"{uri} could not be read: {_code(error) or type(error).__name__}")
    if _code(error) in _MISSING | _NO_BUCKET:
        return SourceNotFound(f"{uri} does not exist ({_code(error)})")
    return SourceForbidden(f"{uri} may not be read: {_reason(error)}")


def _output_error(uri: str, error: Exception) -> RenderError:
    if _passing(error):
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
