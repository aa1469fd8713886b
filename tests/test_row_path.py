"""The tool that lists the functions which a row passes."""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.job import job_id
from jobs.ledger.chunks import chunks
from tests.jobs.rows import make_job
from tools.row_path import MARK, Tracer, carries


def test_a_row_is_found_in_what_holds_it() -> None:
    job = make_job(prompt=MARK)
    assert all(map(carries, (MARK, MARK.encode(), job, [job], {"job": (job,)}, job.parameters)))
    assert not any(map(carries, (make_job(), "another", 7, None, RuntimeError(MARK), {"job": [make_job()]})))


def test_functions_that_take_or_return_a_row_are_noted_once(tmp_path: Path) -> None:
    job, other = make_job(prompt=MARK), make_job()
    before = sys.getprofile()
    sys.setprofile(Tracer(tmp_path / "names"))
    try:
        for each in (other, job, job):
            job_id(each.parameters, batch="b", row=1)
            list(chunks([each]))
    finally:
        sys.setprofile(before)
    names = (tmp_path / "names").read_text().splitlines()
    assert names == [
        "jobs/job.py job_id",
        "jobs/job.py RenderParameters._without_later_defaults",
        "jobs/ledger/chunks.py chunks",
    ]
