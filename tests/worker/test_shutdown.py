"""One Shutdown a process: two steps that are never taken back, and who is woken by them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.errors import Requeued
from worker.shutdown import Shutdown


def test_before_its_first_step_nothing_is_stopped() -> None:
    shutdown = Shutdown()
    shutdown.check()
    shutdown.pause(0)
    assert not shutdown.wait(0)
    assert (shutdown.draining, shutdown.requeueing, shutdown.insisted) == (False, False, False)


def test_draining_stops_who_has_not_begun_and_disturbs_no_pause() -> None:
    shutdown = Shutdown()
    shutdown.drain()
    with pytest.raises(Requeued, match="the worker is stopping"):
        shutdown.check()
    shutdown.pause(0)
    assert shutdown.wait(60)
    assert (shutdown.draining, shutdown.requeueing) == (True, False)


def test_requeueing_implies_draining_and_ends_every_pause() -> None:
    shutdown = Shutdown()
    with ThreadPoolExecutor(1) as threads:
        pause = threads.submit(shutdown.pause, 60)
        shutdown.requeue_all()
        with pytest.raises(Requeued):
            pause.result(10)
    assert (shutdown.draining, shutdown.requeueing) == (True, True)


def test_listeners_are_called_once_a_step_by_the_thread_that_takes_it() -> None:
    shutdown, calls = Shutdown(), list[tuple[bool, threading.Thread]]()
    shutdown.on_step(lambda: calls.append((shutdown.requeueing, threading.current_thread())))
    for step in (shutdown.drain, shutdown.drain, shutdown.requeue_all, shutdown.drain, shutdown.requeue_all):
        step()
    assert calls == [(False, threading.current_thread()), (True, threading.current_thread())]


def test_insisting_is_a_note_for_the_pool_and_takes_no_step() -> None:
    shutdown = Shutdown()
    shutdown.on_step(lambda: pytest.fail("a signal handler must not wake anything"))
    shutdown.insist()
    assert shutdown.insisted
    assert not shutdown.draining
