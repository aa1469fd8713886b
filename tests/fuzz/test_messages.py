"""Any text as a job's message gives a job that ends, or one of our errors: no other error, and it never hangs."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from jobs.errors import InvalidJob, NewerMessage
from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.settings import load_settings
from jobs.storage.access_policy import AccessPolicy
from tests.fuzz.documents import any_text
from tests.fuzz.outcome import result_or_sentence
from tests.jobs.resolver import Resolver
from tests.jobs.rows import make_job
from worker.in_flight import InFlightJobs
from worker.job_runner import JobRunner
from worker.ledger_client import LedgerClient
from worker.observe.metrics import JobMetrics
from worker.outcome import Outcome
from worker.renderer import load_renderer
from worker.shutdown import Shutdown

ONE_JOB = json.loads(make_job(num_samples=1, image_resolution=64, ddim_steps=2).model_dump_json())
ANY_FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def is_newer(text: str | bytes) -> bool:
    """Whether a message says that it is of a version after ours."""
    try:
        RenderJob.from_json(text)
    except NewerMessage:
        return True
    except InvalidJob:
        pass
    return False


@given(any_text(ONE_JOB))
def test_any_message_is_a_job_or_invalid(text: bytes) -> None:
    job = result_or_sentence(lambda: RenderJob.from_json(text), InvalidJob, NewerMessage)
    if isinstance(job, str):
        assert len(job) < 500
        return
    assert RenderJob.from_json(job.model_dump_json()) == job


@given(
    st.text(max_size=200) | st.none() | st.integers() | st.lists(st.integers()) | st.dictionaries(st.text(), st.none())
)
def test_what_celery_may_hand_over_in_place_of_a_text_is_invalid(text: Any) -> None:
    with pytest.raises(InvalidJob):
        RenderJob.from_json(text)


class NoNames(Resolver):
    """Resolves addresses in digits only: no test asks the network for a name."""

    def getaddrinfo(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        numeric = {**options, "flags": socket.AI_NUMERICHOST}
        return self._real(host, port, *args, **numeric)


@pytest.fixture
def runner(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobRunner]:
    """Everything with which a worker runs a job, except Celery; the engines are fake."""
    monkeypatch.setattr(socket, "getaddrinfo", NoNames().getaddrinfo)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("worker.job_runner.NEWER_MESSAGE_PAUSE_SECONDS", 0.0)
    stop, shutdown, metrics = threading.Event(), Shutdown(), JobMetrics(CollectorRegistry())
    renderer = load_renderer(load_settings(engine_dir="fake:"), shutdown)
    thread = threading.Thread(target=renderer.loop.run, args=[stop])
    thread.start()
    yield JobRunner(
        settings=load_settings(retry_attempts=1, max_attempts=1, fetch_timeout_seconds=1.0),
        renderer=renderer,
        ledger=LedgerClient(ledger, worker="fuzz", shutdown=shutdown, metrics=metrics),
        in_flight=InFlightJobs(),
        shutdown=shutdown,
        metrics=metrics,
        access_policy=AccessPolicy((str(tmp_path),), buckets=("none",), output=(tmp_path / "out").as_uri()),
    )
    stop.set()
    renderer.loop.wake()
    thread.join()


URIS = st.one_of(
    st.text(max_size=40),
    st.builds(
        lambda scheme, rest: scheme + rest, st.sampled_from(["file://", "s3://", "http://", "https://"]), st.text()
    ),
    st.sampled_from(
        [
            "file:///",
            "file:///%00",
            "file:///dev/zero",
            "file:///proc/self/mem",
            "s3://[",
            "s3://none",
            "s3://none/../x",
        ]
    ),
    st.sampled_from(
        ["http://[", "http://[::1", "http://h:99999/", "http://127.1/", "http://a@:b@[::]:0/", "https://\ud800/"]
    ),
    st.from_regex(r"https?://[a-z0-9.:@\[\]%/?#-]{0,40}"),
)


@st.composite
def named_places(draw: st.DrawFn) -> dict[str, Any]:
    """A job whose picture and output may be any text."""
    document: dict[str, Any] = json.loads(json.dumps(ONE_JOB))
    document["id"] = f"{draw(st.integers(0, 2**80 - 1)):020x}"
    document["parameters"]["image"] = draw(URIS)
    if draw(st.booleans()):
        document["output"] = draw(URIS)
    return document


@ANY_FIXTURE
@given(document=named_places())
def test_a_job_that_names_any_place_ends_with_an_error_of_ours(runner: JobRunner, document: dict[str, Any]) -> None:
    text = json.dumps(document)
    outcome = runner.run(text)
    assert outcome in (Outcome.ENDED, Outcome.INVALID)
    assert runner.in_flight.ids() == []
    if outcome is Outcome.ENDED:
        job = RenderJob.from_json(text)
        result = {result.id: result for result in runner.ledger.ledger.results(job.batch)}[job.id]
        assert result.state == "failed"
        assert result.error_kind not in ("unexpected", None), result
        runner.ledger.ledger.client.flushall()


@ANY_FIXTURE
@given(text=any_text(ONE_JOB))
def test_any_message_that_a_worker_gets_has_an_ending(runner: JobRunner, text: bytes) -> None:
    message = text.decode("utf-8", "replace")
    newer = is_newer(message)
    assert runner.run(message) in ((Outcome.REQUEUED,) if newer else (Outcome.ENDED, Outcome.INVALID))
    assert runner.in_flight.ids() == []
