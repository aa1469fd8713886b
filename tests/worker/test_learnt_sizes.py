"""What one worker stepped at, the next one prepares the device for: by a file, by the ledger, or by neither."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

import pytest
import structlog.testing

from jobs.ledger.keys import SIZES
from jobs.ledger.ledger import Ledger
from jobs.ledger.sizes import StepSize, weight
from jobs.settings import Settings, load_settings
from tests.eventually import eventually
from tests.worker.loops import run
from tests.worker.render.graph_device import GraphDevice
from tests.worker.samples import sample_spec
from worker import sizes_file
from worker.learnt_sizes import MOST, LearntSizes
from worker.observe.exit_codes import ExitCode
from worker.render.denoisers import Denoisers
from worker.render.errors import DeviceLost
from worker.render.loop import RenderLoop
from worker.render.request import BucketKey
from worker.renderer import Renderer
from worker.service import RenderService
from worker.shutdown import Shutdown
from worker.sizes_file import LARGEST_BYTES, SizesFile

SET, MACHINE = "5e7" * 8, "a card, torch 2"
SIZE, WIDE = StepSize(64, 64, 77, 2), StepSize(64, 128, 77, 1)
NOW = 1_800_000_000.0


class Worker:
    """A loop on a device that counts captures, and what it learns."""

    def __init__(self, ledger: Ledger, folder: Path | None, *, machine: str = MACHINE, at: float | None = NOW) -> None:
        """`at`: the time; None is Redis' clock."""
        self.device = GraphDevice()
        self.loop = RenderLoop(Denoisers({SET: self.device}, loaded=[SET]), now=self.device.clock)
        self.at = 0.0 if at is None else at
        self.learnt = LearntSizes(
            self.loop,
            ledger,
            machines={SET: machine},
            cache_dir=None if folder is None else str(folder),
            now=None if at is None else lambda: self.at,
        )

    def draw(self, samples: int, size: tuple[int, int], *, steps: int = 3) -> None:
        futures = [self.loop.submit(sample_spec(n, size=size, steps=steps, engine_set=SET)) for n in range(samples)]
        run(self.loop)
        assert all(future.exception() is None for future in futures)

    def prepared(self) -> list[tuple[int, int, int]]:
        self.learnt.read()
        while self.loop.warm():
            pass
        return self.device.captured


@pytest.fixture
def empty(ledger: Ledger) -> Ledger:
    """Another Redis, as it were."""
    return Ledger(ledger.client, queue="elsewhere")


@pytest.mark.parametrize("through", ["file", "ledger"])
def test_the_next_worker_prepares_what_the_last_one_used_the_most_used_first(
    ledger: Ledger, empty: Ledger, tmp_path: Path, through: str
) -> None:
    first = Worker(ledger, tmp_path)
    assert first.prepared() == []
    first.draw(1, (64, 64))
    first.draw(2, (64, 128), steps=30)
    first.learnt.write()
    second = Worker(ledger, None) if through == "ledger" else Worker(empty, tmp_path)
    assert second.prepared() == [(64, 128, 2), (64, 64, 1)]
    second.draw(2, (64, 128))
    assert second.loop.stats().captures["step"].number == 0


def test_only_what_is_new_is_added(ledger: Ledger, tmp_path: Path) -> None:
    worker = Worker(ledger, tmp_path)
    worker.draw(2, (64, 64))
    worker.learnt.write()
    before = ledger.sizes(SET)
    worker.learnt.write()
    assert ledger.sizes(SET) == before
    worker.draw(2, (64, 64))
    worker.learnt.write()
    assert ledger.sizes(SET)[SIZE] == pytest.approx(2 * before[SIZE])
    assert SizesFile(tmp_path, SET, MACHINE).read() == pytest.approx(ledger.sizes(SET))


def test_what_was_used_lately_comes_before_what_was_used_more_long_ago(ledger: Ledger) -> None:
    worker = Worker(ledger, None, at=NOW - 120 * 86400)
    worker.draw(2, (64, 64), steps=30)
    worker.learnt.write()
    worker.at = NOW
    worker.draw(1, (64, 128))
    worker.learnt.write()
    assert list(ledger.sizes(SET)) == [WIDE, SIZE]
    # After four months it weighs less than a thousandth of the rest, and is not prepared.
    assert Worker(ledger, None).prepared() == [(64, 128, 1)]


def test_sizes_weigh_by_the_clock_that_all_workers_share(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW + 10 * 365 * 86400)
    worker = Worker(ledger, None, at=None)
    worker.draw(2, (64, 64), steps=3)
    worker.learnt.write()
    assert ledger.sizes(SET)[SIZE] == pytest.approx(weight(2 * 3, at=ledger.server_time()), rel=0.01)


def test_at_most_so_many_are_prepared(ledger: Ledger) -> None:
    ledger.note_sizes(SET, {StepSize(64, 64 * (1 + n), 77, 1): 1.0 for n in range(SIZES)})
    assert len(Worker(ledger, None).prepared()) == MOST


def test_a_redis_that_is_away_costs_nothing_and_is_told_later(ledger: Ledger, unreachable: Ledger) -> None:
    worker = Worker(unreachable, None)
    with structlog.testing.capture_logs() as lines:
        assert worker.prepared() == []
        worker.draw(2, (64, 64))
        worker.learnt.write()
    assert [line["event"] for line in lines if line["event"].startswith("sizes")] == [
        "sizes_not_read",
        "sizes_not_noted",
    ]
    worker.learnt._ledger = ledger
    worker.learnt.write()  # although nothing is new
    assert ledger.sizes(SET)[SIZE] == pytest.approx(worker.learnt._own[SET][SIZE])
    worker.draw(2, (64, 64))
    worker.learnt.write()
    assert ledger.sizes(SET)[SIZE] == pytest.approx(worker.learnt._own[SET][SIZE])


@pytest.fixture
def unreachable() -> Ledger:
    return Ledger.connect(load_settings(redis_url="redis://127.0.0.1:1/0"))


def test_a_thread_reads_at_the_start_and_writes_at_the_stop(ledger: Ledger) -> None:
    ledger.note_sizes(SET, {SIZE: 1.0})
    worker = Worker(ledger, None)
    worker.draw(1, (64, 128))
    worker.learnt.start()
    worker.learnt.stop()
    assert WIDE in ledger.sizes(SET)
    assert worker.loop.warm()
    assert worker.device.captured[-1] == (64, 64, 2)


def test_a_worker_whose_sizes_cost_nothing_asks_redis_for_nothing(unreachable: Ledger, tmp_path: Path) -> None:
    loop = RenderLoop(GraphDevice())
    learnt = LearntSizes(loop, unreachable, machines={}, cache_dir=str(tmp_path))
    with structlog.testing.capture_logs() as lines:
        learnt.start()
        learnt.stop()
    assert lines == []
    assert list(tmp_path.iterdir()) == []


def test_a_service_prepares_the_device_before_its_first_job_and_leaves_what_it_used_when_it_stops(
    redis_url: str, ledger: Ledger
) -> None:
    ledger.note_sizes(SET, {SIZE: weight(1, at=time.time())})
    device = GraphDevice()
    loops: list[RenderLoop] = []

    def load(_: Settings, shutdown: Shutdown) -> Renderer:
        loop = RenderLoop(Denoisers({SET: device}, loaded=[SET]), shutdown, now=device.clock)
        loops.append(loop)
        return Renderer(loop, cast(Any, None), cast(Any, None), digest=SET, machines={SET: MACHINE})

    service = RenderService(load_settings(redis_url=redis_url), load=load)
    service.start(lambda _: None)
    try:
        eventually(lambda: device.captured == [(64, 64, 2)])
        future = loops[0].submit(sample_spec(1, size=(64, 128), engine_set=SET))
        assert future.result(30).shape == (64, 128, 3)
    finally:
        service.shutdown.drain()
        service.stop()
    assert set(ledger.sizes(SET)) == {SIZE, WIDE}


def test_sizes_that_cost_a_worker_its_device_are_not_prepared_by_the_next(
    redis_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    ledger.note_sizes(SET, {SIZE: weight(1, at=time.time())})
    file = SizesFile(tmp_path, SET, MACHINE)
    file.write(ledger.sizes(SET))
    codes: list[int] = []
    service = RenderService(load_settings(redis_url=redis_url, cache_dir=str(tmp_path)), load=_losing)
    service.start(codes.append)
    try:
        eventually(lambda: codes == [ExitCode.DEVICE_LOST])
    finally:
        service.stop()
    assert (ledger.sizes(SET), file.read()) == ({}, {})


def test_a_file_is_forgotten_while_redis_is_away(unreachable: Ledger, tmp_path: Path) -> None:
    """Otherwise a worker that it costs the device would read it again and again."""
    worker = Worker(unreachable, tmp_path)
    SizesFile(tmp_path, SET, MACHINE).write({SIZE: 1.0})
    worker.learnt.forget(SET)
    assert SizesFile(tmp_path, SET, MACHINE).read() == {}


class Losing(GraphDevice):
    def warm(self, key: BucketKey, size: int) -> None:
        raise DeviceLost("an illegal address")


def _losing(_: Settings, shutdown: Shutdown) -> Renderer:
    loop = RenderLoop(Denoisers({SET: Losing()}, loaded=[SET]), shutdown)
    return Renderer(loop, cast(Any, None), cast(Any, None), digest=SET, machines={SET: MACHINE})


# -- the file ----------------------------------------------------------------------------------------------------------


def test_another_card_or_version_of_a_library_has_its_own_file(ledger: Ledger, empty: Ledger, tmp_path: Path) -> None:
    worker = Worker(ledger, tmp_path)
    worker.draw(2, (64, 64))
    worker.learnt.write()
    assert Worker(empty, tmp_path, machine="a card, torch 3").prepared() == []
    assert len(list(tmp_path.rglob("*"))) == 3  # two folders and a file: no scratch file is left


def test_two_workers_may_write_the_same_file(tmp_path: Path) -> None:
    file = SizesFile(tmp_path, SET, MACHINE)
    file.write({SIZE: 5.0})
    file.write({WIDE: 7.0, SIZE: 2.0})
    assert list(file.read().items()) == [(WIDE, 7.0), (SIZE, 5.0)]


def spoilt(**values: Any) -> bytes:
    content = {"format": 1, "engine_set": SET, "machine": MACHINE, "sizes": {SIZE.text: 1.0}}
    return json.dumps(content | values).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"sizes": [1]}',
        spoilt(format=2),
        spoilt(engine_set="another"),
        spoilt(machine="another"),
        spoilt(sizes=None),
        b" " * (LARGEST_BYTES + 1),
    ],
)
def test_a_damaged_or_foreign_file_is_ignored_with_a_line_and_written_anew(tmp_path: Path, data: bytes) -> None:
    file = SizesFile(tmp_path, SET, MACHINE)
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(data)
    with structlog.testing.capture_logs() as lines:
        assert file.read() == {}
    (line,) = lines
    assert line["event"] == "sizes_ignored"
    assert line["file"] == str(file.path)
    file.write({SIZE: 3.0})
    assert file.read() == {SIZE: 3.0}


@pytest.mark.parametrize("weight", ["1", True, None, [1], -1.0, 0])
def test_what_is_no_weight_is_left_out(tmp_path: Path, weight: object) -> None:
    file = SizesFile(tmp_path, SET, MACHINE)
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(spoilt(sizes={SIZE.text: weight, WIDE.text: 2, "no size": 3}))
    assert file.read() == {WIDE: 2.0}


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes_file, "MOST_FILES", 2)
    for number in range(4):
        SizesFile(tmp_path, SET, f"machine {number}").write({SIZE: 1.0})
    assert len(list(tmp_path.rglob("sizes.json"))) == 2
    assert SizesFile(tmp_path, SET, "machine 3").read() == {SIZE: 1.0}


def test_a_folder_that_cannot_be_written_is_a_line_in_the_log(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    worker = Worker(ledger, tmp_path / "cache")
    with structlog.testing.capture_logs() as lines:
        worker.prepared()
        for _ in range(2):
            worker.draw(2, (64, 64))
            worker.learnt.write()
    assert [line["event"] for line in lines].count("sizes_not_written") == 1
    assert SIZE in ledger.sizes(SET)
    (tmp_path / "cache").unlink()
    worker.learnt.write()  # although nothing is new
    assert SIZE in SizesFile(tmp_path / "cache", SET, MACHINE).read()


def test_keys_of_other_sets_are_not_told(ledger: Ledger) -> None:
    worker = Worker(ledger, None)
    worker.loop._counters.count_size(BucketKey("another", 64, 64, 77), 2, samples=2)
    worker.learnt.write()
    assert ledger.sizes("another") == {}
