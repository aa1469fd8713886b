"""A host that allows so many requests in so many seconds and refuses the others, and counts them."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler

from tests.jobs.web_server import reply


class RateLimited:
    """An answer for tests.jobs.web_server. The time begins with the first request after the last one ended."""

    def __init__(self, body: bytes, *, allowed: int, seconds: float, retry_after: bool = True, status: int = 429):
        self.served = self.refused = self.most_refused = 0  # the last: between two times that it serves
        self._body = body
        self._allowed, self._seconds = allowed, seconds
        self._retry_after, self._status = retry_after, status
        self._lock = threading.Lock()
        self._in_window = 0
        self._window_end = 0.0

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            wait = self._wait(time.monotonic())
        if wait is None:
            reply(200, self._body)(handler)
        else:
            headers = {"Retry-After": f"{wait:.3f}"} if self._retry_after else {}
            reply(self._status, b"slower, please", headers=headers | {"Content-Type": "text/plain"})(handler)

    def _wait(self, now: float) -> float | None:
        if now >= self._window_end:
            self._window_end, self._in_window = now + self._seconds, 0
        self._in_window += 1
        if self._in_window <= self._allowed:
            self.served += 1
            return None
        self.refused += 1
        self.most_refused = max(self.most_refused, self._in_window - self._allowed)
        return self._window_end - now
