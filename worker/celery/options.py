"""The options of `celery worker` that have no effect here, each with its reason, and the commands that are refused."""

from __future__ import annotations

from typing import Any, NamedTuple


class Ignored(NamedTuple):
    """An option that was given and has no effect, as its giver knows it, and why."""

    option: str
    why: str


class NoEffect(NamedTuple):
    """What an option is set back to, and why it has no effect."""

    neutral: Any
    why: str


_ONE_GPU = (
    "one process drives one GPU and renders up to RENDER_JOBS_IN_FLIGHT jobs together: start one worker for each GPU"
)
_NO_CHILDREN = "jobs are threads of this process, which has no child processes to replace or to start"
_NO_TIME_LIMIT = "a job is bounded by its steps and by RENDER_FETCH_TIMEOUT_SECONDS, and `producer cancel` ends it"
_NOT_TOLD = "workers tell each other nothing: see `producer status`, the metrics and the log"
_EVENTS = "RENDER_CELERY_EVENTS says whether monitors get events and heartbeats"
_NO_PERIODIC_TASKS = "there are no periodic tasks"
_ONE_QUEUE = "there is one kind of task, which takes no turns"

# By the name of Celery's parameter. `concurrency` and `prefetch_multiplier` go back to the app's own settings.
NO_EFFECT: dict[str, NoEffect] = {
    "concurrency": NoEffect("worker_concurrency", _ONE_GPU),
    "prefetch_multiplier": NoEffect("worker_prefetch_multiplier", "RENDER_JOBS_IN_FLIGHT says how many jobs to take"),
    "disable_prefetch": NoEffect(False, "RENDER_JOBS_IN_FLIGHT says how many jobs to take"),
    "autoscale": NoEffect(None, _ONE_GPU),
    "optimization": NoEffect("default", _ONE_QUEUE),
    "max_tasks_per_child": NoEffect(None, _NO_CHILDREN),
    "max_memory_per_child": NoEffect(None, _NO_CHILDREN),
    "pool_start_method": NoEffect(None, _NO_CHILDREN),
    "time_limit": NoEffect(None, _NO_TIME_LIMIT),
    "soft_time_limit": NoEffect(None, _NO_TIME_LIMIT),
    "task_events": NoEffect(None, _EVENTS),
    "without_gossip": NoEffect(False, _NOT_TOLD),
    "without_mingle": NoEffect(False, _NOT_TOLD),
    "without_heartbeat": NoEffect(False, _EVENTS),
    "heartbeat_interval": NoEffect(None, "RENDER_HEARTBEAT_SECONDS is the time between two heartbeats"),
    "statedb": NoEffect(None, "the ledger in Redis is the only record of jobs, cancelled ones included"),
    "beat": NoEffect(False, _NO_PERIODIC_TASKS),
    "schedule_filename": NoEffect(None, _NO_PERIODIC_TASKS),
    "scheduler": NoEffect(None, _NO_PERIODIC_TASKS),
}

# Options that come before the word `worker`.
NO_EFFECT_BEFORE: dict[str, str] = {
    "config": "all settings are RENDER_* variables",
    "result_backend": "results are kept by the ledger in Redis and beside the pictures",
}

_NOT_HEARD = (
    "workers do not answer monitors and send no events, so Celery would not see them; set RENDER_CELERY_EVENTS=true "
    "for the workers, and here"
)
_INSTEAD = "`producer status`, the metrics and the log show what they do in any case"

# Commands of `celery` that would do nothing, or harm.
REFUSED_COMMANDS: dict[str, str] = {
    "beat": "there are no periodic tasks to send: `celery -A worker worker --concurrency 1` alone renders",
    "purge": (
        "it would delete the messages of queued jobs, and a reconciler would bring them back: "
        "`producer cancel BATCH` takes the jobs of a batch out of the queue"
    ),
}

# Those that show what workers do. They are refused unless RENDER_CELERY_EVENTS is true.
MONITORS: dict[str, str] = {
    "inspect": f"{_NOT_HEARD}. {_INSTEAD}",
    "control": f"{_NOT_HEARD}. `producer cancel` ends jobs, and SIGTERM stops a worker",
    "status": f"{_NOT_HEARD}. {_INSTEAD}",
    "events": f"{_NOT_HEARD}. {_INSTEAD}",
    "flower": f"{_NOT_HEARD}. {_INSTEAD}",
}
