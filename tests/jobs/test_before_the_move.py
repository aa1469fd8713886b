"""Data of the version before the packages were rearranged: what it left in Redis and in storage still works.

data/before_the_move.json was recorded with that version's own code, a real Redis and a real kombu: `producer submit` of
a CSV with nine rows, the last one corrected and submitted again, and then

    row 1   rendered and acknowledged               row 5   delivered by kombu, never started
    row 2   failed and acknowledged                 row 6   started, put back into the queue
    row 3   running on `gpu-1`, which lives         row 7   cancelled while queued
    row 4   running on `dead`, which is gone        rows 8, 9  queued; row 9's first version superseded
"""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.job import RenderJob, RenderParameters
from jobs.ledger.keys import batch_key
from jobs.ledger.kombu_view import UNACKED, UNACKED_INDEX
from jobs.ledger.ledger import Ledger
from jobs.ledger.message import message_for
from jobs.ledger.rebuild import Rebuilt, rebuild
from jobs.ledger.reconcile import Reconciled, reconcile
from jobs.ledger.records import Counts
from jobs.storage.memory import MemoryStore
from tests.eventually import eventually
from tests.jobs.rows import make_result

OUTPUT = "file:///srv/renders"
RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "before_the_move.json").read_text("utf-8"))
LEASE_SECONDS = 1.0


@pytest.fixture
def old(ledger: Ledger) -> Ledger:
    """Today's ledger on yesterday's Redis."""
    client = ledger.client
    for key, item in RECORDED["redis"].items():
        kind, value = item["type"], item["value"]
        if kind == "string":
            client.set(key, value)
        elif kind == "hash":
            client.hset(key, mapping=value)
        elif kind == "list":
            client.rpush(key, *value)
        elif kind == "set":
            client.sadd(key, *value)
        else:
            client.zadd(key, dict(value))
    eventually(lambda: ledger.seconds_up() >= LEASE_SECONDS)
    return ledger


def recorded(part: str) -> dict[str, str]:
    """A hash of the batch, as it was recorded."""
    value: dict[str, str] = RECORDED["redis"][f"render:batch:spring:{part}"]["value"]
    return value


def ids() -> dict[int, str]:
    """Row -> id of the job that the row stands for now."""
    return {int(row): id_ for row, id_ in recorded("rows").items()}


def queued_jobs(ledger: Ledger) -> list[RenderJob]:
    """What workers would be handed, in this order."""
    texts: list[str] = [json.loads(json.loads(item)["body"])[0][0] for item in ledger.client.lrange("render", 0, -1)]
    return [RenderJob.from_json(text) for text in reversed(texts)]


def test_todays_ledger_reads_all_of_it(old: Ledger) -> None:
    (info,) = old.batches()
    assert (info.name, info.output, info.source) == ("spring", OUTPUT, "file:///srv/data/spring.csv")
    expected = Counts(queued=4, running=2, done=1, failed=1, cancelled=1, superseded=1)
    assert old.counts("spring") == expected
    lines = {line.id: line for line in old.states("spring")}
    assert {lines[ids()[row]].worker for row in (3, 4)} == {"gpu-1", "dead"}
    assert sorted((result.row, result.state, result.error_kind) for result in old.results("spring")) == [
        (1, "done", None),
        (2, "failed", "source_not_found"),
        (7, "cancelled", "cancelled"),
    ]
    assert old.workers()["gpu-1"].in_flight == (ids()[3],)
    assert old.jobs_in_flight() == {ids()[3]: "gpu-1"}
    assert set(old.kombu.delivered()) == {ids()[row] for row in (3, 4, 5)}
    assert set(old.kombu.queued_ids()) == {job.id for job in queued_jobs(old)}
    assert old.queue_length() == len(queued_jobs(old)) == 5  # rows 6, 8 and 9 in both versions, and row 7, cancelled


def test_the_same_rows_have_the_same_ids_seeds_and_messages_today(old: Ledger) -> None:
    rows = list(csv.DictReader(RECORDED["csv"].splitlines()))
    for number, row in enumerate(rows, start=1):
        cells = {name: cell for name, cell in row.items() if name and cell}
        if "://" not in cells["image"]:
            cells["image"] = f"file:///srv/data/{cells['image']}"
        parameters = RenderParameters.model_validate(cells)
        job = RenderJob.create(parameters, batch="spring", row=number, output=OUTPUT)
        assert job.id == ids()[number]
        if number != 1:  # done: the ledger has forgotten its parameters
            assert job.model_dump_json() == recorded("jobs")[job.id]


@pytest.mark.parametrize("row", [8, 9])
def test_a_message_is_the_same_to_the_byte_but_for_its_tag(row: int) -> None:
    id_ = ids()[row]
    (item,) = (item for item in RECORDED["redis"]["render"]["value"] if f'"correlation_id": "{id_}"' in item)
    tag = json.loads(item)["properties"]["delivery_tag"]
    ours = message_for(id_, recorded("jobs")[id_], queue="render")
    assert ours.replace(json.loads(ours)["properties"]["delivery_tag"], tag) == item


def test_a_heartbeat_is_written_as_it_was(old: Ledger) -> None:
    before = RECORDED["redis"]["render:worker:gpu-1"]["value"]
    old.beat("gpu-1", in_flight=[ids()[3]], lease_seconds=10)
    now = str(old.client.get("render:worker:gpu-1"))
    assert now.partition('"at":')[0] == before.partition('"at":')[0]


def test_submitting_the_old_file_again_queues_nothing(old: Ledger) -> None:
    jobs = [RenderJob.from_json(text) for text in recorded("jobs").values()]
    assert old.enqueue([job for job in jobs if job.id in ids().values()]).added == 0


def test_the_batch_is_finished_by_todays_workers(old: Ledger) -> None:
    assert reconcile(old, lease_seconds=LEASE_SECONDS, sleep=lambda _: None) == Reconciled(restored=2)
    assert old.client.hlen(UNACKED) == old.client.zcard(UNACKED_INDEX) == 1  # row 3's, with the live worker
    decisions = {}
    for job in queued_jobs(old):
        start = old.start(job, worker="new")
        decisions[job.row, job.id == ids()[job.row]] = (start.decision, start.attempts)
        if start.decision == "run":
            assert old.finish(make_result(job))
    assert decisions == {
        (4, True): ("run", 2),
        (5, True): ("run", 1),
        (6, True): ("run", 1),
        (7, True): ("cancelled", 0),
        (8, True): ("run", 1),
        (9, True): ("run", 1),
        (9, False): ("cancelled", 0),
    }
    running = RenderJob.from_json(recorded("jobs")[ids()[3]])
    assert old.start(running, worker="new").decision == "in_flight"
    assert old.finish(make_result(running))
    assert old.counts("spring") == Counts(done=7, failed=1, cancelled=1, superseded=1)
    assert old.retry("spring") == 2
    assert old.counts("spring") == Counts(queued=2, done=7, superseded=1)
    assert old.client.hlen(batch_key("spring", "jobs")) == 2


def test_a_ledger_that_was_lost_is_rebuilt_from_the_old_files(ledger: Ledger) -> None:
    store = MemoryStore()
    for name, data in RECORDED["files"].items():
        store.write(f"{OUTPUT}/{name}", base64.b64decode(data), "application/octet-stream")
    rebuilt = rebuild(ledger, "spring", output=OUTPUT, store=store, settle_seconds=0)
    # The URLs of rows 3 and 4 have a query, which may be a secret and is not kept. There are two parts of nine jobs,
    # because row 9 was corrected; its earlier version is not queued.
    assert rebuilt == Rebuilt(jobs=18, recovered=1, queued=6, withheld=4)
    assert ledger.counts("spring") == Counts(queued=6, done=1, superseded=1)
    assert {line.id for line in ledger.states("spring") if line.state != "superseded"} == {
        id_ for row, id_ in ids().items() if row not in (3, 4)
    }
