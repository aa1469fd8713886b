"""Structured logs on stderr or in a file, one event a line, without secrets: those of Celery and kombu as well."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from jobs.redaction import without_secrets
from jobs.settings import Settings

__all__ = ["configure", "without_secrets"]

STDERR = 2

# At INFO these log every job with its arguments, which our own lines do better.
_TALKATIVE = ("celery", "kombu", "amqp", "botocore", "boto3", "urllib3", "s3transfer")


def configure(settings: Settings, *, level: str | None = None, file: str | Path | None = None) -> None:
    """Route structlog and the standard library's logging to a file, or to stderr. Called once, by Celery's signal.

    `level` overrides RENDER_LOG_LEVEL. Where stderr is /dev/null, as in a process that has left its terminal, the file
    also takes what the process itself and its libraries in C write there.
    """
    level = settings.log_level if level is None else level
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # loggers made at import get this configuration when first used
    )
    handler = logging.StreamHandler(sys.stderr) if file is None else LogFile(file)
    handler.setLevel(level)  # also for the loggers below, whose own levels come before the root's
    handler.setFormatter(_formatter(settings, shared, colors=file is None and sys.stderr.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel("DEBUG" if level == "DEBUG" else "WARNING")
    # It reports every job that is requeued (Reject) as a warning with a traceback.
    logging.getLogger("celery.app.trace").setLevel("DEBUG" if level == "DEBUG" else "ERROR")


class LogFile(WatchedFileHandler):
    """A log file that is opened again when it has been moved away, and that never costs a job.

    A line that cannot be written to it goes to stderr.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        if self.stream is not None and _is_null(STDERR):
            os.dup2(self.stream.fileno(), STDERR)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. Opening the file again may fail in ways that the base class does not catch."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Called where a line could not be written, on a full disk for instance."""
        with suppress(Exception):
            os.write(STDERR, f"{self.format(record)}\n".encode(errors="backslashreplace"))


def _is_null(descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), Path(os.devnull).stat())
    except OSError:  # closed
        return False


def _formatter(settings: Settings, shared: list[Processor], *, colors: bool) -> logging.Formatter:
    render: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=colors)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(allow=()), *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
    )


def _redact(_: Any, __: str, event: EventDict) -> EventDict:
    return {key: _cleaned(value) if not key.startswith("_") else value for key, value in event.items()}


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, int | float | bool | None):
        return value
    if isinstance(value, dict):
        return {key: _cleaned(part) for key, part in value.items()}
    return without_secrets(str(value))
