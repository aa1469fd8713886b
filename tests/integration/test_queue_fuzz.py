"""A hundred arbitrary items in the queue of a real worker: it goes on, and renders the job behind them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobs.ledger.message import celery_message
from tests.eventually import eventually
from tests.fuzz.documents import any_text, changed
from tests.integration.conftest import Site


def queue_items(envelope: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Damaged envelopes, and whole ones with a damaged body."""
    body = json.loads(envelope["body"])
    bodies = changed(body).map(json.dumps) | any_text(body).map(lambda text: text.decode("utf-8", "replace"))
    return any_text(envelope) | bodies.map(lambda text: json.dumps({**envelope, "body": text}).encode())


def test_a_worker_lives_through_anything_in_its_queue(site: Site) -> None:
    envelope = json.loads(celery_message(site.job(99), queue="render"))

    @given(item=queue_items(envelope))
    def push(item: bytes) -> None:
        site.ledger.client.lpush("render", item)

    push()
    assert site.ledger.queue_length() >= 100
    (job,) = site.enqueue(1)
    worker = site.start(max_attempts=1)
    eventually(lambda: site.ledger.queue_length() == 0 or not worker.alive, seconds=60)
    assert worker.alive, worker.output[-3000:]
    eventually(lambda: job.id in {result.id for result in site.ledger.results("b")} or not worker.alive)
    assert worker.alive, worker.output[-3000:]
    worker.terminate()
    assert worker.exit_code() == 0
