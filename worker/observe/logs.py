"""Structured logs on stderr, one event a line, without secrets: Celery's and kombu's as well as our own."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from jobs.redaction import without_secrets
from jobs.settings import Settings

__all__ = ["configure", "without_secrets"]

# At INFO these log every job with its arguments, which our own lines do better.
_TALKATIVE = ("celery", "kombu", "amqp", "botocore", "boto3", "urllib3", "s3transfer")


def configure(settings: Settings) -> None:
    """Route structlog and the standard library's logging to stderr. Called once a process, by Celery's signal."""
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings, shared))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel("DEBUG" if settings.log_level == "DEBUG" else "WARNING")
    # It reports every job that is requeued (Reject) as a warning with a traceback.
    logging.getLogger("celery.app.trace").setLevel("DEBUG" if settings.log_level == "DEBUG" else "ERROR")


def _formatter(settings: Settings, shared: list[Processor]) -> logging.Formatter:
    render: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
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
