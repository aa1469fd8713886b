"""GpuPool: Celery's execution pool for a process that owns one GPU. One thread a job; the work itself is in one loop.

Mirrors celery.concurrency.base.BasePool of Celery 5.5 to 5.7; each method names the Celery code that calls it. The
stock pools do not suffice: prefork forks after CUDA is initialised, solo runs one job at a time, and threads

- reports the number of threads as its size, by which a reconnect multiplies the prefetch (`num_processes` below);
- acknowledges when the poller next wakes up by itself, up to a second later (`_wake_up` below);
- on a warm shutdown runs everything that was prefetched, however long it takes, and acknowledges only then
  (`_drain` below);
- raises NotImplementedError in a cold shutdown (`terminate_job` below);
- drops `error_callback`, so that a task that breaks in Celery's own code is never acknowledged (`_run` below).

Threads: only the main thread touches what belongs to Celery and kombu (requests, acknowledgements, the connection to
Redis). A job's thread ends by putting its outcome in a queue and waking the main thread.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Protocol

import redis
import structlog
from billiard.einfo import ExceptionInfo
from celery import signals
from celery.concurrency.base import BasePool
from celery.exceptions import Reject
from celery.worker import state

from worker.shutdown import Shutdown

log = structlog.get_logger(__name__)

# How long jobs may take to notice that they are requeued: longer than any step, shorter than a fetch that hangs.
REQUEUE_SECONDS = 8.0


def _requeued() -> ExceptionInfo:
    """What Request.on_failure takes for: put the message back."""
    try:
        raise Reject("requeued", requeue=True)
    except Reject:
        return ExceptionInfo()


class Fitness(Protocol):
    """The part of worker.fitness that Celery needs: whether this worker takes jobs."""

    @property
    def paused(self) -> str | None:
        """Why it takes none; None: it takes jobs. The transport asks before it reads from the queue."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change, from any thread."""


class PoolService(Protocol):
    """What the pool starts before the first job and stops after the last: `app.service`."""

    grace_seconds: float
    shutdown: Shutdown  # the pool takes its steps; the jobs of the service obey them
    fitness: Fitness
    parked_jobs: int  # that do not count towards the prefetch; the transport asks before it reads from the queue

    def start(self, fatal: Callable[[int], None]) -> None:
        """Load what jobs need; keep `fatal`, which ends the process with a code. Raises SystemExit to refuse."""

    def stop(self) -> None:
        """Release everything. Jobs that still run are abandoned."""


class GpuPool(BasePool):  # type: ignore[misc]  # Celery has no types
    """`worker_pool='worker.celery.pool:GpuPool'`. Reads its service from `app.service`."""

    # As in concurrency/thread.py: the body is not pickled to another process; a signal handler must not run `stop`.
    body_can_be_buffer = True
    signal_safe = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._service: PoolService = self.app.service
        self._shutdown = self._service.shutdown
        self._running: set[threading.Thread] = set()
        self._outcomes: deque[tuple[threading.Thread, Callable[[], object]]] = deque()
        self._hub: Any = None
        self._wake_read, self._wake_write = -1, -1
        self._shutdowns_asked = 0
        self._drain_begun = False  # by this pool, which must happen exactly once; a fatal error may drain before it
        self._was_to_terminate = False  # a job, since the event loop's last turn

    @property
    def num_processes(self) -> int:
        """Called by Consumer._update_prefetch_count and .max_prefetch_count, which multiply the prefetch by it.

        It must stay the --concurrency given, not the number of threads: a pool that reported 8 threads held 56
        messages after a reconnect instead of 8.
        """
        return int(self.limit)

    def on_start(self) -> None:
        """Called by worker/components.py Pool.start, which comes before Consumer.start: engines load before the first
        message is taken. A SystemExit from here ends the process with that code (WorkController.start).
        """
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signals.worker_shutting_down.connect(self._on_shutdown_asked)
        self._service.fitness.on_change(self._wake_up)  # the event loop's next turn reads from the queue again, or not
        self._service.start(self._end_process)

    def register_with_event_loop(self, hub: Any) -> None:
        """Called by loops.asynloop, again after every reconnect, because Hub.reset drops all readers.

        kombu 5.7 wakes its poller in Hub.call_soon itself. 5.5 and 5.6 do not (celery #6941), and no version does so
        for our own queue of outcomes.
        """
        self._hub = hub
        hub.add_reader(self._wake_read, self._on_wake)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        error_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> None:
        """Called by Request.execute_using_pool. There is always room: the prefetch is the only bound.

        Each job gets a new thread. That costs some 0.1 ms, little beside a rendering, and a daemon thread that hangs in
        a fetch cannot keep the process from ending, as an executor's thread could.
        """
        assert callback is not None
        assert error_callback is not None
        if accept_callback is not None:
            accept_callback(os.getpid(), monotonic())  # Request.on_accepted; also in worker_pid for terminate_job
        call = partial(target, *(args or ()), **(kwargs or {}))
        thread = threading.Thread(target=self._run, args=(call, callback, error_callback), name="job", daemon=True)
        self._running.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # no thread can be made, for a moment perhaps
            log.error("job_not_begun", error=str(error), threads=len(self._running) - 1, consequence="it is requeued")
            self._outcomes.append((thread, partial(error_callback, _requeued())))
            self._wake_up()

    def terminate_job(self, pid: int, signal: int | None = None) -> None:  # noqa: ARG002 (Celery's signature)
        """Called by Request.cancel in Consumer.cancel_active_requests, which only a cold shutdown does here.

        Threads cannot be killed. The jobs are requeued instead, outside the signal handler that this may be called
        from. This requeues all of them, so a caller that wants to end one job is not obeyed. A first SIGQUIT calls this
        for each job before anything says that it is a shutdown, so the event loop's next turn decides.
        """
        self._was_to_terminate = True
        self._wake_up()

    def on_close(self) -> None:
        """Called by Blueprint.stop, which closes all steps before it stops or terminates them. Nothing to do yet."""

    def on_stop(self) -> None:
        """Called by two parts of Celery.

        WorkController.stop, the warm shutdown (SIGTERM): `close` came before, the consumer has been cancelled, the
        connection is open and the event loop is not running. Drain here, within the grace period.

        apps/worker.py on_cold_shutdown (SIGQUIT, second Ctrl-C), from inside a signal handler, perhaps in the middle of
        our own drain: take a note, and leave the work to the code outside the handler.
        """
        if self._state != self.CLOSE or self._drain_begun:
            self._insist()
        else:
            self._drain(self._service.grace_seconds)

    def on_terminate(self) -> None:
        """Called by WorkController.terminate, after a cold shutdown's handler has returned: drain without grace."""
        if not self._drain_begun:
            self._drain(0.0)

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "threads": len(self._running)}

    # -- a job's thread -------------------------------------------------------------------------------------------

    def _run(self, call: Callable[[], Any], callback: Callable[..., Any], error_callback: Callable[..., Any]) -> None:
        """Does what concurrency/base.py apply_target does, whose errors the stock threads pool loses in a future."""
        try:
            outcome = partial(callback, call())
        except BaseException:  # noqa: BLE001 (Request.on_failure reports it, and acknowledges or rejects)
            outcome = partial(error_callback, ExceptionInfo())
        self._outcomes.append((threading.current_thread(), outcome))
        self._wake_up()

    def _wake_up(self) -> None:
        with suppress(BlockingIOError):  # the pipe is full, so a wake-up is pending anyway
            os.write(self._wake_write, b"\0")

    # -- the main thread ------------------------------------------------------------------------------------------

    def _on_wake(self, *_: Any) -> None:
        with suppress(BlockingIOError):  # another turn has read it
            os.read(self._wake_read, 4096)
        if self._was_to_terminate:
            self._was_to_terminate = False
            self._terminate_or_refuse()
        self._settle()

    def _terminate_or_refuse(self) -> None:
        if self._shutdowns_asked or self._drain_begun or state.should_stop is not None:
            self._insist()
        else:
            log.error("terminate_job_refused", consequence="the job goes on; `producer cancel` ends jobs")

    def _settle(self) -> None:
        """Tell Celery how the jobs ended. Acknowledgements follow in the hub's next turn (Consumer.call_soon_ack)."""
        while self._outcomes:
            thread, outcome = self._outcomes.popleft()
            self._running.discard(thread)
            try:
                outcome()
            except Exception:
                log.exception("outcome_not_reported", consequence="its message, if not acknowledged, comes back later")

    def _on_shutdown_asked(self, how: str = "", **_: Any) -> None:
        """Called by apps/worker.py _shutdown_handler, in a signal handler: sets flags and writes one byte, no more.

        Without the byte the event loop would see the flag when its next timer fires, up to a second later.
        """
        self._shutdowns_asked += 1
        if self._shutdowns_asked > 1 or how == "Cold":
            self._insist()
        self._wake_up()

    def _end_process(self, code: int) -> None:
        """From any thread: end like a warm shutdown, with this exit code (celery.worker.state.maybe_shutdown)."""
        state.should_stop = code
        self._insist()

    def _insist(self) -> None:
        self._shutdown.insist()
        self._wake_up()

    def _drain(self, grace_seconds: float) -> None:
        """Let running samples finish within the grace period, then requeue the rest.

        The hub keeps running meanwhile: acknowledgements reach Redis as jobs end, not at the end of the drain, so a
        kill in the middle repeats as little as possible. Messages that are still unacknowledged go back to the queue
        when the channel closes (kombu QoS.restore_unacked_once), after this returns.
        """
        self._drain_begun = True
        log.info("draining", jobs=len(self._running), grace_seconds=grace_seconds)
        self._shutdown.drain()
        self._settle_until(monotonic() + grace_seconds, unless=lambda: self._shutdown.insisted)
        if self._running:
            log.info("requeueing", jobs=len(self._running), insisted=self._shutdown.insisted)
            self._shutdown.requeue_all()
            self._settle_until(monotonic() + REQUEUE_SECONDS)
        if self._running:
            log.warning("jobs_abandoned", jobs=len(self._running), consequence="their messages go back to the queue")
        self._wake_up()  # so that the next line does not wait
        self._turn_hub(1.0)  # sends the acknowledgements of the last jobs
        self._service.stop()

    def _settle_until(self, deadline: float, unless: Callable[[], bool] = lambda: False) -> None:
        while self._running and not unless() and (left := deadline - monotonic()) > 0:
            self._turn_hub(left)

    def _turn_hub(self, seconds: float) -> None:
        """Run the event loop once; or, when Redis is gone, wait for our own pipe."""
        try:
            if self._hub is not None:
                # The hub waits until its next timer, which may be later than this drain can wait.
                timer = self._hub.call_later(min(seconds, 1.0), lambda: None)
                self._hub.run_once()
                timer.cancel()
                return
        except (OSError, redis.RedisError) as error:
            log.warning("broker_lost_in_drain", error=type(error).__name__)
            self._hub = None
        select.select([self._wake_read], [], [], seconds)
        self._on_wake()
