"""Two `producer keep` on one Redis, and workers that are killed: every job ends done, once."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from jobs.ledger.ledger import Ledger
from jobs.settings import load_settings
from tests.eventually import eventually
from tests.producer.conftest import Run
from tests.producer.keep.process import KeepProcess
from tests.worker_process import ForkedTorchWorker, WorkerProcess

JOBS = 60
LEASE = {"RENDER_HEARTBEAT_SECONDS": "0.3", "RENDER_LEASE_SECONDS": "1.5"}


def test_two_at_once_do_no_harm(run: Run, redis_url: str, tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "a.png")
    rows = "".join(f"a.png,house {row},64,4\n" for row in range(JOBS))
    (tmp_path / "jobs.csv").write_text(f"image,prompt,image_resolution,ddim_steps\n{rows}")
    environment = LEASE | {
        "RENDER_REDIS_URL": redis_url,
        "RENDER_ENGINE_DIR": "fake:step_ms=100,max_batch=2",
        "RENDER_OUTPUT_URI": str(tmp_path / "renders"),
        "RENDER_ALLOW_FOLDERS": str(tmp_path),
        "RENDER_JOBS_IN_FLIGHT": "8",
    }
    assert run("submit", "jobs.csv").code == 0
    with ExitStack() as stack:
        keeps = [stack.enter_context(KeepProcess(tmp_path / f"keep{i}.log", environment=environment)) for i in range(2)]
        ledger = Ledger.connect(load_settings(redis_url=redis_url))
        stack.callback(ledger.close)

        def worker(name: str) -> WorkerProcess:
            log = tmp_path / f"{name}.log"
            return stack.enter_context(ForkedTorchWorker(environment=environment, log=log, name=name))

        victims = [worker("victim0"), worker("victim1")]
        eventually(lambda: ledger.counts("jobs").done and all(_in_flight(ledger, 2)), seconds=120)
        for victim in victims:
            victim.kill()
        worker("survivor")
        eventually(lambda: ledger.counts("jobs").finished == JOBS, seconds=120)
        eventually(lambda: not any(_in_flight(ledger, 1)))
        assert ledger.counts("jobs").done == JOBS
        assert ledger.queue_length() == 0
        results = list(ledger.results("jobs"))
        assert Counter(result.row for result in results) == Counter(range(1, JOBS + 1))
        # Also the messages of jobs that a victim had ended, and not acknowledged before it was killed.
        eventually(lambda: keeps[0].metrics()["render_queue_unacknowledged"] == 0)
        taken_back = sum(keep.metrics()["render_reconcile_requeued_total"] for keep in keeps)
        assert taken_back >= 2
        for keep in keeps:
            assert keep.get("/healthz").status == 200
            assert keep.end() == 0
            assert keep.events("turn_broke") == []
    # Each was rendered at most once more than it was lost with a worker: two keeps make no second copy.
    assert max(result.attempts for result in results) <= 3


def _in_flight(ledger: Ledger, workers: int) -> list[int]:
    """How many jobs each of the live workers holds; a zero for each that is missing."""
    numbers = [len(beat.in_flight) for beat in ledger.workers().values()]
    return [*numbers, *[0] * (workers - len(numbers))]
