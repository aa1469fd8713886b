"""Denoisers: those of all engine sets that a worker holds, by digest; and what loading them took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping

from worker.render.denoiser import Denoiser
from worker.render.stats import Loads


class Denoisers:
    """Called by the loop's thread, except for `max_batch` and `loads`, which any thread may call."""

    def __init__(self, by_set: Mapping[str, Denoiser], *, loaded: Iterable[str] = ()) -> None:
        """`loaded`: the sets whose engines are on the device already."""
        self._by_set = dict(by_set)
        self._loaded = frozenset(loaded)
        self._counts: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._loading = False

    @classmethod
    def of_one(cls, denoiser: Denoiser, *, engine_set: str = "") -> Denoisers:
        """The denoiser of the only set, whose engines are on the device. It serves requests of any digest."""
        return cls({engine_set: denoiser}, loaded=[engine_set])

    def of(self, engine_set: str) -> Denoiser:
        """The denoiser of a set."""
        return self._by_set[self._name(engine_set)]

    def is_loaded(self, engine_set: str) -> bool:
        """Whether the set's engines are on the device."""
        return self._name(engine_set) in self._loaded

    def load(self, engine_set: str) -> None:
        """Bring the set's engines to the device. Raises whatever prevents it; then none of them is there."""
        name, began = self._name(engine_set), time.monotonic()
        self._loading = True
        try:
            self._by_set[name].load()
        except BaseException:
            self._by_set[name].unload()
            raise
        finally:
            self._loading = False
        self._loaded |= {name}
        self._counts[name] += 1
        self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began

    def unload(self, engine_set: str) -> None:
        """Free what the set has on the device."""
        name = self._name(engine_set)
        self._loaded -= {name}
        self._by_set[name].unload()

    def drop_graphs(self) -> bool:
        """Free the graphs of all sets on the device. False if there were none.

        One set's graphs alone would free nothing: torch keeps the pool that they share until its last graph is gone.
        """
        dropped = [self._by_set[name].drop_graphs() for name in sorted(self._loaded)]
        return any(dropped)

    def reload_seconds(self, engine_set: str) -> float:
        """How long it took to load the set the last time."""
        return self.of(engine_set).reload_seconds

    @property
    def loads(self) -> Loads:
        """What was loaded so far."""
        return Loads(dict(self._counts), dict(self._seconds), self._loaded, self._loading)

    def _name(self, engine_set: str) -> str:
        return next(iter(self._by_set)) if len(self._by_set) == 1 else engine_set
