"""Uploads to S3, and the check that what is stored is what was sent.

Every request carries its body's Content-MD5, which stores have known since the first version of S3: those that compare
it refuse a body that was changed on the way, and buckets with object locks ask for it. The reply's ETag then tells what
was stored. Where it cannot (encryption with KMS, a store with ETags of its own, none at all), the object's size is
asked for.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from botocore.exceptions import ClientError

from jobs.storage.s3_client import adds_checksums
from jobs.storage.s3_keys import with_keys
from jobs.storage.s3_verdict import ERRORS, code_of, verdict_of

SINGLE_PUT_BYTES = 16 * 2**20  # larger files go in parts, so that a broken connection costs one part only
PART_BYTES = 8 * 2**20  # S3 takes none below 5 MiB but the last
CHUNK_BYTES = 64 * 2**10

_LIKE_AN_ETAG = re.compile(r"[0-9a-f]{32}(-\d+)?")
_EXPRESS = "--x-s3"  # the end of a directory bucket's name: they know no MD5
# Endpoints and buckets whose ETags look like MD5 but are not, as reading an object back has shown.
_OTHER_ETAGS: set[tuple[str, str]] = set()


class Readable(Protocol):
    """Something to upload: a file, or bytes in memory."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; fewer only at the end."""


@dataclass(frozen=True)
class Target:
    """Where an upload goes."""

    s3: Any
    bucket: str
    key: str

    @property
    def place(self) -> dict[str, str]:
        """The two arguments that each request takes."""
        return {"Bucket": self.bucket, "Key": self.key}


@dataclass(frozen=True)
class Sent:
    """What was sent: bytes, MD5 in hexadecimal, and the ETag that S3 gives to it."""

    size: int
    md5: str
    etag: str


def upload(target: Target, source: Readable, content_type: str) -> str | None:
    """One PUT, or a multipart upload that is visible only once it is complete.

    An upload in parts that fails or is interrupted is aborted. A kill -9 leaves parts that are stored but invisible:
    docs/operations.md names the bucket's rule that removes them.

    Returns how the stored object differs from what was sent; None if it does not, or if that is not known.

    Raises:
        s3_verdict.ERRORS: as boto3 raises them.
    """
    begun = _Begun(source, SINGLE_PUT_BYTES + 1)
    send = _put if begun.size <= SINGLE_PUT_BYTES else _put_parts
    try:
        sent, reply = send(target, begun, content_type)
    except ClientError as error:
        if verdict_of(error) == "spoilt":
            return f"the store received other bytes than were sent ({code_of(error)})"
        raise
    return _difference(target, sent, reply)


class _Begun:
    """A source of which `size` bytes, at most `look_ahead`, were read already. They come first."""

    def __init__(self, source: Readable, look_ahead: int) -> None:
        self._source = source
        self._head = source.read(look_ahead)
        self.size = len(self._head)

    def read(self, size: int) -> bytes:
        data, self._head = self._head[:size], self._head[size:]
        return data if len(data) == size else data + self._source.read(size - len(data))


def _put(target: Target, source: Readable, content_type: str) -> tuple[Sent, dict[str, Any]]:
    body = source.read(SINGLE_PUT_BYTES)
    md5 = _md5(body)
    # A file, not bytes: boto3 then asks with 'Expect: 100-continue' before it sends all of it to one who refuses it.
    reply = target.s3.put_object(
        **target.place, Body=io.BytesIO(body), ContentType=content_type, **_content_md5(target, md5.digest())
    )
    return Sent(len(body), md5.hexdigest(), md5.hexdigest()), reply


def _put_parts(target: Target, source: Readable, content_type: str) -> tuple[Sent, dict[str, Any]]:
    begun = target.s3.create_multipart_upload(**target.place, ContentType=content_type)
    place = {**target.place, "UploadId": begun["UploadId"]}
    whole, of_parts, size, parts = _md5(), _md5(), 0, list[dict[str, Any]]()
    try:
        while body := source.read(PART_BYTES):
            md5, number = _md5(body), len(parts) + 1
            reply = target.s3.upload_part(
                **place, PartNumber=number, Body=io.BytesIO(body), **_content_md5(target, md5.digest())
            )
            parts.append(_part(number, reply, etag=md5.hexdigest()))
            whole.update(body)
            of_parts.update(md5.digest())
            size += len(body)
        reply = target.s3.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
    except BaseException:
        with contextlib.suppress(*ERRORS):  # the first error is the one to report
            with_keys(target.bucket, lambda s3: s3.abort_multipart_upload(**place))
        raise
    return Sent(size, whole.hexdigest(), f"{of_parts.hexdigest()}-{len(parts)}"), reply


def _part(number: int, reply: dict[str, Any], *, etag: str) -> dict[str, Any]:
    checksums = {name: value for name, value in reply.items() if name.startswith("Checksum") and name != "ChecksumType"}
    return {"PartNumber": number, "ETag": reply.get("ETag") or f'"{etag}"', **checksums}


def _difference(target: Target, sent: Sent, reply: dict[str, Any]) -> str | None:
    if _etag(reply) in (sent.etag, sent.md5):
        return None
    head = _unless_refused(lambda: target.s3.head_object(**target.place)) or {}
    stored = head.get("ContentLength", sent.size)
    if stored != sent.size:
        return f"{stored:,} bytes are stored instead of {sent.size:,}"
    tag = _etag(reply) or _etag(head)
    if tag in (sent.etag, sent.md5) or not _should_be_md5(tag, sent, {**head, **reply}):
        return None
    return _difference_in_bytes(target, sent)


def _difference_in_bytes(target: Target, sent: Sent) -> str | None:
    """Read the object back: a store with ETags of its own, which look like MD5, must not be taken for one that spoils.

    Once is enough for a bucket; its objects are compared by size then.
    """
    place = (str(target.s3.meta.endpoint_url), target.bucket)
    if place in _OTHER_ETAGS:
        return None
    if _unless_refused(lambda: _stored_md5(target)) != sent.md5:
        return "the ETag of what is stored is not that of what was sent"
    _OTHER_ETAGS.add(place)
    return None


def _stored_md5(target: Target) -> str:
    md5 = _md5()
    with contextlib.closing(target.s3.get_object(**target.place)["Body"]) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            md5.update(chunk)
    return str(md5.hexdigest())


def _unless_refused(ask: Callable[[], Any]) -> Any:
    """The answer; None where the keys may not ask, or the store does not know."""
    try:
        return ask()
    except ERRORS as error:
        if verdict_of(error) == "away":
            raise
        return None


def _etag(reply: dict[str, Any]) -> str:
    return str(reply.get("ETag", "")).strip().removeprefix("W/").strip('"').lower()


def _should_be_md5(tag: str, sent: Sent, reply: dict[str, Any]) -> bool:
    """Whether the ETag looks as S3's would. With keys of KMS or of a customer, an ETag is not an MD5."""
    encrypted = str(reply.get("ServerSideEncryption", "")).startswith("aws:") or "SSECustomerAlgorithm" in reply
    same_parts = tag.partition("-")[2] == sent.etag.partition("-")[2]
    return _LIKE_AN_ETAG.fullmatch(tag) is not None and same_parts and not encrypted


def _content_md5(target: Target, digest: bytes) -> dict[str, str]:
    if target.bucket.endswith(_EXPRESS) or adds_checksums(target.s3):
        return {}
    return {"ContentMD5": base64.b64encode(digest).decode("ascii")}


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)
