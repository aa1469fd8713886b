"""URIs as people write them in a CSV, and as they may be shown."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from jobs.errors import InvalidJob

SCHEMES = ("file", "s3", "http", "https")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


def resolve_uri(text: str, base: Path) -> str:
    """A cell -> an absolute URI: s3:// and http(s):// as they are, file:// and paths as file:///...

    Relative paths (and `file://relative`) resolve against `base`, the CSV's folder.

    Raises:
        InvalidJob: an unknown scheme, or an s3:// URI without bucket or key.
    """
    match = _SCHEME.match(text)
    if match is None:
        return (base / Path(text).expanduser()).absolute().as_uri()
    scheme = match.group(1).lower()
    if scheme not in SCHEMES:
        raise InvalidJob(
            f"{redacted(text)!r} has the scheme {scheme!r}; use a path, " + ", ".join(f"{s}://" for s in SCHEMES)
        )
    if scheme == "file":
        return (base / _file_path(text)).absolute().as_uri()
    if not urlsplit(text).netloc:
        raise InvalidJob(f"{redacted(text)!r} names no {'bucket' if scheme == 's3' else 'host'}")
    return text


def path_of(uri: str) -> Path:
    """The local path of a file:// URI."""
    return _file_path(uri)


def bucket_and_key(uri: str) -> tuple[str, str]:
    """s3://bucket/key -> (bucket, key), whatever characters the key has: '?' and '#' are legal in one."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key.lstrip("/")


def redacted(uri: str) -> str:
    """The URI without user, password and query, which may be secrets (signed URLs)."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(an unreadable URI)"
    if not parts.scheme or parts.scheme == "file":
        return uri
    return urlunsplit((parts.scheme, f"{host}{port}", parts.path, "…" if parts.query else "", ""))


def _file_path(uri: str) -> Path:
    """file:///abs, file://localhost/abs and the common mistake file://relative."""
    rest = uri[len("file://") :]
    if rest.startswith("localhost/"):
        rest = rest[len("localhost") :]
    return Path(unquote(rest))
