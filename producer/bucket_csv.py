"""A file of rows in a bucket, `producer submit s3://bucket/folder/jobs.csv`: copied to this machine, then checked."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

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

    Raises:
        CommandFailed: a URI that no CSV can be read from; the sentence says what to do instead.
    """
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
        raise CommandFailed(
            Exit.USAGE,
            f"a CSV is read from a path, file:// or s3://, not from {match[1]}://; pipe it instead: "
            "curl --fail ... | producer submit - --batch nightly",
        )
    name = bucket_and_key(uri)[1].rpartition("/")[2]
    if not name:
        raise CommandFailed(Exit.USAGE, f"{uri} is a folder; name a CSV (or a TSV, JSON Lines or Parquet file)")
    return Path(name), uri


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
            raise CommandFailed(Exit.NOT_FOUND, str(error)) from error
        file = path.open("rb")
    with file:
        yield file


def upload(path: Path, uri: str) -> None:
    """Store a small CSV beside the one that was submitted.

    Raises:
        RenderError: it cannot be written.
    """
    with_backoff(lambda: store_for(uri).put_file(uri, path, CONTENT_TYPE), attempts=TRIES, base_seconds=0.5)
