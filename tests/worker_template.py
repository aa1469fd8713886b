"""A process that has imported what our programs need, and becomes one of them as often as it is asked: by fork.

Imports are three quarters of the processor time that a worker with stub engines takes to start and stop, and the tests
start hundreds. Run as `python -m tests.worker_template FD KIND`, with one end of a socket pair; tests/forked.py has the
other. A fork shows nothing about imports or about what Python does at its start, so tests of those start a new process.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import time
from typing import Any, TextIO

# engines.console is in none of them: the console that it makes when it is imported knows the terminal of that moment.
PROGRAMS = (
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.apps.worker",
    "celery.worker.consumer",
    "celery.concurrency.base",
    "kombu.transport.redis",
    "boto3",
    "boto3.s3.transfer",
    "encodings.idna",
    "jinja2",
    "rich.live",
    "rich.progress",
    "rich.table",
    "worker.celery.app",
    "worker.celery.pool",
    "worker.celery.task",
    "worker.service",
    "tests.worker.stub_renderer",
    "engines.backends.registry",
    "engines.manifest",
    "producer.cli",
    "producer.delete",
    "producer.gallery.page",
    "producer.keep.command",
    "producer.repair",
    "producer.results",
    "producer.status",
    "producer.submit",
    "producer.watch",
)
IMPORTED = {"programs": PROGRAMS, "torch": (*PROGRAMS, "torch", "worker.fake", "worker.renderer")}


def serve(channel: socket.socket) -> dict[str, Any]:
    """Fork once a request. Returns in the children alone, with what they are to become."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    while True:
        ready, _, _ = select.select([channel.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 1024)
            _report_the_dead(channel)
        if channel.fileno() not in ready:
            continue
        request, streams = _receive(channel)
        pid = os.fork()
        if pid == 0:
            for descriptor in (channel.detach(), woken, wakes):
                os.close(descriptor)
            _become(request, streams)
            return request
        for descriptor in streams:
            os.close(descriptor)
        _say(channel, pid, None)


def _receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One request, a line, and the three streams that came with it."""
    line, streams = b"", list[int]()
    while not line.endswith(b"\n"):
        part, descriptors, _, _ = socket.recv_fds(channel, 2**16, 3)
        if not part:
            os._exit(0)  # the tests have ended, and whatever still runs is theirs
        line += part
        streams += descriptors
    return json.loads(line), streams


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


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Everything that a new process would have of its own."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests in the background ignores it
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        text = _text(number)
        for each in (name, f"__{name}__"):
            setattr(sys, each, text)
    random.seed()


def _text(number: int) -> TextIO:
    """A standard stream as Python makes it at its start."""
    terminal = os.isatty(number)
    raw = io.FileIO(number, "r" if number == 0 else "w", closefd=False)
    buffered = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffered,
        encoding=sys.__stdout__.encoding if sys.__stdout__ else "utf-8",
        errors="backslashreplace" if number == 2 else "strict",
        line_buffering=terminal or number == 2,
        write_through=bool(os.environ.get("PYTHONUNBUFFERED")),
    )


class QuickEnd:
    """Ends a child that has called `sys.exit` without taking its modules apart, which is half of what a short one does.

    It is the first function that is registered for the end, so the last one that runs.
    """

    code: int | None = None

    def __call__(self) -> None:
        if self.code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.code & 0xFF)


if __name__ == "__main__":
    end = QuickEnd()
    atexit.register(end)
    for name in IMPORTED[sys.argv[2]]:
        importlib.import_module(name)
    assert "engines.console" not in sys.modules
    gc.freeze()  # or the first collection of each child would copy all pages
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv[1:] = asked["arguments"]
    try:
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        end.code = ended.code if isinstance(ended.code, int) else None
        raise
