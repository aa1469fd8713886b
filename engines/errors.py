"""What can go wrong with engines, and the exit code that `engines` ends with.

    EngineError
    ├── ModelRefused          3   the weights are not an SD1.5-like model with a ControlNet
    ├── BackendUnavailable    4   the backend is not installed, cannot run here, or does not exist
    ├── BuildFailed           5   the exporter, a compiler or the plan builder failed
    ├── EngineSetRefused      6   a set that was changed, is incomplete, or was built for something else
    ├── DiskRefused           7   this machine's disk is full, or a folder may not be written
    ├── NoSetFits             8   `pull`: no set in the folder or bucket fits this machine
    ├── StoreRefused          9   the folder or bucket of sets cannot be reached, or refuses
    └── ExportDiffers        10   `export`: a graph gives other numbers in onnxruntime than in torch

1 is `verify` finding a component out of tolerance, 2 a wrong command line. Every message is a sentence that names what
differs and what would help. Any other exception is not expected, such as a fault of ours: 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

EXIT_CODES = """
Exit codes: 0 done; 1 out of tolerance (verify, score); 2 wrong command line; 3 weights refused;
4 backend not available; 5 build failed; 6 engine set refused; 7 unexpected error, such as a full disk;
8 no set fits this machine (pull); 9 bucket or folder of sets not reached, or it refuses;
10 an exported graph differs from torch (export); 130 interrupted.
"""
UNEXPECTED = 7
INTERRUPTED = 130  # as shells write it


class EngineError(Exception):
    """The root. `str(error)` is a sentence that an operator can act on."""

    exit_code: ClassVar[int] = 3


class ModelRefused(EngineError):
    """The weights are not an SD1.5-like model with a ControlNet, or cannot be read."""

    exit_code = 3


class BackendUnavailable(EngineError):
    """The backend is not installed, cannot run on this machine, or does not exist."""

    exit_code = 4


class BuildFailed(EngineError):
    """The exporter, a compiler or the plan builder failed."""

    exit_code = 5


class EngineSetRefused(EngineError):
    """The set was changed, is incomplete, or was built for other weights, another version or another GPU."""

    exit_code = 6


class DiskRefused(EngineError):
    """This machine's disk is full, or a folder of it may not be written."""

    exit_code = UNEXPECTED


class NoSetFits(EngineError):
    """No set in the folder or bucket fits this machine; the message says why, and how to build one."""

    exit_code = 8


class StoreRefused(EngineError):
    """The folder or bucket of sets cannot be reached, or refuses what was asked."""

    exit_code = 9


class ExportDiffers(EngineError):
    """An exported graph is valid, and onnxruntime gives other numbers than torch; nothing was written."""

    exit_code = 10


def sentence_of(error: BaseException) -> str:
    """What is said of an error: our own sentence, the file and the system's reason, or its kind and its first line."""
    if isinstance(error, EngineError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first} (this was not expected; engines --traceback shows where it arose)"


@contextmanager
def unreadable_is_refused() -> Iterator[None]:
    """In the block, or in the function that this decorates, a file that the system does not give is a ModelRefused."""
    try:
        yield
    except OSError as error:
        raise ModelRefused(sentence_of(error)) from error
