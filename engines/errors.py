"""What can go wrong with engines, and the exit code that `engines` ends with.

    EngineError
    ├── ModelRefused          3   the weights are not an SD1.5-like model with a ControlNet
    ├── BackendUnavailable    4   the backend is not installed, cannot run here, or does not exist
    ├── BuildFailed           5   the exporter, a compiler or the plan builder failed
    └── EngineSetRefused      6   a set that was changed, is incomplete, or was built for something else

1 is `verify` finding a component out of tolerance, 2 a wrong command line. Every message is a sentence that names what
differs and what would help.
"""

from __future__ import annotations

from typing import ClassVar


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
