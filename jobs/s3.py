"""S3 and compatible stores through boto3; endpoint, region and keys come from the standard AWS_* variables."""

from __future__ import annotations

import threading
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
    OutputUnavailable,
    RenderError,
    SourceForbidden,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
)
from jobs.uri import bucket_and_key

_LOCK = threading.Lock()
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_NO_BUCKET = frozenset({"NoSuchBucket"})
_SLOW = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded"})
_CONFIGURATION = (NoCredentialsError, PartialCredentialsError, ProfileNotFound, ParamValidationError)


def client() -> Any:
    """The process's one S3 client; boto3's clients are safe to share between threads, making one is not."""
    with _LOCK:
        return _client()


@cache
def _client() -> Any:
    # Retries of a second or less are boto3's; longer ones are ours (jobs.retry), which log and give up in one place.
    config = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 2},
        max_pool_connections=64,
    )
    # A session of our own: the default one keeps the credentials that it met first.
    return boto3.session.Session().client("s3", config=config)


def read(uri: str, max_bytes: int) -> bytes:
    """The object's bytes.

    Raises:
        SourceNotFound, SourceForbidden, SourceTooLarge, SourceUnavailable: as their names say.
    """
    bucket, key = bucket_and_key(uri)
    try:
        reply = client().get_object(Bucket=bucket, Key=key)
        with reply["Body"] as body:
            if reply["ContentLength"] > max_bytes:
                raise SourceTooLarge(f"{uri} is larger than {max_bytes:,} bytes (RENDER_FETCH_MAX_BYTES)")
            return bytes(body.read())
    except (ClientError, BotoCoreError, OSError) as error:
        raise _source_error(uri, error) from error


def write(uri: str, data: bytes, content_type: str) -> None:
    """One PUT: the object is visible whole or not at all.

    Raises:
        OutputForbidden, OutputUnavailable: as their names say.
    """
    bucket, key = bucket_and_key(uri)
    try:
        client().put_object(Bucket=bucket, Key=key, Body=data, ContentType=content_type)
    except (ClientError, BotoCoreError, OSError) as error:
        raise _output_error(uri, error) from error


def exists(uri: str) -> bool:
    """Whether the object is there (HEAD)."""
    bucket, key = bucket_and_key(uri)
    try:
        client().head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if _code(error) in _MISSING:
            return False
        raise _output_error(uri, error) from error
    except (BotoCoreError, OSError) as error:
        raise _output_error(uri, error) from error
    return True


def _code(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _passing(error: Exception) -> bool:
    """Whether another try may help: a broken connection, throttling or a server error."""
    if not isinstance(error, ClientError):
        return not isinstance(error, _CONFIGURATION)
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
    return OutputForbidden(f"{uri} may not be written: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, _CONFIGURATION):
        variables = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for compatible stores, AWS_ENDPOINT_URL_S3"
        return f"{type(error).__name__}; check {variables}"
    return _code(error) or type(error).__name__


def forget_client() -> None:
    """Make the next call read the AWS_* variables again."""
    with _LOCK:
        _client.cache_clear()
