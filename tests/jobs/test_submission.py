"""The manifest: every job is in it, in parts, without secrets; what is damaged is named."""

from __future__ import annotations

import gzip

import pytest

from jobs import submission as manifest
from jobs.errors import InvalidJob, OutputForbidden, OutputUnavailable
from jobs.job import RenderJob
from jobs.storage.memory import MemoryStore
from jobs.submission import SubmissionHead, SubmissionWriter, jobs_of, part_uris, read_head
from tests.jobs.rows import make_job, make_jobs

OUTPUT = "file:///out"
HEAD = SubmissionHead(batch="b", source="file:///jobs.csv", submitted_at=5.0)


def written(jobs: list[RenderJob], writer: MemoryStore | None = None) -> MemoryStore:
    writer = writer or MemoryStore()
    noted = SubmissionWriter(writer, OUTPUT, HEAD)
    noted.add(jobs)
    noted.close()
    return writer


def read(writer: MemoryStore) -> list[tuple[RenderJob, bool]]:
    uris = part_uris(writer, OUTPUT, "b")
    found = [found for uri in uris for found in jobs_of(writer, read_head(writer, uri), output=OUTPUT)]
    return sorted(found, key=lambda found: found[0].row)


def test_what_was_submitted_is_read_back_with_its_ids_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "PART_JOBS", 3)
    jobs = [*make_jobs(6), make_job(7, prompt="línea\nwith a break", seed=3, scale=1.5)]
    writer = written(jobs)
    assert len(part_uris(writer, OUTPUT, "b")) == 3
    assert all(uri.startswith("file:///out/b/manifest/") for uri in writer.objects)
    assert read(writer) == [(job, False) for job in jobs]


def test_the_same_jobs_are_the_same_parts() -> None:
    writer = written(make_jobs(3))
    names = set(writer.objects)
    assert set(written(make_jobs(3), writer).objects) == names
    assert len(written(make_jobs(4), writer).objects) == 2


def test_a_file_with_the_same_rows_does_not_overwrite_the_parts_of_the_first() -> None:
    writer = written(make_jobs(3))
    noted = SubmissionWriter(writer, OUTPUT, HEAD.model_copy(update={"source": "file:///copy.csv"}))
    noted.add(make_jobs(3))
    noted.close()
    sources = {read_head(writer, uri).head.source for uri in part_uris(writer, OUTPUT, "b")}
    assert sources == {"file:///jobs.csv", "file:///copy.csv"}


def test_a_batch_without_a_manifest_has_no_parts() -> None:
    assert part_uris(MemoryStore(), OUTPUT, "b") == []


def test_nothing_submitted_writes_nothing() -> None:
    assert written([]).objects == {}


def test_secrets_of_urls_are_not_kept_and_the_job_is_still_known() -> None:
    job = make_job(image="https://me:password@example.org/a.png?signature=abc")
    writer = written([job])
    (data,) = writer.objects.values()
    text = gzip.decompress(data).decode()
    assert "password" not in text
    assert "abc" not in text
    ((found, secret),) = read(writer)
    assert (found.id, found.row, secret) == (job.id, 1, True)


def test_secrets_of_control_images_are_not_kept_either() -> None:
    job = make_job(control_image="https://example.org/a.png?signature=abc", control="none")
    writer = written([job])
    (data,) = writer.objects.values()
    assert "abc" not in gzip.decompress(data).decode()
    ((found, secret),) = read(writer)
    assert (found.id, found.parameters.control, secret) == (job.id, "none", True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"garbage",
        lambda data: data[: len(data) // 2],
        lambda data: gzip.compress(b"{}\n"),
        lambda data: gzip.compress(gzip.decompress(data).replace(b"house", b"mouse")),
        lambda data: gzip.compress(gzip.decompress(data) + b"\xff\n"),
    ],
)
def test_a_damaged_part_is_named(damage: object) -> None:
    writer = written(make_jobs(2))
    ((uri, data),) = writer.objects.items()
    writer.objects[uri] = damage(data)  # type: ignore[operator]
    with pytest.raises(InvalidJob, match=r"manifest file:///out/b/manifest/\w+\.jsonl\.gz is damaged"):
        read(writer)


def test_a_damaged_part_asks_for_the_csv_with_its_options() -> None:
    writer = written(make_jobs(1))
    (uri,) = writer.objects
    writer.objects[uri] = b""
    with pytest.raises(
        InvalidJob,
        match=r"with the same options, if it had any\)$",
    ):
        read(writer)


class Flaky(MemoryStore):
    """Fails as often as told, then writes."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    def write(self, uri: str, data: bytes, content_type: str) -> None:
        if self.errors:
            raise self.errors.pop(0)
        super().write(uri, data, content_type)


def test_a_part_that_cannot_be_written_for_now_is_tried_again() -> None:
    store, pauses = Flaky(OutputUnavailable("1"), OutputUnavailable("2")), list[float]()
    submission = SubmissionWriter(store, OUTPUT, HEAD, sleep=pauses.append)
    submission.add(make_jobs(2))
    submission.close()
    assert (len(read(store)), submission.parts, len(pauses)) == (2, 1, 2)


@pytest.mark.parametrize("errors", [[OutputUnavailable(str(n)) for n in range(9)], [OutputForbidden("no")]])
def test_a_part_that_cannot_be_written_is_told_after_some_tries(errors: list[Exception]) -> None:
    submission = SubmissionWriter(Flaky(*errors), OUTPUT, HEAD, sleep=lambda _: None)
    submission.add(make_jobs(2))
    with pytest.raises(type(errors[0])):
        submission.close()
    assert submission.parts == 0


def test_a_job_that_is_kept_to_an_engine_set_is_so_in_the_manifest_and_others_look_as_before() -> None:
    free = make_job()
    kept = RenderJob.create(free.parameters, batch="b", row=2, output=OUTPUT, engine_set="5ccee6ac")
    secret = make_job(3, image="https://example.org/a.png?signature=abc")
    secret = RenderJob.create(secret.parameters, batch="b", row=3, output=OUTPUT, engine_set="5ccee6ac")
    writer = written([free, kept, secret])
    (data,) = writer.objects.values()
    lines = gzip.decompress(data).decode().splitlines()
    assert ["engine_set" in line for line in lines] == [False, False, True, True]
    found = read(writer)
    assert [job for job, _ in found[:2]] == [free, kept]
    assert (found[2][0].id, found[2][0].engine_set, found[2][1]) == (secret.id, "5ccee6ac", True)
