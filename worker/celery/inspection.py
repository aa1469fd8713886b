"""Inspection: what a worker answers to monitors. The most that a request changes is whether events of jobs are sent.

SERVED is the whole list: what is not in it, known or not, is refused. No answer holds a prompt, a URI or a setting that
may be a secret: jobs are shown by id, batch and row (request.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog
from celery.utils.sysinfo import load_average
from celery.worker import state

from jobs.redaction import redacted

log = structlog.get_logger(__name__)

# The settings of Celery that a reader may want and that hold no secret. Others name hosts, users and files.
SHOWN_SETTINGS = (
    *("accept_content", "task_acks_late", "task_default_queue", "task_reject_on_worker_lost", "worker_concurrency"),
    *("worker_consumer", "worker_pool", "worker_prefetch_multiplier"),
)
SHOWN_STATS = ("total", "pid", "clock", "uptime", "pool", "prefetch_count", "rusage")

_ENDS_JOBS = "`producer cancel` ends jobs"
_STARTS_WORKERS = "one process drives one GPU: start another worker, or stop this one with SIGTERM"
_ONE_QUEUE = "a worker serves the queue that RENDER_QUEUE names, and no other"
_NO_LIMITS = "a job is bounded by its steps and by RENDER_FETCH_TIMEOUT_SECONDS"
_MEMORY = "the metrics and `inspect stats` show a process's memory"
INSTEAD = {
    "shutdown": "SIGTERM stops a worker",
    **dict.fromkeys(("revoke", "revoke_by_stamped_headers", "terminate"), _ENDS_JOBS),
    **dict.fromkeys(("pool_grow", "pool_shrink", "pool_restart", "autoscale"), _STARTS_WORKERS),
    **dict.fromkeys(("add_consumer", "cancel_consumer"), _ONE_QUEUE),
    **dict.fromkeys(("rate_limit", "time_limit"), _NO_LIMITS),
    **dict.fromkeys(("memsample", "memdump", "objgraph"), _MEMORY),
    **dict.fromkeys(("election", "hello"), "workers do not talk to each other"),
    "report": "it shows settings that may be secrets; `inspect conf` shows those that are not",
}


class Inspection:
    """The answers of one worker. Every method is called in the event loop."""

    def __init__(self, consumer: Any) -> None:
        self.hostname: str = consumer.hostname
        self.outbox = consumer.event_dispatcher.outbox
        self._consumer = consumer
        self._app = consumer.app
        self._events = consumer.event_dispatcher

    def answer(self, method: str, arguments: Mapping[str, Any] | None) -> Any:
        """The reply to one request. It is never an exception."""
        serve = SERVED.get(method)
        if serve is None:
            return self._refuse(method)
        try:
            return serve(self, arguments or {})
        except Exception:  # an answer is worth less than the jobs
            log.exception("monitor_not_answered", command=method)
            return {"error": f"{method}: the worker could not answer; its log says why"}

    def beat(self, type: str = "worker-heartbeat") -> None:
        """Send the event that tells monitors that the worker lives, or that it comes or goes."""
        self._events.send(
            type,
            freq=self.beat_seconds,
            active=len(state.active_requests),
            processed=state.all_total_count[0],
            loadavg=load_average(),
            **state.SOFTWARE_INFO,
        )

    @property
    def beat_seconds(self) -> float:
        """Seconds between two of these events: as between two heartbeats in the ledger."""
        return float(self._app.service.settings.heartbeat_seconds)

    def forward_clock(self) -> int:
        """The next value of Celery's logical clock, which monitors order messages by."""
        return int(self._app.clock.forward())

    def _refuse(self, method: str) -> dict[str, str]:
        log.warning("remote_command_refused", command=method)
        why = INSTEAD.get(method, "workers answer inspection, ping, enable_events and disable_events, and nothing else")
        return {"error": f"refused: {method}: {why}"}

    # -- what is served -------------------------------------------------------------------------------------------

    def _ping(self, _: Mapping[str, Any]) -> Any:
        return {"ok": "pong"}

    def _heartbeat(self, _: Mapping[str, Any]) -> Any:
        self.beat()
        return {"ok": "heartbeat sent"}

    def _enable_events(self, _: Mapping[str, Any]) -> Any:
        self._events.groups.add("task")
        return {"ok": "events of jobs are sent"}

    def _disable_events(self, _: Mapping[str, Any]) -> Any:
        self._events.groups.discard("task")
        return {"ok": "events of jobs are not sent"}

    def _active(self, _: Mapping[str, Any]) -> Any:
        return [request.info(safe=True) for request in tuple(state.active_requests)]

    def _reserved(self, _: Mapping[str, Any]) -> Any:
        waiting = set(state.reserved_requests) - set(state.active_requests)
        return [request.info(safe=True) for request in waiting]

    def _query_task(self, arguments: Mapping[str, Any]) -> Any:
        ids = arguments.get("ids")
        wanted = ids if isinstance(ids, list) else [ids]
        found = [request for request in tuple(state.reserved_requests) if request.id in wanted]
        return {
            request.id: ("active" if request in state.active_requests else "reserved", request.info(safe=True))
            for request in found
        }

    def _nothing(self, _: Mapping[str, Any]) -> Any:
        return []

    def _registered(self, _: Mapping[str, Any]) -> Any:
        return sorted(name for name in self._app.tasks if not name.startswith("celery."))

    def _active_queues(self, _: Mapping[str, Any]) -> Any:
        return [dict(queue.as_dict(recurse=True)) for queue in self._consumer.task_consumer.queues]

    def _clock(self, _: Mapping[str, Any]) -> Any:
        return {"clock": self._app.clock.value}

    def _conf(self, _: Mapping[str, Any]) -> Any:
        return {name: self._app.conf[name] for name in SHOWN_SETTINGS}

    def _stats(self, _: Mapping[str, Any]) -> Any:
        stats, service = self._consumer.controller.stats(), self._app.service
        return {
            **{name: stats[name] for name in SHOWN_STATS if name in stats},
            "broker": self._broker(),
            "render": {
                "worker": service.name,
                "paused": service.fitness.paused,
                "draining": service.shutdown.draining,
            },
        }

    def _broker(self) -> dict[str, Any]:
        """Where Redis is. kombu's own description has the user, certificate files and, of a socket, the password."""
        connection = self._consumer.connection
        if connection is None:
            return {}
        host = redacted(connection.hostname or "")
        place = {"hostname": host, "port": connection.port, "virtual_host": connection.virtual_host}
        return {"transport": "redis", **place}


SERVED: dict[str, Callable[[Inspection, Mapping[str, Any]], Any]] = {
    "ping": Inspection._ping,
    "heartbeat": Inspection._heartbeat,
    "enable_events": Inspection._enable_events,
    "disable_events": Inspection._disable_events,
    **dict.fromkeys(("active", "dump_active"), Inspection._active),
    **dict.fromkeys(("reserved", "dump_reserved"), Inspection._reserved),
    # Jobs here are neither scheduled for a time nor revoked.
    **dict.fromkeys(("scheduled", "dump_schedule", "revoked", "dump_revoked"), Inspection._nothing),
    **dict.fromkeys(("registered", "dump_tasks"), Inspection._registered),
    **dict.fromkeys(("conf", "dump_conf"), Inspection._conf),
    "query_task": Inspection._query_task,
    "active_queues": Inspection._active_queues,
    "clock": Inspection._clock,
    "stats": Inspection._stats,
}
