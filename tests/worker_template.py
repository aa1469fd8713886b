"""A process that has imported what a worker of the tests needs, and becomes one as often as it is asked: by fork.

Imports are three quarters of the processor time that a worker with stub engines takes to start and stop, and the tests
start hundreds. Run as `python -m tests.worker_template FD`, with one end of a socket pair; tests/worker_process.py has
the other. A fork shows nothing about the command line or the imports, so tests of those start a new process.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

IMPORTED = (
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.apps.worker",
    "celery.worker.consumer",
    "celery.concurrency.base",
    "kombu.transport.redis",
    "boto3",
    "worker.celery.app",
    "worker.celery.pool",
    "worker.celery.task",
    "worker.service",
    "tests.worker.stub_renderer",
)


def serve(channel: socket.socket) -> list[str]:
    """Fork once a request. Returns in the children alone, with the arguments of `python -m celery`."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    requests = channel.makefile("rb")
    while True:
        ready, _, _ = select.select([channel.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 1024)
            _report_the_dead(channel)
        if channel.fileno() not in ready:
            continue
        line = requests.readline()
        if not line:
            os._exit(0)  # the tests have ended, and whatever still runs is theirs
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            requests.detach()
            for descriptor in (channel.detach(), woken, wakes):
                os.close(descriptor)
            return _become(request)
        _say(channel, pid, None)


def _report_the_dead(channel: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(channel, pid, os.waitstatus_to_exitcode(status))


def _say(channel: socket.socket, pid: int, code: int | None) -> None:
    """A child's exit code; None while it runs."""
    channel.sendall(json.dumps({"pid": pid, "code": code}).encode() + b"\n")


def _become(request: dict[str, object]) -> list[str]:
    """Everything that a new process would have of its own."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    with Path(str(request["log"])).open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    random.seed()
    return [*map(str, request["arguments"])]  # type: ignore[call-overload]


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    sys.argv[1:] = serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("celery", run_name="__main__", alter_sys=True)
