"""URIs as people write them in a CSV or on a command line, and what is wrong with those that nothing can be read from.

The text of an s3:// or http(s):// URI stays as it is written, because it is part of a job's id; only its scheme
becomes lower-case. Its host may have any case. A job from elsewhere than `producer submit` must write the scheme in
lower case.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from jobs.errors import InvalidJob
from jobs.redaction import redacted

__all__ = ["SCHEMES", "bucket_and_key", "file_path", "path_of", "redacted", "resolve_image", "resolve_uri"]

SCHEMES = ("file", "s3", "http", "https")
LONGEST_NAME = 255  # bytes of one part of a path, and
LONGEST_PATH = 4095  # bytes of all of it: what Linux takes
LONGEST_SHOWN = 60  # characters of a URI in a sentence

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_ONE_SLASH = re.compile(rf"^({'|'.join(SCHEMES)}):", re.IGNORECASE)
# Schemes without '//'. Other text with a colon is a path: `scan:2.png` is a legal name.
_NO_PICTURES = re.compile(r"^(about|blob|cid|data|javascript|mailto|tel|urn):", re.IGNORECASE)
_WINDOWS = re.compile(r"^(?:/?[A-Za-z]:[\\/]|\\\\)")
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}|arn:[^/]+")
_CONTROL = re.compile(r"[\0-\x1f\x7f]")


def resolve_uri(text: str, base: Path) -> str:
    """A cell or an option -> an absolute URI: s3:// and http(s):// as they are, file:// and paths as file:///...

    Relative paths (and `file://relative`) resolve against `base`, the CSV's folder. `~` is the home folder.

    Raises:
        InvalidJob: there can be nothing at such a place; the sentence says why, without secrets.
    """
    if not text.strip():
        raise InvalidJob("the text is empty; name a file or folder, or a URI")
    match = _SCHEME.match(text)
    if match is None:
        return _uri_of_path(_expanded(text), text, base)
    scheme = match[1].lower()
    if scheme not in SCHEMES:
        raise InvalidJob(
            f"{_shown(text)} has the scheme {scheme!r}; use a path, " + ", ".join(f"{s}://" for s in SCHEMES)
        )
    uri = scheme + text[len(scheme) :]
    if scheme == "file":
        return _uri_of_path(file_path(uri), text, base)
    _check_bucket(uri) if scheme == "s3" else _check_host(uri)
    return uri


def resolve_image(text: str, base: Path) -> str:
    """`resolve_uri`, for the picture of a job: a bucket alone is not enough.

    Raises:
        InvalidJob: as `resolve_uri`, or an s3:// URI has no key.
    """
    uri = resolve_uri(text, base)
    if uri.startswith("s3://") and not bucket_and_key(uri)[1]:
        raise InvalidJob(f"{_shown(text)} names a bucket and no key; write s3://bucket/key")
    return uri


def path_of(uri: str) -> Path:
    """The local path of a file:// URI. A name that is not UTF-8 has surrogates, as everywhere in Python."""
    return Path(file_path(uri))


def bucket_and_key(uri: str) -> tuple[str, str]:
    """s3://bucket/key -> (bucket, key), whatever characters the key has: '?' and '#' are legal in one."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key.lstrip("/")


def file_path(uri: str) -> str:
    """`path_of` as text: file:///abs, file://localhost/abs and the common mistake file://relative.

    Workers use this for each job. In Python 3.12, pathlib keeps every part of every path for ever (sys.intern, whose
    strings are immortal there): some 100 bytes a name, gigabytes after weeks.
    """
    rest = uri[len("file://") :]
    if rest[: len("localhost/")].lower() == "localhost/":
        rest = rest[len("localhost") :]
    # Half a surrogate pair is in no file's name. "surrogatepass" gives it bytes all the same: there is no such file.
    half = any("\ud800" <= char < "\udc80" or "\udcff" < char <= "\udfff" for char in rest)
    return os.fsdecode(unquote_to_bytes(rest.encode("utf-8", "surrogatepass") if half else os.fsencode(rest)))


def _expanded(text: str) -> str:
    """A path as written -> with the home folder in place of `~`; refuses what is a mistaken URI and no path."""
    if match := _ONE_SLASH.match(text):
        meant = f"{match[1].lower()}:/{'/' if match[1].lower() == 'file' else ''}/{text[match.end() :].lstrip('/')}"
        raise InvalidJob(f"a URI lacks slashes behind {match[1]}:; write {_shown(meant)}")
    if match := _NO_PICTURES.match(text):
        instead = "save the picture as a file and name that" if match[1].lower() in ("data", "blob") else "use a path"
        raise InvalidJob(f"{_shown(text)} is a {match[1].lower()}: URI, which workers do not read; {instead}")
    if text.startswith("//") and not text.startswith("///"):
        raise InvalidJob(f"a URI lacks its scheme before '//'; write {_shown('https:' + text)}, or one '/' for a path")
    if not text.startswith("~"):
        return text
    path = os.path.expanduser(text)  # noqa: PTH111 (Path.expanduser would expand './~x' as well)
    if path == text:
        raise InvalidJob(f"{_shown(text)} names a home folder that does not exist; for a file called so, write ./~...")
    return path


def _uri_of_path(path: str, text: str, base: Path) -> str:
    if _WINDOWS.match(path):
        raise InvalidJob(
            f"{_shown(text)} is a path of Windows, which workers cannot read; copy the files to a folder that they "
            "share, or to S3, and name that"
        )
    if not path:
        raise InvalidJob(f"{_shown(text)} names no file; write file:///folder/name")
    if "\0" in path:
        raise InvalidJob(f"{_shown(text)} holds a NUL byte, which no path has")
    try:
        absolute = (base / path).absolute()
        parts = [len(os.fsencode(part)) for part in absolute.parts]
    except UnicodeEncodeError as error:
        raise InvalidJob(f"{_shown(text)} holds half a character (a lone surrogate); write the name anew") from error
    if max(parts) > LONGEST_NAME:
        raise InvalidJob(
            f"{_shown(text)} is no path: a name has at most {LONGEST_NAME} bytes, and this one has {max(parts):,}; is "
            "the text in the right column?"
        )
    if sum(parts) + len(parts) > LONGEST_PATH:
        raise InvalidJob(f"{_shown(text)} is too long a path: it has more than {LONGEST_PATH:,} bytes; move the file")
    return absolute.as_uri()


def _check_bucket(uri: str) -> None:
    bucket, _ = bucket_and_key(uri)
    if not bucket:
        raise InvalidJob(f"{_shown(uri)} names no bucket; write s3://bucket/key")
    if "@" in bucket:
        raise InvalidJob(f"{_shown(uri)} has a user before the bucket; give keys in the AWS_* variables instead")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidJob(
            f"{_shown(uri)}: {bucket[:LONGEST_SHOWN]!r} is no bucket's name; those have letters, digits and '.-_'"
        )


def _check_host(uri: str) -> None:
    if _CONTROL.search(uri):
        raise InvalidJob(f"{_shown(uri)} holds a line break or another control character; remove it")
    try:
        parts = urlsplit(uri)
        host = parts.hostname
    except ValueError as error:  # whose text repeats the URL, password and all
        raise InvalidJob(f"{_shown(uri)} cannot be read as a URL; check its host and brackets") from error
    try:
        is_port = parts.port != 0
    except ValueError:
        is_port = False
    if not host:
        raise InvalidJob(f"{_shown(uri)} names no host")
    if not is_port:
        raise InvalidJob(f"{_shown(uri)} has no usable port behind its host: a port is a number from 1 to 65535")
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise InvalidJob(f"{_shown(uri)}: {host[:LONGEST_SHOWN]!r} is not a host name") from error
    if re.search(r"[\s\\]", host):
        raise InvalidJob(f"{_shown(uri)}: {host[:LONGEST_SHOWN]!r} is not a host name: it has a space or a backslash")


def _shown(text: str) -> str:
    shown = redacted(text)
    return repr(shown if len(shown) <= LONGEST_SHOWN else shown[: LONGEST_SHOWN - 1] + "…")
