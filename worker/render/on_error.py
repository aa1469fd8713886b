"""OnError: what is done with an exception that a block raises."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class OnError:
    """Around a block: `handle` gets its exception, and says whether it goes no further. It may raise another one.

    A class and no generator: from Python 3.12 on, the frame that throws an error into a generator stays in the error's
    traceback and holds the error, so that the tensors of the call that failed would wait for the garbage collector.
    """

    def __init__(self, handle: Callable[[Exception], bool]) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return isinstance(error, Exception) and self._handle(error)
