"""What TensorRT for RTX compiled at run time, kept in a file of one component, set, card and version.

TensorRT for RTX compiles kernels for each shape that it first meets. Its runtime cache (IRuntimeCache) holds them, and
this file brings them to the next process. A file is machine code: only people whom you trust should be able to write to
the folder.

Nothing here fails a render: without a file, with a damaged one, or on a full disk, kernels are compiled as before, and
the log says why.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from engines.files import write_whole

log = logging.getLogger("engines")

FORMAT = 1
LONGEST_HEADER = 4096  # bytes
LONGEST_WAIT_SECONDS = 2.0  # for another writer


class RuntimeCache(Protocol):
    """What is used of tensorrt_rtx.IRuntimeCache."""

    def serialize(self) -> Any:
        """Everything that it holds, as a buffer (IHostMemory); None where TensorRT fails."""

    def deserialize(self, blob: bytes, /) -> bool:
        """Load what `serialize` gave; False where it does not belong to this GPU, driver or version."""


class KernelFile:
    """One component's compiled kernels. `key` names what they belong to: set, component, card, versions.

    Workers that share the folder add to one file: each reads what the others wrote before it writes.
    """

    def __init__(self, path: Path, key: Mapping[str, str], make: Callable[[], RuntimeCache]) -> None:
        """`make` gives an empty runtime cache."""
        self._path, self._key, self._make = path, dict(key), make
        self._known = ""  # SHA-256 of what this process last read or wrote
        self._broken = False
        self.cache = make()
        blob = self._read()
        if blob is not None and self.cache.deserialize(blob):
            self._known = _sha256(blob)
            log.info("%s: %d bytes of compiled kernels were loaded", path, len(blob))
        elif blob is not None:
            log.warning("%s is of another driver or environment; its kernels are compiled again", path)
            self.cache = make()

    def save(self) -> None:
        """Write what is new. Called after each shape that was met for the first time."""
        blob = None if self._broken else self.cache.serialize()
        if blob is None:
            return
        try:
            self._save(bytes(blob))
        except BlockingIOError:
            log.info("%s is being written by another worker; this one writes after the next new size", self._path)
        except OSError as error:
            self._broken = True
            why = error.strerror or error
            log.warning("%s cannot be written (%s); kernels will be compiled again at the next start", self._path, why)

    def _save(self, blob: bytes) -> None:
        if _sha256(blob) == self._known:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self._path):
            blob = self._with_others(blob)
            write_whole(self._path, self._header(blob) + blob)
        self._known = _sha256(blob)

    def _with_others(self, blob: bytes) -> bytes:
        """`blob` and what is in the file, where TensorRT puts both into one cache; else `blob` alone.

        Its documentation does not say whether a second `deserialize` adds to the first. If it replaces it, the last
        writer's kernels stay, and nothing of `blob` is lost.
        """
        others = self._read()
        if others is None or _sha256(others) == self._known:
            return blob
        both = self._make()
        if not (both.deserialize(others) and both.deserialize(blob)):
            return blob
        joined = both.serialize()
        return bytes(joined) if joined is not None and len(bytes(joined)) > len(blob) else blob

    def _header(self, blob: bytes) -> bytes:
        fields = {"format": FORMAT, "key": self._key, "sha256": _sha256(blob)}
        return json.dumps(fields, sort_keys=True).encode() + b"\n"

    def _read(self) -> bytes | None:
        """The kernels in the file; None without an intact file for this set, card and version."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s cannot be read (%s); its kernels are compiled again", self._path, error.strerror)
            return None
        end = data.find(b"\n", 0, LONGEST_HEADER)
        blob = data[end + 1 :]
        why = _why_not(data[: max(end, 0)], blob, self._key)
        if why is not None:
            log.warning("%s %s; its kernels are compiled again", self._path, why)
            return None
        return blob


def _why_not(header: bytes, blob: bytes, key: Mapping[str, str]) -> str | None:
    """Why a file is not taken, as half a sentence."""
    try:
        fields = json.loads(header)
        format_, written, digest = fields["format"], fields["key"], fields["sha256"]
        differs = sorted(name for name in {*key, *written} if key.get(name) != written.get(name))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "is not a file of compiled kernels, or is damaged"
    if format_ != FORMAT:
        return f"has format {format_}, this version reads {FORMAT}"
    if differs:
        name = differs[0]
        return f"was written for {name} {written.get(name)}, this is {key.get(name)}"
    return None if digest == _sha256(blob) else "is damaged: its contents have another SHA-256 than it records"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time. A process that ends, however, gives the lock back.

    Raises:
        BlockingIOError: another writer takes too long; the thread that waits is the one that renders.
    """
    with path.with_name(f".{path.name}.lock").open("w") as file:
        give_up = time.monotonic() + LONGEST_WAIT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.02)
        yield


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
