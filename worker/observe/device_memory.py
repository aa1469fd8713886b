"""The device's memory at each scrape, asked for in a thread of its own: a lost device may never answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 1.0


class DeviceMemoryCollector:
    """Says how much of the device's memory is used; nothing while the device does not answer."""

    def __init__(self, read: Callable[[], Mapping[str, int]], *, answer_seconds: float = ANSWER_SECONDS) -> None:
        """`read` returns bytes by kind. It may raise, and it may never return: a scrape waits `answer_seconds`."""
        self._read = read
        self._answer_seconds = answer_seconds
        self._lock = threading.Lock()
        self._asked: Future[Mapping[str, int]] | None = None  # at most one question at a time

    def collect(self) -> Iterator[Metric]:
        """Prometheus calls this at each scrape."""
        memory = GaugeMetricFamily(
            "render_device_memory_bytes",
            "Memory of the device: total, used by all processes, allocated by this one.",
            labels=["kind"],
        )
        for kind, number in self._in_time().items():
            memory.add_metric([kind], number)
        yield memory

    def _in_time(self) -> Mapping[str, int]:
        with self._lock:
            asked = self._asked
            if asked is None:
                asked = self._asked = Future()
                threading.Thread(target=self._ask, args=(asked,), name="device-memory", daemon=True).start()
        try:
            return asked.result(self._answer_seconds)
        except TimeoutError:
            return {}

    def _ask(self, answer: Future[Mapping[str, int]]) -> None:
        memory: Mapping[str, int] = {}
        try:
            memory = self._read()
        except Exception as error:  # noqa: BLE001 (a lost device raises whatever it likes; the other metrics still count)
            log.warning("device_memory_unknown", error=f"{type(error).__name__}: {error}")
        with self._lock:
            self._asked = None
        answer.set_result(memory)
