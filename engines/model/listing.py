"""The files that a digest of weights covers: their names in it, and the digest. No torch here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from engines.errors import unreadable_is_refused
from engines.files import file_sha256

NETWORK = ("*.json", "*.txt", "*.safetensors", "*.bin")
TEXTS = ("*.json", "*.txt")


def listed(folder: Path, label: str, patterns: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The files of a folder that fit a pattern, each with its name in a digest."""
    if folder.is_dir():
        with unreadable_is_refused():
            os.scandir(folder).close()  # `glob` finds nothing in a folder that may not be listed
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        yield f"{label}/{path.name}", path


@unreadable_is_refused()
def files_digest(files: list[tuple[str, Path]]) -> str:
    """SHA-256 over names and contents."""
    return lines_digest([f"{name} {file_sha256(path)}" for name, path in sorted(files)])


def lines_digest(lines: Sequence[str]) -> str:
    """SHA-256 over lines of text."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
