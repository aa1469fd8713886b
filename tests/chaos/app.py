"""The worker that chaos breaks: the real one, whose log also says when a job's last picture is finished.

Run as `celery -A tests.chaos.app worker`. The verdict counts with it how many finished pictures were drawn again.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import structlog

from jobs.job import RenderJob
from jobs.settings import Settings, load_settings
from worker.celery.app import make_app
from worker.prepare import Prepared
from worker.renderer import Renderer, load_renderer
from worker.shutdown import Shutdown

log = structlog.get_logger(__name__)


def load(settings: Settings, shutdown: Shutdown) -> Renderer:
    """The renderer of the settings, whose `encode` says what it has encoded."""
    renderer = load_renderer(settings, shutdown)
    return replace(renderer, encode=partial(_encode, renderer))


def _encode(renderer: Renderer, job: RenderJob, prepared: Prepared, k: int, sample: np.ndarray) -> bytes:
    png = renderer.encode(job, prepared, k, sample)
    if k == job.parameters.num_samples - 1:
        log.info("job_drawn")
    return png


app = make_app(load_settings(), load=load)
