"""stub_app in a worker whose clock is an hour ahead."""

from __future__ import annotations

import time

true_time = time.time
time.time = lambda: true_time() + 3600.0

from tests.integration.stub_app import app  # noqa: E402 (with the clock as it is now)

__all__ = ["app"]
