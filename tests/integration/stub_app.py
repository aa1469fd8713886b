"""The real worker with stub engines: run as `celery -A tests.integration.stub_app worker`."""

from __future__ import annotations

from jobs.settings import load_settings
from tests.worker.stub_renderer import stub_renderer
from worker.celery.app import make_app

app = make_app(load_settings(), load=lambda _, shutdown: stub_renderer(shutdown))
