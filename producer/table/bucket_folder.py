"""The pictures of a folder in a bucket, in natural order. The folder's own folders are not looked into.

A bucket may hold millions of pictures and lists them in another order, so their names are sorted in runs that wait in
temporary files. At most RUN names are in memory.
"""

from __future__ import annotations

import heapq
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import IO

from jobs.storage.retry import with_backoff
from jobs.storage.store import store_for
from producer.table.folder import FOLDERS, HIDDEN, OTHERS, is_picture_name, left_out_remark, natural, printable
from producer.table.reader import Record, Table

RUN = 20_000  # names that are sorted at once
TRIES = 4


@dataclass(frozen=True)
class _Listed:
    """One listing: sorted runs of names, and how many entries are not pictures."""

    runs: tuple[Iterable[str], ...]
    left_out: Counter[str]
    files: ExitStack


@contextmanager
def bucket_folder_table(uri: str) -> Iterator[Table]:
    """One record for each picture of `s3://bucket/folder/`: the column `image` alone. All else is said by options.

    Raises:
        RenderError: the bucket cannot be listed.
        OSError: a temporary file cannot be written; it names the folder.
    """
    listed = with_backoff(lambda: _listed(uri), attempts=TRIES, base_seconds=0.5)
    with listed.files:
        remark = left_out_remark(listed.left_out)
        yield Table(("image",), [remark] if remark else [], _records(uri, listed.runs))


def _records(uri: str, runs: Iterable[Iterable[str]]) -> Iterator[Record]:
    for row, name in enumerate(heapq.merge(*runs, key=natural), 1):
        yield Record(row, row, [uri + name], place=printable(name))


def _listed(uri: str) -> _Listed:
    left_out: Counter[str] = Counter()
    with ExitStack() as files:
        names = _pictures(store_for(uri).names(uri), left_out)
        runs: list[Iterable[str]] = []
        while ordered := sorted(islice(names, RUN), key=natural):
            runs.append(ordered if len(ordered) < RUN else _kept(ordered, files))
        return _Listed(tuple(runs), left_out, files.pop_all())


def _pictures(names: Iterable[str], left_out: Counter[str]) -> Iterator[str]:
    for name in names:
        kind = _kind(name)
        if kind is None:
            yield name
        elif name:  # the object that stands for the folder itself has no name in it
            left_out[kind] += 1


def _kind(name: str) -> str | None:
    """What an entry counts as; None for a picture."""
    if name.startswith("."):
        return HIDDEN
    if name.endswith("/"):
        return FOLDERS
    return None if is_picture_name(name) else OTHERS


def _kept(names: Iterable[str], files: ExitStack) -> Iterator[str]:
    """The names in a temporary file, one a line as JSON: a key may hold any character, line ends too."""
    try:
        kept = tempfile.TemporaryFile("w+", prefix="producer-", encoding="utf-8")  # noqa: SIM115 (`files` closes it)
        file: IO[str] = files.enter_context(kept)
        file.writelines(f"{json.dumps(name)}\n" for name in names)
        file.seek(0)
    except OSError as error:
        raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error
    return _read(file)


def _read(file: IO[str]) -> Iterator[str]:
    for line in file:
        yield json.loads(line)
