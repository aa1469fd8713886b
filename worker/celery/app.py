"""The Celery app: one queue, one task, JSON only, acknowledged late, no result backend. State is in the ledger.

`celery -A worker worker --concurrency 1` finds it as `worker.app`. Shutdown is Celery's warm one: plain SIGTERM drains
within RENDER_GRACE_SECONDS, because GpuPool.on_stop does so. Celery's own soft shutdown (`worker_soft_shutdown_timeout`
with REMAP_SIGTERM=SIGQUIT) stays off: it sleeps in a signal handler for the whole time, so nothing is acknowledged
meanwhile, even if all jobs end sooner. Where REMAP_SIGTERM=SIGQUIT is set, SIGTERM gives no grace period.
"""

from __future__ import annotations

import signal
import threading
import warnings
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning

from jobs import logs
from jobs.errors import SettingsError
from jobs.ledger.message import TASK_NAME
from jobs.redis_url import tls_options
from jobs.settings import Settings, load_settings
from worker.celery import transport
from worker.celery.command_line import CommandLine, end
from worker.celery.task import render
from worker.renderer import load_renderer
from worker.service import Load, RenderService


@cache
def app_from_environment() -> Celery:
    """The app for `celery -A worker`. A bad setting ends the process with its own exit code and a sentence."""
    try:
        return make_app(load_settings())
    except SettingsError as error:
        end(error)


def make_app(settings: Settings, *, load: Load = load_renderer) -> Celery:
    """An app with its service, which loads nothing before the worker starts."""
    transport.register()
    app = Celery("worker", set_as_current=False)
    app.conf.update(configuration(settings))
    app.service = RenderService(settings, load=load)
    app.task(render, name=TASK_NAME, bind=True, Request="worker.celery.request:RenderRequest")
    app.backend_cls = "disabled"  # also where CELERY_RESULT_BACKEND is set: results are the ledger's
    command_line = CommandLine(app, settings)
    command_line.install()
    _connect_signals(app, settings, command_line)
    return app


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings, each with its reason where the name does not say it."""
    return {
        "broker_url": broker_url(settings.redis_url),
        "broker_use_ssl": tls_options(settings.redis_url) or False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # for ever: whatever runs this process decides when to give up
        "broker_channel_error_retry": True,  # READONLY or LOADING after a failover must not end the worker
        "broker_transport_options": transport_options(settings),
        "task_default_queue": settings.queue,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_pool": "worker.celery.pool:GpuPool",
        "worker_consumer": "worker.celery.transport:QuietConsumer",
        "worker_concurrency": 1,  # one GPU; also where --concurrency is not given
        "worker_prefetch_multiplier": settings.jobs_in_flight,
        # Whether monitors see this worker; worker/celery/monitors.py reads it, and does what Celery's own parts would.
        "worker_send_task_events": settings.celery_events,
        # Celery's own remote control would obey any program that can publish in Redis: shutdown, revoke, pool_shrink.
        "worker_enable_remote_control": False,
        # kombu would write an expiry date of each queue into Redis again and again. Leftovers there expire
        # or are never written (transport.py).
        "control_queue_expires": None,
        "event_queue_expires": None,
        # Jobs go on rendering while Redis is away; a second delivery waits for the first (in_flight.py).
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": 0,
    }


def transport_options(settings: Settings) -> dict[str, Any]:
    """What kombu's Redis transport is told: the layout of the queue, and how long it waits."""
    return {
        "visibility_timeout": settings.visibility_timeout_seconds,
        # One list with exactly the queue's name, to which the ledger's scripts push.
        "priority_steps": [0],
        "sep": ":",
        "queue_order_strategy": "priority",
        "socket_connect_timeout": 5,
        "socket_timeout": 20,  # longer than BRPOP's 1 s; without it a silent server blocks the loop for ever
        "health_check_interval": 10,
        "client_name": "render-worker",
    }


def broker_url(redis_url: str) -> str:
    """A redis://, rediss:// or unix:// URL, as redis-py reads it, rewritten for kombu and our transport."""
    parts = urlsplit(redis_url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme != "unix":
        # The rest of the query is for redis-py alone; TLS is in `broker_use_ssl`.
        database = query.get("db") or parts.path.strip("/") or "0"
        return f"{transport.ALIAS}://{parts.netloc}/{database}"
    query["virtual_host"] = query.pop("db", "0")
    user = f"{parts.netloc}" if "@" in parts.netloc else ""
    return f"{transport.ALIAS}+socket://{user}{parts.path}?{urlencode(query)}"


def _connect_signals(app: Celery, settings: Settings, command_line: CommandLine) -> None:
    def be_quiet(instance: Any, **_: Any) -> None:
        instance.quiet = True  # no banner: standard output is not ours to decorate

    def refuse_late(sender: Any, **_: Any) -> None:
        if sender.app is app:
            command_line.refuse_late(sender)

    def configure_logs(logfile: Any = None, **_: Any) -> None:
        logs.configure(settings, level=command_line.log_level, file=logfile)

    def prepare(**_: Any) -> None:
        command_line.report()
        # On every connection loss Celery recommends a setting that is decided above.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning, module="celery")

    def be_deaf(**_: Any) -> None:
        # Every job is done or requeued. While Python ends, which takes a moment, it restores the default handlers: a
        # supervisor that sent its signal once more would read a crash in the exit code.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)

    signals.worker_shutdown.connect(be_deaf, weak=False)
    signals.celeryd_init.connect(be_quiet, weak=False)
    signals.worker_init.connect(refuse_late, weak=False)
    signals.setup_logging.connect(configure_logs, weak=False)
    signals.celeryd_after_setup.connect(prepare, weak=False)
