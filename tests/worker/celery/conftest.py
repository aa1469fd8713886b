"""The toy app under real Celery processes, and the real one with monitors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis

from tests.integration.conftest import site, start_site
from tests.worker.toy import StartToy, Toy
from tests.worker_process import ForkedWorker, WorkerProcess

__all__ = ["site", "start_site"]  # fixtures


@pytest.fixture
def toy(redis_client: redis.Redis) -> Toy:
    return Toy(redis_client)


@pytest.fixture
def start_toy(redis_url: str, tmp_path: Path) -> Iterator[StartToy]:
    started: list[WorkerProcess] = []

    def start(*, arguments: Sequence[str] = (), **settings: object) -> WorkerProcess:
        environment = {f"TOY_{name.upper()}": str(value) for name, value in settings.items()}
        environment.setdefault("TOY_URL", redis_url)
        worker = ForkedWorker(
            "tests.worker.toy_app", environment=environment, log=tmp_path / "toy.log", arguments=arguments
        )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.alive:
            worker.kill()
