"""Survey: reads the headers of many pictures at once. Rows that name the same picture ask for it once.

At any time a few hundred pictures are on their way, and the sizes of a few thousand are remembered, so memory is flat.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from jobs.errors import RenderError
from producer.sizes.tally import Picture, Tally, Wanted

THREADS = 32  # most of the time they wait for a host
ON_THEIR_WAY = 8 * THREADS
REMEMBERED = 10_000  # pictures

SizeOf = Callable[[str], tuple[int, int]]  # URI -> width and height, upright; raises RenderError
Answer = tuple[int, int] | RenderError


class Survey:
    """Fills a tally. `size_of` is called by THREADS threads. Use as a context manager; for one thread."""

    def __init__(self, size_of: SizeOf, tally: Tally) -> None:
        self._size_of = size_of
        self._tally = tally
        self._waiting: dict[str, Picture] = {}
        self._known: OrderedDict[str, Answer] = OrderedDict()
        self._asked: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[str, Answer | BaseException]] = queue.SimpleQueue()
        self.counted = 0  # rows

    def add(self, row: int, uri: str, wanted: Wanted) -> None:
        """Ask for a row's picture, unless that is known or asked for; waits while too many are on their way."""
        if (known := self._known.get(uri)) is not None:
            self._known.move_to_end(uri)
            self._count(Picture(uri, row, Counter({wanted: 1})), known)
            return
        if uri not in self._waiting:
            self._waiting[uri] = Picture(uri, row)
            self._asked.put(uri)
        self._waiting[uri].wanted[wanted] += 1
        while len(self._waiting) > ON_THEIR_WAY:
            self._take()
        while not self._answers.empty():
            self._take()

    def finish(self) -> Iterator[None]:
        """Wait for all that are on their way, one a step."""
        while self._waiting:
            self._take()
            yield

    def _take(self) -> None:
        uri, answer = self._answers.get()
        picture = self._waiting.pop(uri)
        if isinstance(answer, BaseException) and not isinstance(answer, RenderError):
            raise answer
        self._known[uri] = answer
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        self._count(picture, answer)

    def _count(self, picture: Picture, answer: Answer) -> None:
        self.counted += picture.wanted.total()
        if isinstance(answer, RenderError):
            self._tally.miss(picture, answer)
        else:
            self._tally.add(picture, *answer)

    def _work(self) -> None:
        while (uri := self._asked.get()) is not None:
            try:
                answer: Answer | BaseException = self._size_of(uri)
            except RenderError as error:
                answer = error.with_traceback(None)  # it is kept for a while, and would keep what it came from
                answer.__cause__ = answer.__context__ = None
            except BaseException as error:  # noqa: BLE001 (raised again where the answer is taken)
                answer = error
            self._answers.put((uri, answer))

    @contextmanager
    def running(self) -> Iterator[None]:
        """The threads live within the block. They are daemons: Ctrl-C does not wait for a host that is slow."""
        threads = [threading.Thread(target=self._work, name=f"sizes-{n}", daemon=True) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            _drain(self._asked)
            for _ in threads:
                self._asked.put(None)


def _drain(asked: queue.SimpleQueue[str | None]) -> None:
    try:
        while True:
            asked.get_nowait()
    except queue.Empty:
        pass


def survey(rows: Iterable[tuple[int, str, Wanted]], size_of: SizeOf, *, tick: Callable[[int], None]) -> Tally:
    """The sizes of rows: (number, URI of the picture, what it wants of it). `tick` gets the rows counted so far.

    Raises:
        What iterating over the rows raises, and what `size_of` raises beside RenderError.
    """
    tally = Tally()
    work = Survey(size_of, tally)
    with work.running():
        for row, uri, wanted in rows:
            work.add(row, uri, wanted)
            tick(work.counted)
        for _ in work.finish():
            tick(work.counted)
    return tally
