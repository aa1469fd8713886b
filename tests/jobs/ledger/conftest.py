"""A job of the ledger's tests."""

from __future__ import annotations

import pytest

from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from tests.jobs.rows import enqueue, make_job


@pytest.fixture
def job(ledger: Ledger) -> RenderJob:
    """It is queued, and its message has been delivered."""
    job = make_job()
    enqueue(ledger, [job])
    ledger.client.delete(ledger.queue)
    return job
