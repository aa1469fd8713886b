"""The Celery app: one queue, one task, JSON only, acknowledged late, no result backend. State is in the ledger.

`celery -A worker worker --concurrency 1` finds it as `worker.celery`. Shutdown is Celery's warm one: plain SIGTERM
drains within RENDER_GRACE_SECONDS because GpuPool.on_stop does. Celery's own soft shutdown
(`worker_soft_shutdown_timeout` with REMAP_SIGTERM=SIGQUIT) stays off: it sleeps the whole time in a signal handler, so
that nothing is acknowledged meanwhile, and also when all jobs end sooner. With REMAP_SIGTERM=SIGQUIT set by somebody,
SIGTERM means: no grace.
"""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning

from jobs.errors import SettingsError
from jobs.ledger.message import TASK_NAME
from jobs.ledger.redis_url import tls_options
from jobs.settings import Settings, load_settings
from worker import job_runner as tasks
from worker.celery import transport as broker
from worker.observe import logs
from worker.observe.exit_codes import ExitCode
from worker.renderer import Renderer, load_renderer
from worker.service import RenderService


@cache
def app_from_environment() -> Celery:
    """The app for `celery -A worker`. A bad setting ends the process with its own code and a sentence."""
    try:
        return make_app(load_settings())
    except SettingsError as error:
        print(f"worker: {error}", file=sys.stderr)  # noqa: T201 (nothing configures logging this early)
        raise SystemExit(ExitCode.BAD_SETTINGS) from error


def make_app(settings: Settings, *, load: Callable[[Settings], Renderer] = load_renderer) -> Celery:
    """An app with its service, which loads nothing before the worker starts."""
    broker.register()
    app = Celery("worker", set_as_current=False)
    app.conf.update(configuration(settings))
    app.service = RenderService(settings, load=load)
    app.task(tasks.render, name=TASK_NAME, bind=True)
    _connect_signals(settings)
    return app


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings, each with its reason where the name does not say it."""
    return {
        "broker_url": broker_url(settings.redis_url),
        "broker_use_ssl": tls_options(settings.redis_url) or False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # for ever: the pod or unit that runs us decides when to give up
        "broker_channel_error_retry": True,  # READONLY or LOADING after a failover is no reason to die
        "broker_transport_options": {
            "visibility_timeout": settings.visibility_timeout_seconds,
            # One list, named as the queue and nothing else: what the ledger's scripts push to.
            "priority_steps": [0],
            "sep": ":",
            "queue_order_strategy": "priority",
            "socket_connect_timeout": 5,
            "socket_timeout": 20,  # longer than the 1 s of BRPOP; without one a silent server holds the loop for ever
            "health_check_interval": 10,
            "client_name": "render-worker",
        },
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
        # Each command would reach every worker over pub/sub, and revoke does not work on what a pool of threads holds.
        # The ledger cancels; /metrics and the heartbeats in the ledger tell what a worker does.
        "worker_enable_remote_control": False,
        # Jobs go on rendering while Redis is away: the second delivery waits for the first (tasks.py).
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": 0,
    }


def broker_url(redis_url: str) -> str:
    """The same server as kombu spells it, with our transport: redis://, rediss:// and unix:// as redis-py has them."""
    parts = urlsplit(redis_url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme != "unix":
        # What else the query says is for redis-py alone; TLS is in `broker_use_ssl`.
        database = query.get("db") or parts.path.strip("/") or "0"
        return f"{broker.ALIAS}://{parts.netloc}/{database}"
    query["virtual_host"] = query.pop("db", "0")
    user = f"{parts.netloc}" if "@" in parts.netloc else ""
    return f"{broker.ALIAS}+socket://{user}{parts.path}?{urlencode(query)}"


def _connect_signals(settings: Settings) -> None:
    def be_quiet(instance: Any, **_: Any) -> None:
        instance.quiet = True  # no banner: standard output is not ours to decorate

    def configure_logs(**_: Any) -> None:
        logs.configure(settings)

    def ignore_advice(**_: Any) -> None:
        # Celery repeats on every connection loss why one might want the setting that is decided above.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning, module="celery")

    def be_deaf(**_: Any) -> None:
        # All is handed back. Python's own end, which takes a while, gives a signal its default again: a supervisor that
        # asks once more would read of a crash in the exit code.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)

    signals.worker_shutdown.connect(be_deaf, weak=False)
    signals.celeryd_init.connect(be_quiet, weak=False)
    signals.setup_logging.connect(configure_logs, weak=False)
    signals.celeryd_after_setup.connect(ignore_advice, weak=False)
