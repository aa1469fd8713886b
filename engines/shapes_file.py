"""The file of `engines build --sizes`: what `producer sizes` printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

STDIN = Path("-")
MAX_BYTES = 16 * 2**20
WHAT = "producer sizes"
HOW = "write it with: producer sizes jobs.csv > sizes.json"


def read_shapes(path: Path, *, ranges: bool) -> list[str]:
    """The shapes to build a set for, as `Profile.parse` reads them; `-` is standard input.

    `ranges`: whether the backend takes a range of sizes; otherwise each size has a shape of its own.

    Raises:
        ValueError: the file cannot be read or has another format; the sentence says what to do.
    """
    record = _record(_data(path), "standard input" if path == STDIN else str(path))
    return record["ranges" if ranges else "shapes"]


def _data(path: Path) -> bytes:
    if path == STDIN:
        if sys.stdin is None:
            raise ValueError(f"standard input is closed; {HOW}")
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}; {HOW}") from error


def _record(data: bytes, name: str) -> dict[str, list[str]]:
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name} is larger than {MAX_BYTES:,} bytes; {HOW}")
    if not data.strip():
        raise ValueError(f"{name} is empty; {HOW}")
    try:
        record: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON ({_short(error)}); {HOW}") from error
    if not isinstance(record, dict) or record.get("what") != WHAT:
        raise ValueError(f"{name} is not what producer sizes prints; {HOW}")
    lists: dict[str, list[str]] = {}
    for key in ("shapes", "ranges"):
        texts = record.get(key)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name}: {key!r} is not a list of texts; {HOW}")
        if not texts:
            raise ValueError(f"{name} names no size: no picture of its {record.get('rows')} rows could be read")
        lists[key] = texts
    return lists


def _short(error: Exception) -> str:
    return str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
