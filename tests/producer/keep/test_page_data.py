"""The JSON of the page: what it says of batches, failures, workers and pictures, and that no secret is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.job import RenderResult
from jobs.ledger.keys import batch_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Refusal, WorkerFacts
from producer.keep import details as details_module
from producer.keep.board import Board
from producer.keep.observation import observe
from producer.keep.paces import Paces
from producer.keep.page_data import PageData
from tests.jobs.rows import enqueue, make_job, make_jobs, make_result

HOSTILE = "<img src=x onerror=alert(1)>"


class Page:
    """What a browser would be told now."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.board = Board()
        self.paces = Paces(ledger)
        self.data = PageData(ledger, self.board, self.paces)

    def look(self) -> None:
        seen = observe(self.ledger, with_in_flight=self.board.is_viewed)
        self.paces.note(seen)
        self.board.note(seen)

    def overview(self) -> dict[str, Any]:
        self.look()
        return dict(json.loads(self.data.overview().body))

    def details(self, batch: str = "b") -> dict[str, Any]:
        self.look()
        self.data._read.clear()
        document = self.data.details(batch)
        assert document is not None
        return dict(json.loads(document.body))


@pytest.fixture
def page(ledger: Ledger) -> Page:
    return Page(ledger)


def end(ledger: Ledger, row: int, **values: Any) -> RenderResult:
    """A job of batch `b` that has ended."""
    job = make_job(row)
    enqueue(ledger, [job])
    ledger.start(job, worker="w")
    result = make_result(job, values.pop("state", "failed")).model_copy(update=values)
    ledger.finish(result)
    return result


def test_before_the_first_look(page: Page) -> None:
    record = json.loads(page.data.overview().body)
    assert record["redis"]["up"] is False
    assert record["looked"] is False


def test_open_batches_come_first_and_those_that_are_rendered_before_all(page: Page, ledger: Ledger) -> None:
    for name in ("ended", "rendered", "waiting", "newest"):
        enqueue(ledger, make_jobs(1, batch=name))
    for name in ("ended", "newest"):
        (job,) = make_jobs(1, batch=name)
        ledger.start(job, worker="w")
        ledger.finish(make_result(job))
    ledger.start(make_jobs(1, batch="rendered")[0], worker="w")
    record = page.overview()
    assert [batch["name"] for batch in record["batches"]] == ["rendered", "waiting", "newest", "ended"]
    assert [batch["open"] for batch in record["batches"]] == [True, True, False, False]
    assert (record["batches_open"], record["batches_total"]) == (2, 4)


def test_the_list_is_bounded(page: Page, ledger: Ledger) -> None:
    for number in range(80):
        enqueue(ledger, make_jobs(1, batch=f"open-{number}"))
    record = page.overview()
    assert len(record["batches"]) == 50
    assert record["batches_total"] == record["batches_open"] == 80


def test_the_same_look_is_the_same_document(page: Page, ledger: Ledger) -> None:
    page.look()
    assert page.data.overview() is page.data.overview()
    before = page.data.overview().tag
    enqueue(ledger, make_jobs(1))
    page.look()
    assert page.data.overview().tag != before


def test_workers_what_they_hold_and_why_one_is_paused(page: Page, ledger: Ledger) -> None:
    jobs = make_jobs(2)
    enqueue(ledger, jobs)
    ledger.start(jobs[0], worker="busy")
    ledger.beat("busy", in_flight=[job.id for job in jobs], lease_seconds=60, facts=WorkerFacts(engine_set="a" * 64))
    paused = WorkerFacts(paused="no rights on https://user:pw@host/?sig=ab12cd34ef", last_error="password=hunter2")
    ledger.beat("paused", in_flight=[], lease_seconds=60, facts=paused)
    page.board.note_view()
    first, second = page.overview()["workers"]
    assert (first["name"], first["holds"]) == ("paused", 0)  # those that need a look come first
    assert first["paused"] == "no rights on https://***@host/?sig=***"
    assert first["last_error"] == "password=***"
    assert second["in_flight"] == [{"batch": "b", "jobs": 2}]
    assert second["jobs"] == [job.id for job in jobs]


def test_failures_are_grouped_by_kind_and_reason(page: Page, ledger: Ledger) -> None:
    for row in (1, 2, 3):
        end(ledger, row, error_kind="source_not_found", error=HOSTILE)
    end(ledger, 4, error_kind="source_not_found", error="https://user:pw@host/a.png?token=ab12cd34 is missing")
    end(ledger, 5, error_kind="not_an_image", error="damaged")
    end(ledger, 6)
    record = page.details()
    assert [(group["kind"], group["jobs"]) for group in record["failures"]] == [
        ("source_not_found", 4), ("error", 1), ("not_an_image", 1),
    ]  # fmt: skip
    first, second = record["failures"][0]["reasons"]
    assert first == {"text": HOSTILE, "jobs": 3, "rows": [1, 2, 3]}
    assert second["text"] == "https://***@host/a.png?token=*** is missing"
    assert record["failures_looked_at"] == 6


def test_many_different_reasons_are_bounded(page: Page, ledger: Ledger) -> None:
    for row in range(1, 21):
        end(ledger, row, error_kind="not_an_image", error=f"picture {row} is damaged")
    (group,) = page.details()["failures"]
    assert len(group["reasons"]) == 8
    assert (group["jobs"], group["more_reasons"]) == (20, 12)


def test_pictures_are_the_newest_and_name_no_secret(page: Page, ledger: Ledger) -> None:
    for row in (1, 2):
        samples = tuple(f"s3://bucket/out/b/{row}_{sample}.png" for sample in range(2))
        source = "https://user:pw@host/a.png?X-Amz-Signature=ab12cd34"
        end(ledger, row, state="done", samples=samples, prompt=HOSTILE, image=source)
    record = page.details()
    assert [(picture["row"], picture["sample"]) for picture in record["pictures"]] == [(2, 0), (2, 1), (1, 0), (1, 1)]
    picture = record["pictures"][0]
    assert picture["prompt"] == HOSTILE
    assert picture["source"] == "https://…@host/a.png?X-Amz-Signature=…"
    assert picture["path"] == f"pictures/b/{make_job(2).id}/0"


def test_of_a_batch_whose_newest_were_not_noted_some_are_found(
    page: Page, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for row in range(1, 6):
        end(ledger, row, state="done", samples=(f"file:///out/b/{row}.png",), finished_at=float(row))
    end(ledger, 6, error="damaged")
    ledger.client.delete(batch_key("b", "newest"), batch_key("b", "failures"))
    record = page.details()
    assert [picture["row"] for picture in record["pictures"]] == [5, 4, 3, 2, 1]
    assert record["failures"][0]["reasons"][0]["text"] == "damaged"
    monkeypatch.setattr(details_module, "LOOKED_THROUGH", 2)
    assert len(page.details()["pictures"]) <= 2


def test_why_jobs_wait(page: Page, ledger: Ledger) -> None:
    job = make_job(1)
    enqueue(ledger, [job])
    ledger.beat("other", in_flight=[], lease_seconds=60, facts=WorkerFacts(settings="x"))
    ledger.start(job, worker="w")
    refusal = Refusal(by="w", worker="w", kind="source_forbidden", text="token=abc12345 is refused", at=1.0)
    ledger.refuse(job, refusal, facts=WorkerFacts())
    (wait,) = page.details()["waits"]
    assert wait == {"jobs": 1, "worker": "w", "kind": "source_forbidden", "text": "token=*** is refused"}


@pytest.mark.parametrize("output", ["s3://bucket/out", "s3://bucket/out/"])
def test_list_and_details_say_the_same_of_a_batch(page: Page, ledger: Ledger, output: str) -> None:
    enqueue(ledger, [make_job(1, output=output)])
    (listed,) = page.overview()["batches"]
    record = page.details()
    assert listed["folder"] == "s3://bucket/out/b"
    assert {name: value for name, value in listed.items() if name in record} == {
        name: value for name, value in record.items() if name in listed
    }
    assert listed["counts"]["queued"] == listed["total"] == 1


def test_a_batch_that_is_not_there(page: Page) -> None:
    page.look()
    assert page.data.details("none") is None


def test_results_that_are_no_results_are_passed_over(page: Page, ledger: Ledger) -> None:
    end(ledger, 1, state="done", samples=("file:///out/b/1.png",))
    ledger.client.hset(batch_key("b", "results"), "0" * 20, "garbage")
    ledger.client.lpush(batch_key("b", "newest"), "0" * 20, "garbage")
    ledger.client.hincrby(batch_key("b", "counts"), "done", 2)
    assert [picture["row"] for picture in page.details()["pictures"]] == [1]


def test_half_of_a_surrogate_pair_is_no_end_of_the_page(page: Page, ledger: Ledger) -> None:
    end(ledger, 1, error_kind="error")
    text = ledger.client.hget(batch_key("b", "results"), make_job(1).id)
    assert isinstance(text, str)
    ledger.client.hset(batch_key("b", "results"), make_job(1).id, text.replace('"prompt":"p"', '"prompt":"\\ud800"'))
    page.details()


def test_times_that_are_no_numbers_and_a_name_that_comes_twice(page: Page, ledger: Ledger) -> None:
    enqueue(ledger, make_jobs(1))
    strange = '{"name": "b", "output": "file:///out", "source": "NaN", "created_at": NaN}'
    ledger.client.hset("render:batches", mapping={"x": strange, "y": strange})
    ledger.client.set("render:worker:w", '{"worker": "w", "held": [], "at": Infinity}')
    record = page.overview()
    assert len(record["batches"]) == 1
    assert record["workers"][0]["heartbeat_at"] is None
