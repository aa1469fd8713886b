"""Several files at once, with one bar for all of them. The first error stops the others at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.filesize import decimal

from engines.store.bucket import Progress

AT_ONCE = 8
WAKE_SECONDS = 0.5  # how often the main thread looks for Ctrl-C

Result = TypeVar("Result")


class _Stopped(Exception):
    """Another transfer failed."""


class Meter:
    """Counts the bytes of all files. On a terminal it moves a bar, elsewhere it prints a line for each file."""

    def __init__(self, console: Console, verb: str, sizes: Mapping[str, int]) -> None:
        self._console, self._verb, self.sizes = console, verb, sizes
        self._done = dict.fromkeys(sizes, 0)
        self._finished = 0
        self._lock = threading.Lock()
        self.move: Callable[[int], object] = lambda _: None  # of the bar

    def advance(self, name: str, done: int) -> None:
        """A file has come this far, in bytes."""
        with self._lock:
            self._done[name] = done
            total = sum(self._done.values())
        self.move(total)

    def finish(self, name: str) -> None:
        """A file is done."""
        self.advance(name, self.sizes[name])
        with self._lock:
            self._finished += 1
            line = f"{name} {self._verb}ed, {decimal(self.sizes[name])} ({self._finished} of {len(self.sizes)})"
            if not self._console.is_terminal:
                self._console.print(line, markup=False)


@contextmanager
def metered(console: Console, verb: str, sizes: Mapping[str, int]) -> Iterator[Meter]:
    """A meter for files of these sizes (bytes); `verb` is 'push', 'pull' or 'check'."""
    meter = Meter(console, verb, sizes)
    if not console.is_terminal:
        yield meter
        return
    from rich import progress as bars

    spinner = bars.SpinnerColumn("dots" if console.encoding.startswith("utf") else "line")
    numbers = (bars.DownloadColumn(), bars.TransferSpeedColumn(), bars.TimeRemainingColumn(compact=True))
    columns = (spinner, bars.TextColumn("{task.description}"), bars.BarColumn(20), *numbers)
    with bars.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{verb}ing {len(sizes)} files", total=sum(sizes.values()))
        meter.move = lambda done: bar.update(task, completed=done)
        yield meter


def for_each(meter: Meter, do: Callable[[str, Progress], Result]) -> dict[str, Result]:
    """`do(name, progress)` for every file of the meter, AT_ONCE at a time; the results by name.

    Raises:
        What the first one to fail raises, once the others have stopped.
    """
    stop = threading.Event()

    def run(name: str) -> Result:
        def progress(done: int) -> None:
            if stop.is_set():
                raise _Stopped
            meter.advance(name, done)

        result = do(name, progress)
        meter.finish(name)
        return result

    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="transfer")
    try:
        largest_first = sorted(
            meter.sizes, key=lambda name: -meter.sizes[name]
        )  # so that no large file is left alone at the end
        futures = {name: pool.submit(run, name) for name in largest_first}
        _wait(futures.values())
        return {name: future.result() for name, future in futures.items()}
    finally:
        stop.set()  # for those that still run: one failed, or the user pressed Ctrl-C
        pool.shutdown(cancel_futures=True)


def _wait(futures: Iterable[Future[Result]]) -> None:
    left = set(futures)
    while left:
        done, left = wait(left, WAKE_SECONDS, FIRST_EXCEPTION)
        for future in done:
            future.result()
