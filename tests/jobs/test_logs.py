from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable

import pytest
import structlog

from jobs import logs
from jobs.settings import load_settings


def lines_of(speak: Callable[[], object]) -> list[str]:
    """What a configured process writes while `speak` runs."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    try:
        with contextlib.redirect_stderr(stream):
            logs.configure(load_settings(log_level="INFO", log_format="json"))
        speak()
    finally:
        root.handlers, root.level = before
        structlog.reset_defaults()
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("redis://user:hunter2@redis:6379/0 refused", "hunter2"),
        ("rediss://:hunter2@redis:6379/0", "hunter2"),
        ("GET https://b.s3.amazonaws.com/k?X-Amz-Signature=deadbeef&x=1", "deadbeef"),
        ("X-Amz-Credential=hunter2%2F2026", "hunter2"),
        ("key AKIAIOSFODNN7EXAMPLE is wrong", "AKIAIOSFODNN7EXAMPLE"),
        ("{'password': 'hunter2', 'port': 1}", "hunter2"),
        ('{"aws_secret_access_key": "hunter2"}', "hunter2"),
        ("https://host/p.png?token=hunter2", "hunter2"),
        ("sig=hunter2", "hunter2"),
        ("redis://user:p@hunter2@redis:6379/0", "hunter2"),
        ("GET https://h/k?any='hunter2'&b=1", "hunter2"),
        ("https://h/k#any=hunter2", "hunter2"),
        ("GET /k?X-Goog-Signature=hunter2 HTTP/1.1", "hunter2"),
        ("Authorization: Basic hunter2==", "hunter2"),
        ("{'Authorization': b'AWS4-HMAC-SHA256 Credential=a, Signature=hunter2'}", "hunter2"),
        ("{'X-Amz-Security-Token': b'hunter2'}", "hunter2"),
        (r"{\"image\": \"https://u:hunter2@h/a.png?hunter2\", \"prompt\": \"p\"}", "hunter2"),
    ],
)
def test_what_looks_like_a_secret_is_replaced(text: str, secret: str) -> None:
    assert secret not in logs.without_secrets(text)
    assert "***" in logs.without_secrets(text)


@pytest.mark.parametrize(
    "text", ["an email a@b.c", "s3://bucket/key.png", "tokens were cut at 77", "design=3", "http://h/a?…: only"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert logs.without_secrets(text) == text


def test_our_lines_and_other_libraries_lines_are_json_without_secrets() -> None:
    def speak() -> None:
        structlog.get_logger("worker.x").info("fetched", uri="https://u:hunter2@h/", bytes=3)
        logging.getLogger("somebody").warning("cannot reach %s", "redis://:hunter2@h")

    ours, theirs = (json.loads(line) for line in lines_of(speak))
    assert (ours["event"], ours["level"], ours["uri"], ours["bytes"]) == ("fetched", "info", "https://***@h/", 3)
    assert (theirs["event"], theirs["level"]) == ("cannot reach redis://***@h", "warning")


def test_tracebacks_are_kept_and_cleaned() -> None:
    def speak() -> None:
        try:
            raise ValueError("redis://:hunter2@h")
        except ValueError:
            structlog.get_logger("worker.x").exception("broke")

    (line,) = lines_of(speak)
    assert "ValueError" in json.loads(line)["exception"]
    assert "hunter2" not in json.dumps(json.loads(line)["exception"].splitlines()[-1])


def test_celery_says_nothing_about_single_jobs() -> None:
    def speak() -> None:
        logging.getLogger("celery.worker.strategy").info("Task render received")
        logging.getLogger("celery.app.trace").warning("Task render rejected")

    assert lines_of(speak) == []
