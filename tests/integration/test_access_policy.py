"""The access policy of a real worker: a stranger who can write to the queue reads and writes nothing else."""

from __future__ import annotations

from pathlib import Path

from jobs.ledger.message import celery_message
from tests.eventually import eventually
from tests.integration.conftest import Site
from tests.jobs.rows import make_job


def test_strangers_messages_read_and_write_nothing_outside_the_allowed_folders(site: Site, tmp_path: Path) -> None:
    away = tmp_path / "away"
    allowed = tmp_path / "allowed"
    for folder in (away, allowed):
        folder.mkdir()
    (allowed / "link.png").symlink_to("/etc/passwd")
    out = (tmp_path / "out").as_uri()
    (allowed / "a.png").write_bytes(b"picture")
    good = make_job(1, image=(allowed / "a.png").as_uri(), output=out)
    reads = [
        make_job(row, image=image, output=out)
        for row, image in enumerate(
            ["file:///etc/passwd", (allowed / "link.png").as_uri(), f"file://{allowed}/../picture.png"], start=2
        )
    ]
    writes = [make_job(6, image=good.parameters.image, output=away.as_uri())]
    worker = site.start(allow_folders=allowed, output_uri=tmp_path / "out")
    for job in (*reads, *writes, good):
        site.ledger.client.lpush("render", celery_message(job, queue="render"))
    eventually(lambda: site.ledger.counts("b").finished == 5)
    assert site.ledger.counts("b").done == 1
    results = {result.id: result for result in site.ledger.results("b")}
    for job in reads:
        assert results[job.id].error_kind == "source_forbidden"
        assert "RENDER_ALLOW_FOLDERS" in (results[job.id].error or "")
    for job in writes:
        assert results[job.id].error_kind == "output_forbidden"
        assert "RENDER_OUTPUT_URI" in (results[job.id].error or "")
    assert list(away.iterdir()) == []
    assert worker.alive
