"""Every kind of source as a table of records: the one door through which rows come in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from producer.source_kind import HEAD_BYTES, why_not
from producer.submission import Request
from producer.table.again import again_table
from producer.table.bucket_folder import bucket_folder_table
from producer.table.folder import folder_table, listing
from producer.table.json_lines import json_lines_table
from producer.table.parquet import parquet_table
from producer.table.problem import CsvMistakes, Problem
from producer.table.reader import Table, open_table


@contextmanager
def open_source(request: Request) -> Iterator[Table]:
    """The records of a request's source. Columns that its options say may be missing.

    Raises:
        CsvMistakes: the source as a whole cannot be read; also while the records are iterated.
        CommandFailed: what reads it is not installed.
        OSError: it cannot be read.
        RenderError: a bucket cannot be read or listed.
    """
    given = frozenset(request.defaults)
    if request.kind == "folder" and request.uri is not None:
        with bucket_folder_table(request.uri) as table:
            yield table
    elif request.kind == "folder":
        yield folder_table(listing(request.file))
    elif request.kind == "again":
        yield again_table(listing(request.file), given=given)
    else:
        with request.open() as stream:
            _check_head(stream, request)
            with _table(stream, request) as table:
                yield table


@contextmanager
def _table(stream: BinaryIO, request: Request) -> Iterator[Table]:
    given = frozenset(request.defaults)
    if request.kind == "parquet":
        with parquet_table(stream, given=given) as table:
            yield table
    elif request.kind == "jsonl":
        yield json_lines_table(stream)
    else:
        with open_table(stream, delimiter="\t" if request.kind == "tsv" else None, given=given) as table:
            yield table


def _check_head(stream: BinaryIO, request: Request) -> None:
    message = why_not(stream.read(HEAD_BYTES), request.kind)
    stream.seek(0)
    if message:
        raise (
            CsvMistakes.of_file(message)
            if request.kind == "parquet"
            else CsvMistakes([Problem(1, None, None, message)])
        )
