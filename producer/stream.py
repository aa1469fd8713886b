"""A CSV that is not a regular file: standard input, a pipe, `<(...)` of a shell, a device. It can be read only once.

It is copied to a temporary file before its first row is checked, so the program that writes it never waits for us.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from producer.exits import CommandFailed, Exit

STDIN = Path("-")
ORIGIN = "stdin"  # the source of the rows in the ledger: a pipe's own name differs from run to run
CHUNK_BYTES = 2**20
LONGEST_LINE_BYTES = 2**27  # without a line end for so long, it is not a CSV, and must not fill the disk
_DESCRIPTOR = re.compile(r"/dev/(?:stdin|fd/(\d+))|/proc/(?:self|thread-self|\d+)/fd/(\d+)", re.ASCII)


def is_stream(file: Path) -> bool:
    """Whether the file can be read only once. False for a folder or a missing file: opening it gives the error."""
    if file == STDIN or _DESCRIPTOR.fullmatch(str(file)):
        return True
    with suppress(OSError, ValueError):
        mode = file.stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def kind(file: Path) -> str:
    """What a stream is called in a sentence."""
    return "standard input" if file == STDIN or str(file) == "/dev/stdin" else f"a pipe ({file})"


@contextmanager
def spooled(file: Path, *, is_text: bool = True) -> Iterator[BinaryIO]:
    """The bytes of a stream, in a temporary file. A text without line ends is not copied to its end.

    Raises:
        CommandFailed: standard input is closed.
        OSError: the stream cannot be read, or the temporary file cannot be written; it names the file or the folder.
    """
    with tempfile.TemporaryFile(prefix="producer-") as spool:
        with _opened(file) as stream:
            _copy(stream, spool, is_text=is_text)
        spool.seek(0)
        yield spool


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if file == STDIN and sys.stdin is None:
        raise _closed("standard input")
    with nullcontext(sys.stdin.buffer) if file == STDIN else _open(file) as stream:
        try:
            yield stream
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename or str(file)) from error


def _open(file: Path) -> BinaryIO:
    """A descriptor of ours is duplicated: a socket, which has a name in /dev/fd too, cannot be opened by it."""
    match = _DESCRIPTOR.fullmatch(str(file))
    if match is None or re.match(r"/proc/\d", str(file)):
        return file.open("rb")
    number = int(match[1] or match[2] or 0)
    if number == 0 and sys.__stdin__ is None:  # the number may have been given to a file of ours since
        raise _closed(str(file))
    try:
        return os.fdopen(os.dup(number), "rb")
    except (OSError, OverflowError) as error:
        raise _closed(str(file)) from error


def _closed(name: str) -> CommandFailed:
    return CommandFailed(Exit.NOT_FOUND, f"{name} is closed; give it a CSV, or name a file")


def _copy(stream: BinaryIO, spool: BinaryIO, *, is_text: bool) -> None:
    since_line_end = 0
    while not (is_text and since_line_end >= LONGEST_LINE_BYTES) and (chunk := stream.read(CHUNK_BYTES)):
        since_line_end = 0 if b"\n" in chunk or b"\r" in chunk else since_line_end + len(chunk)
        try:
            spool.write(chunk)
            spool.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error
