"""A ledger that was lost is made again from the manifest and the sidecars."""

from __future__ import annotations

import itertools

import pytest

from jobs.job import RenderJob
from jobs.ledger.keys import batch_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.rebuild import Rebuilt, rebuild
from jobs.ledger.records import Counts
from jobs.storage.memory import MemoryStore
from jobs.submission import SubmissionHead, SubmissionWriter
from tests.jobs.rows import enqueue, make_job, make_jobs, make_result

OUTPUT = "file:///out"


@pytest.fixture
def writer() -> MemoryStore:
    return MemoryStore()


def submitted(writer: MemoryStore, jobs: list[RenderJob], *, at: float = 1.0, source: str = "jobs.csv") -> None:
    """Leave in storage what a submission leaves."""
    noted = SubmissionWriter(writer, OUTPUT, SubmissionHead(batch="b", source=source, submitted_at=at))
    noted.add(jobs)
    noted.close()


def rendered(writer: MemoryStore, job: RenderJob) -> None:
    writer.write(job.sidecar_uri, make_result(job).model_dump_json().encode(), "application/json")


def run(ledger: Ledger, writer: MemoryStore) -> Rebuilt | None:
    return rebuild(ledger, "b", output=OUTPUT, store=writer, settle_seconds=0, sleep=lambda seconds: None)


def test_finished_jobs_are_done_and_the_others_are_queued(ledger: Ledger, writer: MemoryStore) -> None:
    jobs = make_jobs(5)
    submitted(writer, jobs)
    rendered(writer, jobs[1])
    rendered(writer, jobs[4])
    assert run(ledger, writer) == Rebuilt(jobs=5, recovered=2, queued=3)
    assert ledger.counts("b") == Counts(queued=3, done=2)
    assert ledger.queue_length() == 3
    assert {result.id for result in ledger.results("b")} == {jobs[1].id, jobs[4].id}
    info = ledger.batch("b")
    assert info is not None
    assert (info.output, info.source) == (OUTPUT, "jobs.csv")
    assert not ledger.is_rebuilding("b")


def test_rebuilding_twice_changes_nothing(ledger: Ledger, writer: MemoryStore) -> None:
    submitted(writer, make_jobs(3))
    run(ledger, writer)
    assert run(ledger, writer) == Rebuilt(jobs=3)
    assert (ledger.counts("b"), ledger.queue_length()) == (Counts(queued=3), 3)


def test_what_a_live_worker_holds_is_not_queued(ledger: Ledger, writer: MemoryStore) -> None:
    jobs = make_jobs(2)
    submitted(writer, jobs)
    ledger.beat("w", in_flight=[jobs[0].id], lease_seconds=10)
    assert run(ledger, writer) == Rebuilt(jobs=2, queued=1, held=1)
    assert ledger.counts("b") == Counts(queued=1, running=1)
    assert ledger.start(jobs[0], worker="w2").decision == "in_flight"
    assert ledger.finish(make_result(jobs[0]))


def test_what_the_ledger_knows_stays_as_it_is(ledger: Ledger, writer: MemoryStore) -> None:
    jobs = make_jobs(3)
    submitted(writer, jobs)
    enqueue(ledger, jobs[:2])
    ledger.finish(make_result(jobs[0], "failed"))
    assert run(ledger, writer) == Rebuilt(jobs=3, queued=1)
    assert ledger.counts("b") == Counts(queued=2, failed=1)


def test_storage_without_a_manifest_is_none_of_ours(ledger: Ledger, writer: MemoryStore) -> None:
    assert run(ledger, writer) is None
    assert ledger.batch("b") is None


def test_a_job_whose_url_is_a_secret_waits_for_its_csv(ledger: Ledger, writer: MemoryStore) -> None:
    secret = [make_job(row, image=f"https://example.org/{row}.png?signature=x") for row in (1, 2)]
    submitted(writer, [*secret, make_job(3)])
    rendered(writer, secret[0])
    assert run(ledger, writer) == Rebuilt(jobs=3, recovered=1, queued=1, withheld=1)
    assert ledger.counts("b") == Counts(queued=1, done=1)
    assert ledger.is_rebuilding("b")  # so that a submission goes on looking in storage


def test_a_damaged_part_does_not_keep_the_others_back(ledger: Ledger, writer: MemoryStore) -> None:
    submitted(writer, make_jobs(2))
    writer.objects["file:///out/b/manifest/bad.jsonl.gz"] = b"garbage"
    found = run(ledger, writer)
    assert found is not None
    assert (found.queued, len(found.damaged)) == (2, 1)
    assert ledger.is_rebuilding("b")


def test_a_sidecar_that_is_none_means_that_the_job_is_rendered_again(ledger: Ledger, writer: MemoryStore) -> None:
    jobs = make_jobs(2)
    submitted(writer, jobs)
    writer.objects[jobs[0].sidecar_uri] = b"{"
    writer.objects[jobs[1].sidecar_uri] = make_result(jobs[0]).model_dump_json().encode()
    assert run(ledger, writer) == Rebuilt(jobs=2, queued=2)


def test_a_corrected_row_is_queued_in_its_last_version_alone(ledger: Ledger, writer: MemoryStore) -> None:
    jobs = make_jobs(3)
    corrected = make_job(2, prompt="a better house")
    submitted(writer, [jobs[0], corrected, jobs[2]], at=2.0)
    submitted(writer, jobs, at=1.0)
    rendered(writer, jobs[0])
    run(ledger, writer)
    assert ledger.counts("b") == Counts(queued=2, done=1, superseded=1)
    assert ledger.start(jobs[1], worker="w").decision == "cancelled"
    assert ledger.start(corrected, worker="w").decision == "run"


def test_rows_of_another_file_are_rows_of_their_own(ledger: Ledger, writer: MemoryStore) -> None:
    submitted(writer, make_jobs(2), at=1.0)
    submitted(writer, [make_job(1, prompt="of another file")], at=2.0, source="more.csv")
    run(ledger, writer)
    assert ledger.counts("b") == Counts(queued=3)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_rows_of_two_files_that_share_a_job_keep_it_whichever_was_corrected(
    ledger: Ledger, writer: MemoryStore, order: tuple[int, ...]
) -> None:
    shared, corrected = make_job(4), make_job(4, prompt="corrected")
    parts = [(shared, "jobs.csv"), (corrected, "jobs.csv"), (shared, "more.csv")]
    for at, (job, source) in zip(order, parts, strict=True):
        submitted(writer, [job], at=float(at + 1), source=source)
    run(ledger, writer)
    info = ledger.batch("b")
    assert info is not None
    rows = [f"{info.row_prefix(source)}4" for source in ("jobs.csv", "more.csv")]
    last = corrected if order[1] > order[0] else shared
    assert ledger.current("b", rows) == [last.id, shared.id]
    assert ledger.counts("b") == (Counts(queued=2) if last is corrected else Counts(queued=1, superseded=1))
    assert run(ledger, writer) == Rebuilt(jobs=3)
    assert ledger.current("b", rows) == [last.id, shared.id]


def test_a_job_that_an_earlier_version_took_from_the_row_of_another_file_comes_back(
    ledger: Ledger, writer: MemoryStore
) -> None:
    shared, corrected = make_job(4), make_job(4, prompt="corrected")
    for at, (job, source) in enumerate([(shared, "jobs.csv"), (shared, "more.csv"), (corrected, "jobs.csv")]):
        submitted(writer, [job], at=float(at + 1), source=source)
    run(ledger, writer)
    ledger.client.hset(batch_key("b", "states"), shared.id, "superseded 0 queued")
    ledger.client.hincrby(batch_key("b", "counts"), "queued", -1)
    ledger.client.hincrby(batch_key("b", "counts"), "superseded", 1)
    run(ledger, writer)
    assert ledger.counts("b") == Counts(queued=2)


def test_the_model_that_a_row_asks_for_comes_back_with_its_result(ledger: Ledger, writer: MemoryStore) -> None:
    """Sidecars of an earlier version have it among the parameters only."""
    jobs = [make_job(1, model="ink"), make_job(2)]
    submitted(writer, jobs)
    for job in jobs:
        rendered(writer, job)
    assert run(ledger, writer) == Rebuilt(jobs=2, recovered=2, queued=0)
    assert {result.row: result.model for result in ledger.results("b")} == {1: "ink", 2: None}


V1 = make_job(1)
V2 = make_job(1, prompt="a better house")
SECRET = make_job(1, image="https://example.org/1.png?signature=x")


def current(ledger: Ledger) -> str | None:
    (id_,) = ledger.current("b", ["1"])
    return id_


@pytest.mark.parametrize("last", [V2, SECRET])
@pytest.mark.parametrize("state", ["queued", "running", "done", "failed", "cancelled"])
def test_a_corrected_row_that_the_ledger_knows_stays_as_it_is(
    ledger: Ledger, writer: MemoryStore, last: RenderJob, state: str
) -> None:
    submitted(writer, [V1], at=1.0)
    submitted(writer, [last], at=2.0)
    enqueue(ledger, [V1])
    enqueue(ledger, [last])
    if state == "running":
        ledger.start(last, worker="w")
    elif state != "queued":
        ledger.finish(make_result(last, state))
    before = {line.id: line.text for line in ledger.states("b")}
    assert run(ledger, writer) == Rebuilt(jobs=2)
    assert {line.id: line.text for line in ledger.states("b")} == before
    assert (current(ledger), ledger.cancels("b"), ledger.queue_length()) == (last.id, set(), 2)


def test_an_earlier_version_that_the_ledger_lost_comes_back_as_superseded(ledger: Ledger, writer: MemoryStore) -> None:
    rows = [make_job(row) for row in (1, 2, 3)]
    corrected = [make_job(row, prompt="a better house") for row in (1, 2, 3)]
    submitted(writer, rows, at=1.0)
    submitted(writer, corrected, at=2.0)
    rendered(writer, rows[1])
    ledger.beat("w", in_flight=[rows[2].id], lease_seconds=10)
    enqueue(ledger, corrected)  # of the corrected file alone, after Redis had lost its data
    assert run(ledger, writer) == Rebuilt(jobs=6, recovered=1, held=1)
    assert ledger.counts("b") == Counts(queued=3, running=1, superseded=2)
    assert ledger.cancels("b") == {rows[2].id}
    assert [result.id for result in ledger.results("b", superseded=True)] == [rows[1].id]
    assert ledger.current("b", ["1", "2", "3"]) == [job.id for job in corrected]
    assert ledger.queue_length() == 3


def test_a_correction_that_the_ledger_lost_supersedes_what_it_knows(ledger: Ledger, writer: MemoryStore) -> None:
    """Redis may come back with the data of some minutes ago."""
    submitted(writer, [V1], at=1.0)
    submitted(writer, [V2], at=2.0)
    enqueue(ledger, [V1])
    assert run(ledger, writer) == Rebuilt(jobs=2, queued=1)
    assert (current(ledger), ledger.counts("b")) == (V2.id, Counts(queued=1, superseded=1))


def test_a_version_that_no_manifest_has_stays_the_current_one(ledger: Ledger, writer: MemoryStore) -> None:
    submitted(writer, [V1], at=1.0)
    enqueue(ledger, [V2])
    assert run(ledger, writer) == Rebuilt(jobs=1)
    assert (current(ledger), ledger.counts("b")) == (V2.id, Counts(queued=1, superseded=1))


def test_a_correction_that_was_taken_back_stays_so(ledger: Ledger, writer: MemoryStore) -> None:
    submitted(writer, [V1, make_job(2)], at=1.0)
    submitted(writer, [V2, make_job(2)], at=2.0)
    submitted(writer, [V1, make_job(2, prompt="a better house")], at=3.0)
    assert run(ledger, writer) == Rebuilt(jobs=6, queued=2)
    assert (current(ledger), ledger.counts("b")) == (V1.id, Counts(queued=2, superseded=2))
    assert run(ledger, writer) == Rebuilt(jobs=6)
    assert (current(ledger), ledger.counts("b")) == (V1.id, Counts(queued=2, superseded=2))


def test_what_a_worker_finished_before_the_rebuild_is_its_rows_version(ledger: Ledger, writer: MemoryStore) -> None:
    submitted(writer, [V1], at=1.0)
    submitted(writer, [V2], at=2.0)
    ledger.finish(make_result(V2))  # the ledger knows the job, and no row
    run(ledger, writer)
    assert (current(ledger), ledger.counts("b")) == (V2.id, Counts(done=1, superseded=1))


def test_an_earlier_version_stands_in_until_the_csv_brings_the_secret(ledger: Ledger, writer: MemoryStore) -> None:
    submitted(writer, [V1], at=1.0)
    submitted(writer, [SECRET], at=2.0)
    assert run(ledger, writer) == Rebuilt(jobs=2, queued=1, withheld=1)
    assert current(ledger) == V1.id
    enqueue(ledger, [SECRET])
    assert run(ledger, writer) == Rebuilt(jobs=2)
    assert (current(ledger), ledger.counts("b")) == (SECRET.id, Counts(queued=1, superseded=1))
