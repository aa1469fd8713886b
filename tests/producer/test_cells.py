"""No cell aborts a submission: every bad row is named, and with --skip-invalid all others are enqueued."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from tests.producer.conftest import Run
from tests.producer.tables import write

BAD_CELLS = [
    b"a photo of a cat " * 30,
    b"x/" * 3000,
    b"loop.png",
    b"jobs.csv/a.png",
    b"folder",
    b"a\0b.png",
    b"file:///a%00b.png",
    b"caf\xe9-away.png",
    b"~nobody-of-that-name/a.png",
    b"data:image/png;base64," + b"A" * 200_000,
    b"data:image/png;base64," + b"A" * 3_000_000,
    b"file:/x.png",
    b"s3:/x.png",
    b"s3://bucket",
    b"s3://",
    b"http://h:99999/a.png",
    b"http://u:hunter2@h:abc/a.png",
    b"http://[",
    b"mailto:me@example.org",
    b"ftp://me:hunter2@h/a.png",
    rb"C:\x.png",
    rb"\\server\x.png",
    b"//host/x.png",
    b'"a.png"b',
    b"https://h/" + b"x" * 5000 + b"?sig=hunter2",
]
FIRST_LINE = 3  # of the bad rows


@pytest.fixture
def bad_file(tmp_path: Path) -> Path:
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder").mkdir()
    rows = [b"image,prompt", b"a.png,x", *(cell + b",x" for cell in BAD_CELLS), b"b.png,x", b"HTTP://H/c.png,x"]
    return write(tmp_path, b"\n".join(rows) + b"\n")


def jobs_of(ledger: Ledger, batch: str) -> dict[int, RenderJob]:
    found = (ledger.job(batch, line.id) for line in ledger.states(batch))
    return {job.row: job for job in found if job is not None}


def test_every_bad_cell_is_named_with_its_line(run: Run, ledger: Ledger, bad_file: Path, tmp_path: Path) -> None:
    ran = run("submit", bad_file)
    assert (ran.code, ran.record["rows"], ran.record["rejected"]) == (3, len(BAD_CELLS) + 3, len(BAD_CELLS))
    assert [problem["line"] for problem in ran.record["problems"]] == list(range(FIRST_LINE, FIRST_LINE + 20))
    assert ledger.batches() == []
    assert "hunter2" not in ran.stderr + ran.stdout
    assert max(map(len, ran.stderr.splitlines())) < 500


def test_the_other_rows_are_enqueued_under_their_own_numbers(
    run: Run, ledger: Ledger, bad_file: Path, tmp_path: Path
) -> None:
    ran = run("submit", bad_file, "--skip-invalid")
    assert (ran.code, ran.record["enqueued"], ran.record["rejected"]) == (0, 3, len(BAD_CELLS))
    assert sorted(jobs_of(ledger, "jobs")) == [1, len(BAD_CELLS) + 2, len(BAD_CELLS) + 3]
    with (tmp_path / "jobs.rejected.csv").open(newline="", errors="surrogateescape") as file:
        lines = [row[0] for row in csv.reader(file)]
    assert lines[1:] == [str(line) for line in range(FIRST_LINE, FIRST_LINE + len(BAD_CELLS))]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("", "the text is empty"),
        (" ", "the text is empty"),
        ("s3://", "names no bucket"),
        ("s3:/b", "write 's3://b'"),
        ("http://u:hunter2@h/x", "results cannot be written to 'http://…@h/x'; use a folder, file:// or s3://"),
        ("mailto:me@example.org", "is a mailto: URI"),
        ("ftp://h/x", "has the scheme 'ftp'"),
        (r"C:\renders", "is a path of Windows"),
        ("//host/renders", "a URI lacks its scheme"),
        ("x" * 300, "a name has at most 255 bytes, and this one has 300; choose a shorter one"),
        ("data:x", "is a data: URI, which workers do not write to; use a path"),
        ("about:blank", "'about:blank' is an about: URI"),
        ("gs://b", "has the scheme 'gs'; use a path, file://, s3://\n"),
        ("http:/h", "has the scheme 'http'; use a path, file://, s3://\n"),
        ("s3:/", "write s3://bucket/key"),
        ("/etc/passwd/x/y", "/etc/passwd is a file; name a folder"),
        ("file:///dev/null/x", "/dev/null is not a folder; name a folder"),
    ],
)
@pytest.mark.parametrize("command", [("submit", "jobs.csv"), ("reconcile", "jobs")])
def test_an_output_that_is_no_place_is_a_sentence(
    run: Run, tmp_path: Path, command: tuple[str, str], output: str, said: str
) -> None:
    write(tmp_path, "image,prompt\na.png,x\n")
    ran = run(*command, "--output", output)
    assert ran.code == 2
    assert ran.stderr.startswith("--output: ")
    assert said in ran.stderr
    assert "hunter2" not in ran.stderr


def test_schemes_of_any_case_are_those_in_lower_case(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, f"image,prompt\nHTTP://H/a.png,x\nS3://B/a.png,x\nFILE://{tmp_path}/a.png,x\n")
    assert run("submit", "jobs.csv", "--output", "S3://bucket/x", "--dry-run").code == 0
    assert run("submit", "jobs.csv", "--output", f"FILE://{tmp_path}/out").record["enqueued"] == 3
    images = [job.parameters.image for _, job in sorted(jobs_of(ledger, "jobs").items())]
    assert images == ["http://H/a.png", "s3://B/a.png", (tmp_path / "a.png").as_uri()]


def test_names_that_are_not_utf_8_are_submitted_shown_and_recorded(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    """The CSV's own name, its folder's, a picture's in a row, and the output's."""
    folder = tmp_path / os.fsdecode(b"f\xe9")
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.png")).touch()
    name = os.fsdecode(b"\xff.csv")
    write(folder, b"image,prompt,seed\ncaf\xe9.png,x,1\nb.png,x,2\nfile://d%FF.png,x,3\nb.png,x,none\n", name)
    command = [sys.executable, "-m", "producer", "submit", name, "--skip-invalid", "--output", os.fsdecode(b"o\xff")]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    record = json.loads(ended.stdout)
    assert (record["source"], record["enqueued"], record["rejected"], record["manifest_files"]) == (name, 3, 1, 1)
    assert "\N{REPLACEMENT CHARACTER}.csv:5: seed: 'none'" in ended.stderr
    assert (folder / record["rejected_file"]).exists()
    jobs = jobs_of(ledger, record["batch"])
    base = tmp_path.as_uri() + "/f%E9"
    assert [jobs[row].parameters.image for row in (1, 2, 3)] == [
        f"{base}/caf%E9.png",
        f"{base}/b.png",
        f"{base}/d%FF.png",
    ]
    ledger.client.flushall()
    assert run("reconcile", record["batch"], "--output", folder / os.fsdecode(b"o\xff")).code == 0
    assert jobs_of(ledger, record["batch"]) == jobs
    assert run("status", record["batch"]).code == run("status", record["batch"], "--json").code == 0
    assert run("gallery", record["batch"], "--out", folder / "gallery").code == 0


def test_bytes_that_are_not_utf_8_are_a_bad_row_unless_a_picture_is_called_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    write(tmp_path, b"image,prompt\ncaf\xe9.png,x\ncaf\xe8.png,x\ncaf\xe9.png,caf\xe9\n")
    ran = run("submit", "jobs.csv")
    assert (ran.code, [problem["line"] for problem in ran.record["problems"]]) == (3, [3, 4])
    assert "byte 0xE8 is not UTF-8" in ran.stderr


SIGNED = "https://user:s3cret@host/a.png?sig=s3cret"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jobs.csv", f"{SIGNED},a cat\n{SIGNED},a dog\n".encode()),  # no header
        ("jobs.csv", f"image,prompt,{SIGNED}\na.png,x,1\n".encode()),
        ("jobs.csv", f"image,prompt,seed\na.png,x,{SIGNED}\n".encode()),  # cells in each other's places
        ("jobs.csv", f"image,prompt\n{SIGNED},caf\xe9\n".encode("latin-1")),
        ("jobs.jsonl", f'{{"image": "{SIGNED}" "prompt": "x"}}\n'.encode()),
        ("jobs.jsonl", f'{{"image": "{SIGNED.replace("/", chr(92) + "/")}" "prompt": "x"}}\n'.encode()),
        ("jobs.jsonl", f'{{"image": "a.png", "prompt": "x", "{SIGNED}": 1, "scale": "{SIGNED}"}}\n'.encode()),
    ],
)
def test_a_url_s_secret_is_not_shown_wherever_it_stands(run: Run, tmp_path: Path, name: str, text: bytes) -> None:
    (tmp_path / name).write_bytes(text)
    ran = run("submit", name)
    assert ran.code == 3
    assert "s3cret" not in ran.stderr + ran.stdout
