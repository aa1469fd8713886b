"""URIs as people write them in a CSV or on a command line, and what is wrong with those that nothing can be read from.

The text of an s3:// or http(s):// URI stays as it is written, because it is part of a job's id; only its scheme
becomes lower-case. Its host may have any case. A job from elsewhere than `producer submit` must write the scheme in
lower case.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from jobs.errors import InvalidJob
from jobs.redaction import redacted

__all__ = ["SCHEMES", "bucket_and_key", "file_path", "path_of", "redacted", "resolve_image", "resolve_uri"]

SCHEMES = ("file", "s3", "http", "https")
OUTPUT_SCHEMES = ("file", "s3")
LONGEST_NAME = 255  # bytes of one part of a path, and
LONGEST_PATH = 4095  # bytes of all of it: what Linux takes
LONGEST_KEY = 1024  # bytes of a key in a bucket
LONGEST_SHOWN = 60  # characters of a URI in a sentence

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_ONE_SLASH = re.compile(rf"^({'|'.join(SCHEMES)}):", re.IGNORECASE)
# Schemes without '//'. Other text with a colon is a path: `scan:2.png` is a legal name.
_NO_PICTURES = re.compile(r"^(about|blob|cid|data|javascript|mailto|tel|urn):", re.IGNORECASE)
_WINDOWS = re.compile(r"^(?:/?[A-Za-z]:[\\/]|\\\\)")
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}|arn:[^/]+")
_CONTROL = re.compile(r"[\0-\x1f\x7f]")


def resolve_uri(text: str, base: Path | str, *, for_output: bool = False) -> str:
    """A cell or an option -> an absolute URI: s3:// and http(s):// as they are, file:// and paths as file:///...

    Relative paths (and `file://relative`) resolve against `base`, the CSV's folder. Where that is text, it is the
    `s3://bucket/folder/` of a CSV in a bucket, and relative paths become keys, to the letter. `~` is the home folder.
    `for_output`: sentences speak of a place for results, not of a picture.

    Raises:
        InvalidJob: there can be nothing at such a place; the sentence says why, without secrets.
    """
    if not text.strip():
        raise InvalidJob("the text is empty; name a file or folder, or a URI")
    match = _SCHEME.match(text)
    if match is None:
        return _uri_of_path(_expanded(text, for_output=for_output), text, base, for_output=for_output)
    scheme = match[1].lower()
    if scheme not in SCHEMES:
        raise _wrong_scheme(text, scheme, for_output=for_output)
    uri = scheme + text[len(scheme) :]
    if scheme == "file":
        return _uri_of_path(file_path(uri), text, base, for_output=for_output)
    _check_bucket(uri) if scheme == "s3" else _check_host(uri)
    return uri


def resolve_image(text: str, base: Path | str) -> str:
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


def _wrong_scheme(text: str, scheme: str, *, for_output: bool) -> InvalidJob:
    schemes = ", ".join(f"{known}://" for known in (OUTPUT_SCHEMES if for_output else SCHEMES))
    return InvalidJob(f"{_shown(text)} has the scheme {scheme!r}; use a path, {schemes}")


def _meant(scheme: str, rest: str, *, for_output: bool) -> str:
    """The URI that lacks slashes, with them; an example where that would be refused as well."""
    if scheme == "s3":
        bucket, key = bucket_and_key(f"s3://{rest}")
        return _shown(f"s3://{rest}") if bucket and (key or for_output) else "s3://bucket/key"
    if not rest:
        return "file:///folder/name" if scheme == "file" else f"{scheme}://host/name"
    return _shown(f"{scheme}:/{'/' if scheme == 'file' else ''}/{rest}")


def _expanded(text: str, *, for_output: bool) -> str:
    """A path as written -> with the home folder in place of `~`; refuses what is a mistaken URI and no path."""
    if match := _ONE_SLASH.match(text):
        scheme = match[1].lower()
        if for_output and scheme not in OUTPUT_SCHEMES:
            raise _wrong_scheme(text, scheme, for_output=True)
        meant = _meant(scheme, text[match.end() :].lstrip("/"), for_output=for_output)
        raise InvalidJob(f"a URI lacks slashes behind {match[1]}:; write {meant}")
    if match := _NO_PICTURES.match(text):
        scheme = match[1].lower()
        is_picture = scheme in ("data", "blob") and not for_output
        instead = "save the picture as a file and name that" if is_picture else "use a path"
        article, action = "an" if scheme[0] == "a" else "a", "write to" if for_output else "read"
        raise InvalidJob(f"{_shown(text)} is {article} {scheme}: URI, which workers do not {action}; {instead}")
    if text.startswith("//") and not text.startswith("///"):
        if for_output:
            raise InvalidJob("a URI lacks its scheme before '//'; write s3://bucket/folder, or one '/' for a path")
        raise InvalidJob(f"a URI lacks its scheme before '//'; write {_shown('https:' + text)}, or one '/' for a path")
    if not text.startswith("~"):
        return text
    path = os.path.expanduser(text)  # noqa: PTH111 (Path.expanduser would expand './~x' as well)
    if path == text:
        raise InvalidJob(f"{_shown(text)} names a home folder that does not exist; for a file called so, write ./~...")
    return path


def _uri_of_path(path: str, text: str, base: Path | str, *, for_output: bool) -> str:
    if _WINDOWS.match(path):
        cannot = "write to; name" if for_output else "read; copy the files to"
        end = "or a bucket" if for_output else "or to S3, and name that"
        raise InvalidJob(
            f"{_shown(text)} is a path of Windows, which workers cannot {cannot} a folder that they share, {end}"
        )
    if not path:
        raise InvalidJob(f"{_shown(text)} names no {'folder' if for_output else 'file'}; write file:///folder/name")
    if "\0" in path:
        raise InvalidJob(f"{_shown(text)} holds a NUL byte, which no path has")
    if isinstance(base, str) and not path.startswith("/"):
        return _key_below(base, path, text)
    try:
        absolute = (Path("/") / path if isinstance(base, str) else base / path).absolute()
        parts = [len(os.fsencode(part)) for part in absolute.parts]
    except UnicodeEncodeError as error:
        raise InvalidJob(f"{_shown(text)} holds half a character (a lone surrogate); write the name anew") from error
    _check_length(parts, text, hint="choose a shorter one" if for_output else "is the text in the right column?")
    return absolute.as_uri()


def _key_below(base: str, path: str, text: str) -> str:
    """What a relative path names where the CSV is in a bucket. No store resolves `.` and `..`, so they end here."""
    if _SCHEME.match(text):
        raise InvalidJob(
            f"{_shown(text)} names no folder to start from, and the CSV is in a bucket; write the name alone for a "
            "picture beside the CSV, or file:///folder/name"
        )
    bucket, folder = bucket_and_key(base)
    parts, names = folder.split("/")[:-1], path.split("/")
    if names[-1] in ("", ".", ".."):
        raise InvalidJob(f"{_shown(text)} names a folder; name a picture")
    for part in names:
        if part == ".." and not parts:
            raise InvalidJob(f"{_shown(text)} leads out of the bucket {bucket!r}; write s3://bucket/key")
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    key = "/".join(parts)
    try:
        length = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidJob(f"{_shown(text)} is not UTF-8, as keys in a bucket are; write the name anew") from error
    if length > LONGEST_KEY:
        raise InvalidJob(
            f"{_shown(text)} is too long: a key in a bucket has at most {LONGEST_KEY:,} bytes, and with the CSV's "
            f"folder this one has {length:,}; is the text in the right column?"
        )
    return f"s3://{bucket}/{key}"


def _check_length(parts: Sequence[int], text: str, *, hint: str) -> None:
    """`parts`: the bytes of each part of the path."""
    if max(parts) > LONGEST_NAME:
        raise InvalidJob(
            f"{_shown(text)} is not a path: a name has at most {LONGEST_NAME} bytes, and this one has {max(parts):,}; "
            f"{hint}"
        )
    if sum(parts) + len(parts) > LONGEST_PATH:
        raise InvalidJob(
            f"{_shown(text)} is too long a path: it has more than {LONGEST_PATH:,} bytes; use a shorter one"
        )


def _check_bucket(uri: str) -> None:
    bucket, _ = bucket_and_key(uri)
    if not bucket:
        raise InvalidJob(f"{_shown(uri)} names no bucket; write s3://bucket/key")
    if "@" in bucket:
        raise InvalidJob(f"{_shown(uri)} has a user before the bucket; give keys in the AWS_* variables instead")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidJob(
            f"{_shown(uri)}: {bucket[:LONGEST_SHOWN]!r} is not a bucket name; those have letters, digits and '.-_'"
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
