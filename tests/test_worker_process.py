"""What is read from a log while it is written."""

from __future__ import annotations

from pathlib import Path

from tools.worker_process import log_events


def test_a_half_written_line_counts_only_once_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    assert list(log_events(log)) == []  # the worker has not made the file yet
    log.write_bytes(b'celery banner\n{"event": "one"}\n{"event": "tw')
    assert list(log_events(log)) == [{"event": "one"}]
    with log.open("ab") as file:
        file.write(b'o"}\n')
    assert list(log_events(log)) == [{"event": "one"}, {"event": "two"}]


def test_a_line_cut_in_the_middle_of_a_character_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_bytes('{"event": "é"}\n{"event": "é'.encode()[:-1])
    assert list(log_events(log)) == [{"event": "é"}]
