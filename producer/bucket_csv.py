"""A file of rows in a bucket, `producer submit s3://bucket/folder/jobs.csv`: copied to this machine, then checked.

A folder in a bucket is read by producer/table/bucket_folder.py.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from jobs.errors import InvalidJob, SourceNotFound
from jobs.storage.retry import with_backoff
from jobs.storage.store import store_for
from jobs.uri import bucket_and_key, path_of, resolve_uri
from producer.exits import CommandFailed, Exit

TRIES = 4
CONTENT_TYPE = "text/csv"
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(?:s3|file|https?):/", re.IGNORECASE)  # a missing slash is a mistake


def local_or_bucket(text: str | Path) -> tuple[Path, str | None]:
    """What the command line names: a file on this machine, or the s3:// URI of a CSV and its name.

    The URI of a folder in a bucket ends with one `/`, and its name is the folder's, or the bucket's.

    Raises:
        CommandFailed: a URI that no rows can be read from; the sentence says what to do instead.
    """
    if text == "":  # to a path, it is the current folder
        raise CommandFailed(Exit.USAGE, "the name of the source is empty; perhaps a shell variable is not set")
    match = _URI.match(str(text))
    if match is None or isinstance(text, Path):
        return Path(text), None
    try:
        uri = resolve_uri(text, Path.cwd())
    except InvalidJob as error:
        raise CommandFailed(Exit.USAGE, f"the CSV: {error}") from error
    if uri.startswith("file:"):
        return path_of(uri), None
    if not uri.startswith("s3:"):
        raise CommandFailed(Exit.USAGE, _not_from(uri))
    bucket, key = bucket_and_key(uri)
    if not key or key.endswith("/"):
        folder = uri.rstrip("/")
        return Path(bucket_and_key(folder)[1].rpartition("/")[2] or bucket), f"{folder}/"
    return Path(key.rpartition("/")[2]), uri


def is_bucket_folder(uri: str | None) -> bool:
    """Whether `local_or_bucket` found a folder in a bucket."""
    return uri is not None and uri.endswith("/")


def _not_from(uri: str) -> str:
    """Why no rows are read from a host."""
    scheme = uri.partition(":")[0]
    if urlsplit(uri).path.endswith("/") or not urlsplit(uri).path:
        return (
            f"a folder of pictures is read from a path or from s3://, not from {scheme}://, where nothing says which "
            "files it has; name its pictures in a CSV, one row each"
        )
    return (
        f"a CSV is read from a path, file:// or s3://, not from {scheme}://; pipe it instead: "
        "curl --fail ... | producer submit - --batch nightly"
    )


def folder_of(uri: str) -> str:
    """`s3://bucket/folder/`, where the CSV's relative image names start."""
    bucket, key = bucket_and_key(uri)
    return f"s3://{bucket}/{key[: key.rfind('/') + 1]}"


def beside(uri: str, name: str) -> str:
    """The URI of another file in the CSV's folder."""
    return folder_of(uri) + name


@contextmanager
def downloaded(uri: str) -> Iterator[BinaryIO]:
    """The bytes of the object, in a temporary file that has no name any more.

    Raises:
        CommandFailed: there is no such object.
        RenderError: it cannot be read, or the temporary file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="producer-") as folder:
        path = Path(folder) / "jobs.csv"
        try:
            with_backoff(lambda: store_for(uri).get_file(uri, path), attempts=TRIES, base_seconds=0.5)
        except SourceNotFound as error:
            hint = "" if Path(uri).suffix else "; the name of a folder of pictures ends with '/'"
            raise CommandFailed(Exit.NOT_FOUND, f"{error}{hint}") from error
        file = path.open("rb")
    with file:
        yield file


def upload(path: Path, uri: str) -> None:
    """Store a small CSV beside the one that was submitted.

    Raises:
        RenderError: it cannot be written.
    """
    with_backoff(lambda: store_for(uri).put_file(uri, path, CONTENT_TYPE), attempts=TRIES, base_seconds=0.5)
