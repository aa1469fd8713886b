"""The worker: `celery -A worker worker --concurrency 1`.

Importing the package is cheap and loads no Celery: the core (loop, slots, ddim, ...) is used without it. Celery finds
its app through the lazy attribute `celery`; celery.app.utils.find_app looks for `app` first and then for `celery`.
(`app` cannot be the name here: it is a submodule, and importing that sets the attribute.)
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "celery":
        from worker.celery.app import app_from_environment

        # Kept, so that everybody who asks gets the same app.
        app = globals()["celery"] = app_from_environment()
        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
