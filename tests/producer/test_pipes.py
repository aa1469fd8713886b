"""`producer submit <(...)`: a CSV that can be read only once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from tests.producer.conftest import Run
from tests.producer.tables import write

GOOD = "image,prompt,seed\na.png,a cat,1\nb.png,a dog,2\nc.png,a bird,3\n"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60)


@contextmanager
def pipe(text: str | bytes) -> Iterator[str]:
    """An anonymous pipe by the name that bash gives it; a thread writes a CSV into it."""
    reading, writing = os.pipe()
    data = text if isinstance(text, bytes) else text.encode()

    def fill() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield f"/dev/fd/{reading}"
    finally:
        while os.read(reading, 2**16):  # what the command left unread
            pass
        os.close(reading)
        thread.join()


def test_a_process_substitution_of_bash_is_submitted(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    command = f"{sys.executable} -m producer submit <(cat jobs.csv) --batch nightly"
    ended = shell(command, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ledger.counts("nightly") == Counts(queued=3)
    images = {job.parameters.image for line in ledger.states("nightly") if (job := ledger.job("nightly", line.id))}
    assert images == {(tmp_path / name).as_uri() for name in ("a.png", "b.png", "c.png")}


def test_a_pipe_larger_than_its_buffer_is_read_whole(run: Run, ledger: Ledger) -> None:
    rows = 5_000
    with pipe("image,prompt\n" + "".join(f"{row}.png,thing {row}\n" for row in range(rows))) as name:
        ran = run("submit", name, "--batch", "nightly")
    assert (ran.code, ran.record["rows"], ran.record["enqueued"], ran.record["source"]) == (0, rows, rows, name)
    assert ledger.counts("nightly").queued == rows


def test_a_named_pipe_is_submitted(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    fifo = tmp_path / "rows"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_text, args=(GOOD,), daemon=True)  # waits for ever without a reader
    writer.start()
    ran = run("submit", fifo, "--batch", "nightly")
    assert (ran.code, ran.record["enqueued"]) == (0, 3)
    info = ledger.batch("nightly")
    assert info is not None
    assert info.source == "stdin"


def test_a_pipe_needs_a_batch_name(run: Run, ledger: Ledger) -> None:
    with pipe(GOOD) as name:
        ran = run("submit", name)
    assert (ran.code, ledger.batches()) == (2, [])
    assert f"name the batch with --batch when the CSV comes from a pipe ({name})" in ran.stderr
    assert f"producer submit {name} --batch nightly" in ran.stderr


@pytest.mark.parametrize(
    ("name", "redirection"), [("/dev/stdin", "< jobs.csv"), ("/dev/fd/0", "< <(cat jobs.csv)"), ("-", "< jobs.csv")]
)
def test_standard_input_is_spooled_by_any_name(
    run: Run, ledger: Ledger, tmp_path: Path, name: str, redirection: str
) -> None:
    write(tmp_path, GOOD)
    for expected in (3, 0):  # the second time, all rows are there
        ended = shell(f"{sys.executable} -m producer submit {name} --batch nightly {redirection}", tmp_path)
        assert (ended.returncode, json.loads(ended.stdout)["enqueued"]) == (0, expected), ended.stderr
    info = ledger.batch("nightly")
    assert info is not None
    assert info.source == "stdin"


def test_a_socket_as_standard_input_is_read(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    """Some shells and services give one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(GOOD.encode())
        theirs.shutdown(socket.SHUT_WR)
        command = [sys.executable, "-m", "producer", "submit", "/dev/stdin", "--batch", "nightly"]
        ended = subprocess.run(command, cwd=tmp_path, stdin=ours.fileno(), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ledger.counts("nightly").queued) == (0, 3), ended.stderr


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/9"])
def test_a_closed_standard_input_is_a_sentence(run: Run, tmp_path: Path, name: str) -> None:
    ended = shell(f"{sys.executable} -m producer submit {name} --batch nightly <&- 9<&-", tmp_path)
    assert ended.returncode == 5
    assert "is closed; give it a CSV, or name a file" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_empty_device_is_an_empty_file(run: Run) -> None:
    ran = run("submit", "/dev/null", "--batch", "nightly")
    assert ran.code == 3
    assert "/dev/null:1: the file is empty; its first line must name the columns" in ran.stderr


def test_an_endless_device_does_not_fill_the_disk(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.stream.LONGEST_LINE_BYTES", 2**22)
    ran = run("submit", "/dev/zero", "--batch", "nightly")
    assert ran.code == 3
    assert "/dev/zero:1: the line is longer than 1,048,576 characters" in ran.stderr


def test_a_stream_joins_a_batch_that_an_earlier_version_began_from_it(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    """They called `<(...)` "pipe", and a named pipe by its path."""
    ledger.open_batch("nightly", output=(tmp_path / "renders").as_uri(), source="pipe")
    with pipe(GOOD) as name:
        assert run("submit", name, "--batch", "nightly").record["enqueued"] == 3
    with pipe(GOOD.replace("a dog", "a big dog")) as name:
        ran = run("submit", name, "--batch", "nightly")
    assert (ran.record["replaced"], "was begun from" in ran.stderr) == (1, False)


def test_another_pipe_with_the_same_rows_adds_only_what_is_new(run: Run, ledger: Ledger) -> None:
    with pipe(GOOD) as first, pipe(GOOD.replace("a dog", "a big dog")) as second:
        assert first != second
        run("submit", first, "--batch", "nightly")
        record = run("submit", second, "--batch", "nightly").record
    assert (record["enqueued"], record["replaced"], record["already"]["queued"]) == (1, 1, 2)


def test_mistakes_in_a_pipe_keep_everything_back(run: Run, ledger: Ledger) -> None:
    with pipe(GOOD.replace("dog,2", "dog,two")) as name:
        ran = run("submit", name, "--batch", "nightly")
    assert (ran.code, ledger.batches()) == (3, [])
    assert f"{name}:3: seed: 'two' is not a whole number" in ran.stderr


def test_rows_of_a_pipe_that_are_left_out_are_written_to_the_current_folder(run: Run, tmp_path: Path) -> None:
    with pipe(GOOD.replace("dog,2", "dog,two")) as name:
        ran = run("submit", name, "--batch", "nightly", "--skip-invalid")
    assert (ran.code, ran.record["enqueued"], ran.record["rejected_file"]) == (0, 2, "nightly.rejected.csv")
    assert "b.png,a dog,two" in (tmp_path / "nightly.rejected.csv").read_text()


@pytest.mark.parametrize("rows_before", [0, 20_000])
def test_a_wrong_byte_in_a_pipe_is_named_with_its_line(run: Run, rows_before: int) -> None:
    with pipe(b"image,prompt\n" + b"a.png,x\n" * rows_before + "b.png,ein Café\n".encode("cp1252")) as name:
        ran = run("submit", name, "--batch", "nightly")
    assert ran.code == 3
    assert f"{name}:{rows_before + 2}: byte 0xE9 is not UTF-8; as Windows-1252 the text would be" in ran.stderr
