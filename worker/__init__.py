"""The worker: `celery -A worker worker --concurrency 1`.

Importing the package is cheap and does not import Celery: the loop, the images and the rest are used without it.
Celery finds its app through the attribute `app`, which celery.app.utils.find_app looks for first. The attribute
`celery`, which it looks for next, is the subpackage `worker.celery`.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "app":
        from worker.celery.app import app_from_environment

        # Kept, so that everyone who asks gets the same app.
        app = globals()["app"] = app_from_environment()
        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
