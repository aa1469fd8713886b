"""RenderService: everything that a worker process owns besides Celery, and the order in which it starts and stops.

Start (GpuPool.on_start, before Celery connects to Redis):

 1. health server      answers while engines load: alive, not ready
 2. renderer           engine set, tokenizer, loop; may refuse, which ends the process with its exit code
 3. fitness            a worker that could not write results starts paused
 4. GPU thread         the only one that calls engines
 5. heartbeat          from the first beat on, other processes know that a live worker has the jobs started here
 6. learnt sizes       the idle loop prepares the device for the sizes that workers used before

Stop (GpuPool.on_stop, after Celery has stopped consuming):

 1. drain              no longer ready; waiting samples are requeued, running ones finish, their jobs upload
 2. requeue            whatever outlasts the grace period goes back to the queue
 3. GPU thread         no job waits for it any more
 4. heartbeat          after the jobs: a worker that drains for long must not be taken for dead meanwhile. Then the
                       worker retires, so that jobs it could not requeue are free at once
 5. renderer           frees the device
 6. health server      last, so that a slow stop can be watched

The pool takes steps 1 and 2 through the process's Shutdown, which the jobs' threads and the loop read; `stop` does the
rest.
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
from prometheus_client import CollectorRegistry, ProcessCollector

from jobs.errors import LedgerUnavailable, SettingsError
from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Exit, HeldSet, WorkerFacts
from jobs.settings import Settings
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.limits import FetchLimits
from worker.fitness import Fitness
from worker.heap import bound_heap
from worker.heartbeat import Heartbeat
from worker.image.accept import accepted_types
from worker.in_flight import InFlightJobs
from worker.job_runner import JobRunner
from worker.learnt_sizes import LearntSizes
from worker.ledger_client import LedgerClient
from worker.observe.device_memory import DeviceMemoryCollector
from worker.observe.exit_codes import ExitCode
from worker.observe.health import HealthServer, Probes, Verdict
from worker.observe.metrics import EngineCollector, FitnessCollector, JobMetrics, LoopCollector
from worker.observe.set_metrics import SetCollector
from worker.outcome import Outcome
from worker.output_probe import OutputProbe
from worker.render.errors import DeviceLost
from worker.renderer import Renderer, RendererRefused, load_renderer
from worker.settings_digest import settings_digest
from worker.shutdown import Shutdown

log = structlog.get_logger(__name__)

GPU_THREAD_STOP_SECONDS = 10.0
STUCK_SECONDS = 180.0  # an engine call that takes longer hangs; the first call of a shape may compile for a minute
# For one of several sets, from a disk that is as slow as at the start. One that never comes must not keep its jobs.
LOAD_SECONDS = 3600.0

# Where not all engine sets fit on the device, jobs that wait for a turn leave their places to jobs of the sets that are
# there, up to so many times RENDER_JOBS_IN_FLIGHT. Otherwise they would fill all places, and the device would be idle.
# Likewise jobs of one set leave theirs to those of the others, whose batches would stay small; and jobs of many picture
# sizes share no batch, so that a batch of each needs as many more.
PARKED = 8

Load = Callable[[Settings, Shutdown], Renderer]


class RenderService:
    """One a process: `app.service`. Constructing it loads nothing and connects to nothing."""

    def __init__(self, settings: Settings, *, load: Load = load_renderer) -> None:
        self.settings = settings
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.shutdown = Shutdown()
        self.in_flight = InFlightJobs()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.metrics = JobMetrics(self.registry)
        self.health: HealthServer | None = None
        self._load = load
        self._access_policy = AccessPolicy.of(settings)
        self._fetch_limits = FetchLimits.of(settings, accept=accepted_types())
        self._ledger = Ledger.connect(settings)
        self.fitness = self._make_fitness()
        self._renderer: Renderer | None = None
        self._runner: JobRunner | None = None
        self._fatal: Callable[[int], None] = lambda _: None
        self._stop_gpu_thread = threading.Event()
        self._gpu_thread = threading.Thread(target=self._own_the_gpu, name="gpu", daemon=True)
        self._heartbeat = Heartbeat(
            self._ledger,
            settings,
            worker=self.name,
            in_flight=self.in_flight,
            fitness=self.fitness,
            metrics=self.metrics,
        )
        self._learnt_sizes: LearntSizes | None = None
        self._fault = ""  # why only a restart helps

    @property
    def grace_seconds(self) -> float:
        """How long running samples may take to finish when the worker is asked to stop."""
        return self.settings.grace_seconds

    @property
    def parked_jobs(self) -> int:
        """How many jobs may be taken beside RENDER_JOBS_IN_FLIGHT; bounded.

        As many as wait for their set's turn; and as many as are of further sets, or as fill batches of several sizes.
        """
        if self._renderer is None:
            return 0
        loop, in_flight = self._renderer.loop, self.settings.jobs_in_flight
        # Half of the jobs in flight are taken to be in the loop; the others are fetched, encoded or uploaded.
        wanted = max(0, loop.batch_places() - in_flight // 2)
        return min(loop.parked(wanted=wanted), PARKED * in_flight)

    def run_job(self, text: str) -> Outcome:
        """Render the job in a message; see worker.job_runner."""
        assert self._runner is not None, "the pool starts the service before it takes messages"
        return self._runner.run(text)

    # -- start and stop -------------------------------------------------------------------------------------------

    def start(self, fatal: Callable[[int], None]) -> None:
        """Load and start everything. `fatal(code)` is called, from any thread, when the process must end.

        Raises:
            SystemExit: with a code of ExitCode, after one log line that says what to do.
        """
        bound_heap()
        self._fatal = fatal
        self._start_health()
        began = time.monotonic()
        self._renderer = renderer = self._load_or_refuse()
        self._show(renderer, load_seconds=time.monotonic() - began)
        self.fitness.describe(self._facts(renderer))
        self.fitness.start()
        self._runner = self._make_runner(renderer)
        self._gpu_thread.start()
        self._heartbeat.start(renderer.loop.cancel, holds=self._draws)
        self._learnt_sizes = self._learn_sizes(renderer)
        log.info("worker_started", worker=self.name, engine_set=renderer.digest, **renderer.facts)

    def stop(self) -> None:
        """Steps 3 to 6 of the stop. Jobs that still run are abandoned: this process is about to end."""
        self.shutdown.requeue_all()
        self._stop_gpu_thread.set()
        if self._renderer is not None:
            self._renderer.loop.wake()
        if self._gpu_thread.is_alive():
            self._gpu_thread.join(GPU_THREAD_STOP_SECONDS)
        self.fitness.stop()
        if self._learnt_sizes is not None:
            self._learnt_sizes.stop()
        self._heartbeat.stop()
        self._ledger.close()
        if self._renderer is not None and not self._gpu_thread.is_alive():
            self._renderer.close()  # never under a thread that may be inside an engine
        if self.health is not None:
            self.health.stop()
        log.info("worker_stopped", worker=self.name)

    def _start_health(self) -> None:
        settings = self.settings
        if settings.metrics_port is None:
            return
        probes = Probes(started=self.started, live=self.live, ready=self.ready)
        try:
            self.health = HealthServer(
                settings.metrics_host, settings.metrics_port, probes=probes, registry=self.registry
            )
        except SettingsError as error:
            log.error("bad_settings", error=str(error), exit_code=int(ExitCode.BAD_SETTINGS))
            raise SystemExit(ExitCode.BAD_SETTINGS) from error
        self.health.start()
        log.info("health_listens", port=self.health.port)

    def _load_or_refuse(self) -> Renderer:
        try:
            return self._load(self.settings, self.shutdown)
        except RendererRefused as error:
            log.error("engine_set_refused", error=str(error), exit_code=int(ExitCode.ENGINES_REFUSED))
            self._count_exit("engines_refused")
            self._ledger.close()
            raise SystemExit(ExitCode.ENGINES_REFUSED) from error

    def _show(self, renderer: Renderer, *, load_seconds: float) -> None:
        """Have /metrics say what runs from now on."""
        self.registry.register(EngineCollector(renderer, load_seconds=load_seconds))
        self.registry.register(LoopCollector(renderer.loop, self.in_flight))
        self.registry.register(SetCollector(renderer))
        self.registry.register(DeviceMemoryCollector(renderer.memory))
        self.registry.register(FitnessCollector(self.fitness))

    def _make_runner(self, renderer: Renderer) -> JobRunner:
        return JobRunner(
            settings=self.settings,
            renderer=renderer,
            ledger=LedgerClient(self._ledger, worker=self.name, shutdown=self.shutdown, metrics=self.metrics),
            in_flight=self.in_flight,
            shutdown=self.shutdown,
            metrics=self.metrics,
            access_policy=self._access_policy,
            fitness=self.fitness,
            fetch_limits=self._fetch_limits,
        )

    def _learn_sizes(self, renderer: Renderer) -> LearntSizes:
        learnt = LearntSizes(renderer.loop, self._ledger, machines=renderer.machines, cache_dir=self.settings.cache_dir)
        learnt.start()
        return learnt

    def _make_fitness(self) -> Fitness:
        policy = self._access_policy
        # Without RENDER_OUTPUT_URI, a worker writes only where its jobs say.
        own = policy.output if "output_uri" in self.settings.model_fields_set else None
        return Fitness(OutputProbe(policy), policy=policy, own=own, is_open=self._is_open)

    def _facts(self, renderer: Renderer) -> WorkerFacts:
        held = ",".join(f"{name}={one.digest}" for name, one in sorted(renderer.sets.items()))
        digest = settings_digest(self.settings, policy=self._access_policy, engine_set=held)
        return WorkerFacts(
            settings=digest,
            engine_set=renderer.digest,
            model=renderer.model_name,
            sets=tuple(
                HeldSet(name=name, engine_set=one.digest, model=one.model_name) for name, one in renderer.sets.items()
            ),
            host=socket.gethostname(),
            started_at=time.time(),
        )

    def _draws(self, job: RenderJob) -> bool:
        """Whether this worker takes jobs and holds the engine set of this one."""
        return self._renderer is not None and not self.shutdown.draining and self._renderer.holds(job)

    def _is_open(self, batch: str) -> bool:
        try:
            counts = self._ledger.counts(batch)
        except (LedgerUnavailable, redis.RedisError):
            return True
        return counts.unfinished > 0

    # -- the GPU thread -------------------------------------------------------------------------------------------

    def _own_the_gpu(self) -> None:
        """Run the loop until told to stop.

        The loop survives the errors of single batches. It does not survive the loss of the device, nor a fault of our
        own that would recur: in both cases this process is of no more use, and says so.
        """
        assert self._renderer is not None
        try:
            self._renderer.loop.run(self._stop_gpu_thread)
        except DeviceLost as error:
            if error.prepared_for is not None and self._learnt_sizes is not None:
                self._learnt_sizes.forget(error.prepared_for)
            self._end("device_lost", error, ExitCode.DEVICE_LOST)
            self._count_exit("device_lost")
        except Exception as error:  # noqa: BLE001 (reported with its traceback, and the process ends)
            self._end("loop_broke", error, ExitCode.FAILED)
            self._count_exit("failed")

    def _end(self, event: str, error: Exception, code: ExitCode) -> None:
        log.critical(event, error=str(error), exit_code=int(code), exc_info=True)
        self._fault = f"{event}: {error}"
        self.shutdown.requeue_all()
        self._fatal(code)

    def _count_exit(self, why: Exit) -> None:
        """Leave a trace for Prometheus in the ledger: at the next scrape this process may be gone."""
        try:
            self._ledger.count_exit(why)
        except (LedgerUnavailable, redis.RedisError) as error:
            log.warning("exit_not_counted", error=str(error))

    # -- probes ---------------------------------------------------------------------------------------------------

    def started(self) -> Verdict:
        """/startupz: the engines are loaded, whether or not the worker takes jobs."""
        loaded = self._runner is not None
        return Verdict(loaded, "started" if loaded else "loading engines")

    def live(self) -> Verdict:
        """/healthz: not alive when only a restart helps."""
        if self._fault:
            return Verdict(False, self._fault)
        if self._renderer is None:
            return Verdict(True, "loading engines")
        stats = self._renderer.loop.stats()
        if self._gpu_thread.ident is not None and not self._gpu_thread.is_alive() and not self.shutdown.draining:
            return Verdict(False, "the GPU thread has ended")
        age = 0.0 if stats.busy_since is None else time.monotonic() - stats.busy_since
        if age <= STUCK_SECONDS:
            return Verdict(True, "alive")
        if not self._renderer.loop.loads().loading:
            return Verdict(False, f"an engine call has not come back for {age:.0f} s")
        if age <= LOAD_SECONDS:
            return Verdict(True, "loading engines")
        return Verdict(False, f"an engine set has been loading for {age:.0f} s")

    def ready(self) -> Verdict:
        """/readyz: takes jobs."""
        if self.shutdown.draining:
            return Verdict(False, "draining")
        if self._runner is None:
            return Verdict(False, "loading engines")
        if paused := self.fitness.paused:
            return Verdict(False, f"paused: {paused}")
        return self.live()
