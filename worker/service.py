"""RenderService: everything that a worker process owns beside Celery, with its order of starting and stopping.

Start (in GpuPool.on_start, before Celery connects to Redis):

 1. health server      answers while engines load: alive, not ready
 2. renderer           engine set, tokenizer, loop; may refuse, which ends the process with its exit code
 3. GPU thread         the only one that calls engines
 4. heartbeat          from the first beat on, jobs started here count as held by a live worker

Stop (in GpuPool.on_stop, after Celery has ceased to consume):

 1. drain              not ready any more; waiting samples go back, running ones end, their jobs upload
 2. hand back          what outlasts the grace period goes back
 3. GPU thread         nobody waits for it any more
 4. heartbeat          after the jobs: a worker that drains for long must not count as dead meanwhile; then it retires,
                       so that what it could not hand back is free at once
 5. renderer           frees the device
 6. health server      last: a slow stop can be watched
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable

import redis
import structlog
from prometheus_client import CollectorRegistry

from jobs.errors import LedgerUnavailable, SettingsError
from jobs.ledger.ledger import Ledger
from jobs.settings import Settings
from jobs.storage.access_policy import AccessPolicy
from worker.in_flight import Ending, InFlightJobs
from worker.job_runner import JobRunner
from worker.ledger_client import LedgerClient
from worker.observe.exit_codes import ExitCode
from worker.observe.health import HealthServer, Probes, Verdict
from worker.observe.metrics import JobMetrics, LoopCollector
from worker.renderer import Renderer, RendererRefused, load_renderer
from worker.shutdown import Shutdown

log = structlog.get_logger(__name__)

GPU_THREAD_STOP_SECONDS = 10.0
STUCK_SECONDS = 180.0  # an engine call that takes longer hangs; the first call of a shape may compile for a minute


class RenderService:
    """One a process: `app.service`. Making it loads nothing and connects nowhere."""

    def __init__(self, settings: Settings, *, load: Callable[[Settings], Renderer] = load_renderer) -> None:
        self.settings = settings
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.held = InFlightJobs()
        self.stopping = Shutdown()
        self.registry = CollectorRegistry()
        self.metrics = JobMetrics(self.registry)
        self.health: HealthServer | None = None
        self._load = load
        self._places = AccessPolicy.of(settings)
        self._ledger = Ledger.connect(settings)
        self._renderer: Renderer | None = None
        self._runner: JobRunner | None = None
        self._fatal: Callable[[int], None] = lambda _: None
        self._stop_threads = threading.Event()
        self._gpu_thread = threading.Thread(target=self._own_the_gpu, name="gpu", daemon=True)
        self._heart = threading.Thread(target=self._beat_for_ever, name="heartbeat", daemon=True)
        self._lost = ""

    @property
    def grace_seconds(self) -> float:
        """For samples that are running when the worker is asked to stop."""
        return self.settings.grace_seconds

    def run_job(self, text: str) -> Ending:
        """Render the job in a message; see worker.job_runner."""
        assert self._runner is not None, "the pool starts the service before it takes messages"
        return self._runner.run(text)

    # -- start and stop -------------------------------------------------------------------------------------------

    def start(self, fatal: Callable[[int], None]) -> None:
        """Load and start everything. `fatal(code)` is called, from any thread, when the process must end.

        Raises:
            SystemExit: with a code of ExitCode, after one log line that says what to do.
        """
        self._fatal = fatal
        self._start_health()
        self._renderer = self._load_or_refuse()
        self.registry.register(LoopCollector(self._renderer.loop, self.held))
        self._runner = JobRunner(
            settings=self.settings,
            renderer=self._renderer,
            books=LedgerClient(self._ledger, worker=self.name, stopping=self.stopping, metrics=self.metrics),
            held=self.held,
            stopping=self.stopping,
            metrics=self.metrics,
            places=self._places,
        )
        self._gpu_thread.start()
        self._heart.start()
        log.info("worker_started", worker=self.name, engine_set=self._renderer.digest, **self._renderer.facts)

    def drain(self) -> None:
        """Begin no sample; those that are running may end."""
        self.stopping.drain()
        if self._renderer is not None:
            self._renderer.loop.drain()

    def requeue_all(self) -> None:
        """Every job that is not about to end goes back."""
        self.stopping.requeue_all()
        if self._renderer is not None:
            self._renderer.loop.requeue_all()

    def stop(self) -> None:
        """Steps 3 to 6 of the stop. Jobs that still run are abandoned: this process is about to end."""
        self.requeue_all()
        self._stop_threads.set()
        if self._renderer is not None:
            self._renderer.loop.wake()
        if self._gpu_thread.is_alive():
            self._gpu_thread.join(GPU_THREAD_STOP_SECONDS)
        if self._heart.is_alive():
            self._heart.join(self.settings.heartbeat_seconds)
        self._retire()
        if self._renderer is not None and not self._gpu_thread.is_alive():
            self._renderer.close()  # never under a thread that may be inside an engine
        if self.health is not None:
            self.health.stop()
        log.info("worker_stopped", worker=self.name)

    def _start_health(self) -> None:
        settings = self.settings
        if settings.metrics_port is None:
            return
        try:
            self.health = HealthServer(
                settings.metrics_host,
                settings.metrics_port,
                probes=Probes(live=self.live, ready=self.ready),
                registry=self.registry,
            )
        except SettingsError as error:
            log.error("bad_settings", error=str(error), exit_code=int(ExitCode.BAD_SETTINGS))
            raise SystemExit(ExitCode.BAD_SETTINGS) from error
        self.health.start()
        log.info("health_listens", port=self.health.port)

    def _load_or_refuse(self) -> Renderer:
        try:
            return self._load(self.settings)
        except RendererRefused as error:
            log.error("engine_set_refused", error=str(error), exit_code=int(ExitCode.ENGINES_REFUSED))
            raise SystemExit(ExitCode.ENGINES_REFUSED) from error

    # -- the GPU thread -------------------------------------------------------------------------------------------

    def _own_the_gpu(self) -> None:
        """Run the loop until told to stop.

        The loop lives through what one batch does to it. What it does not live through is the loss of the device, or a
        fault of our own that would come again: either way this process is of no more use, and says so.
        """
        assert self._renderer is not None
        try:
            self._renderer.loop.run(self._stop_threads)
        except self._renderer.device_errors as error:
            self._end("device_lost", error, ExitCode.DEVICE_LOST)
        except Exception as error:  # noqa: BLE001 (reported with its traceback, and the process ends)
            self._end("loop_broke", error, ExitCode.FAILED)

    def _end(self, event: str, error: Exception, code: ExitCode) -> None:
        log.critical(event, error=str(error), exit_code=int(code), exc_info=True)
        self._lost = f"{event}: {error}"
        self.requeue_all()
        self._fatal(code)

    # -- the heartbeat --------------------------------------------------------------------------------------------

    def _beat_for_ever(self) -> None:
        while True:
            self._beat()
            if self._stop_threads.wait(self.settings.heartbeat_seconds):
                return

    def _beat(self) -> None:
        try:
            self._ledger.beat(self.name, held=self.held.ids(), lease_seconds=self.settings.lease_seconds)
            for batch in self.held.batches():
                self._cancel(batch, self._ledger.cancels(batch))
        except (LedgerUnavailable, redis.RedisError) as error:
            self.metrics.heartbeat_failures.inc()
            log.warning("heartbeat_failed", error=str(error))

    def _cancel(self, batch: str, ids: set[str]) -> None:
        assert self._renderer is not None
        for id_ in self.held.cancel(batch, ids):
            # Again at every beat: a job that was being fetched the last time may be in the loop now.
            self._renderer.loop.cancel(id_)

    def _retire(self) -> None:
        try:
            self._ledger.retire(self.name)
        except (LedgerUnavailable, redis.RedisError) as error:
            log.warning("not_retired", error=str(error), consequence="its lease ends by itself")

    # -- probes ---------------------------------------------------------------------------------------------------

    def live(self) -> Verdict:
        """/healthz: not alive when only a restart helps."""
        if self._lost:
            return Verdict(False, self._lost)
        if self._renderer is None:
            return Verdict(True, "loading engines")
        stats = self._renderer.loop.stats()
        if self._gpu_thread.ident is not None and not self._gpu_thread.is_alive() and not self.stopping.draining:
            return Verdict(False, "the GPU thread has ended")
        if stats.busy_since is not None and (age := time.monotonic() - stats.busy_since) > STUCK_SECONDS:
            return Verdict(False, f"an engine call has not come back for {age:.0f} s")
        return Verdict(True, "alive")

    def ready(self) -> Verdict:
        """/readyz: takes jobs."""
        if self.stopping.draining:
            return Verdict(False, "draining")
        if self._runner is None:
            return Verdict(False, "loading engines")
        return self.live()
