"""When a worker pauses, when it does not, and when it goes on."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from jobs.errors import OutputForbidden, OutputFull, OutputUnavailable, RenderError, SourceForbidden
from jobs.job import RenderJob
from jobs.ledger.records import Refutation
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.memory import MemoryStore
from tests.eventually import eventually
from tests.jobs.rows import make_job
from worker import fitness as fitnesses
from worker import output_check, output_probe
from worker.fitness import Fitness
from worker.output_probe import TEXT, OutputProbe, Place, folder_problem

POLICY = AccessPolicy(output="s3://own/out")
OWN, OTHER = make_job(output="s3://own/out"), make_job(output="s3://elsewhere/out")


class Disk(MemoryStore):
    """A store that raises `problem` for URIs below `where`, and where a file has more than `room` bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.problem: RenderError | None = None
        self.where = ""
        self.room: int | None = None
        self.tried: list[int] = []  # bytes

    def write(self, uri: str, data: bytes, content_type: str) -> None:
        self.tried.append(len(data))
        if self.problem is not None and uri.startswith(self.where):
            raise self.problem
        if self.room is not None and len(data) > self.room:
            raise OutputFull("no space left", unfit=True)
        super().write(uri, data, content_type)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def fitness(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Fitness:
    monkeypatch.setattr(output_check, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(output_check, "CHECKED_SECONDS", 0.0)
    return Fitness(OutputProbe(POLICY, lambda _: disk), policy=POLICY)


def probe(fitness: Fitness, job: RenderJob) -> None:
    """What the job runner does before it renders a job."""
    assert fitness.probe is not None
    fitness.probe.once(job, insist=lambda call: call(), check=lambda: None)


# -- the probe ----------------------------------------------------------------------------------------------------


def test_the_probe_is_one_key_and_is_written_once_a_batch(fitness: Fitness, disk: Disk) -> None:
    for batch in ("a", "a", "b"):
        probe(fitness, make_job(batch=batch, output="s3://own/out"))
    assert disk.order == ["s3://own/out/.render-probe"] * 2


def test_what_is_known_of_thousands_of_outputs_is_bounded(
    fitness: Fitness, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_probe, "REMEMBERED", 5)
    assert fitness.probe is not None
    for number in range(60):
        job = make_job(batch=f"b{number}", output="s3://own/out")
        disk.problem = OutputForbidden("AccessDenied") if number % 2 else None
        with suppress(OutputForbidden):
            probe(fitness, job)
        fitness.probe.doubt(Place.of(job, POLICY))
    kept = (fitness.probe._passed, fitness.probe._failed, fitness.probe._doubtful, fitness.probe._turns)
    assert max(len(each) for each in kept) <= 40


def test_where_only_the_batchs_own_folder_may_be_written_the_probe_goes_there(fitness: Fitness, disk: Disk) -> None:
    disk.problem, disk.where = OutputForbidden("AccessDenied"), "s3://own/out/.render"
    probe(fitness, OWN)
    assert disk.order == ["s3://own/out/b/.render-probe"]


def test_nothing_outside_the_allow_list_is_probed(tmp_path: Path) -> None:
    policy = AccessPolicy(folders=(str(tmp_path / "out" / "b"),))
    disk = Disk()
    probe(Fitness(OutputProbe(policy, lambda _: disk), policy=policy), make_job(output=(tmp_path / "out").as_uri()))
    assert disk.order == [f"{(tmp_path / 'out' / 'b').as_uri()}/.render-probe"]


def test_after_a_job_could_not_write_its_batchs_folder_is_tried_before_the_next_is_rendered(
    fitness: Fitness, disk: Disk
) -> None:
    probe(fitness, OWN)
    fitness.saw(OutputForbidden("b is not a folder"), OWN)
    assert fitness.paused is None  # the output itself can be written
    disk.problem, disk.where = OutputForbidden("b is not a folder"), "s3://own/out/b/"
    with pytest.raises(OutputForbidden, match="not a folder"):
        probe(fitness, OWN)
    disk.problem = None
    probe(fitness, make_job(batch="c", output="s3://own/out"))


# -- the output ---------------------------------------------------------------------------------------------------


def test_a_worker_that_cannot_write_its_own_output_pauses_and_goes_on_by_itself(fitness: Fitness, disk: Disk) -> None:
    told: list[str | None] = []
    fitness.on_change(lambda: told.append(fitness.paused))
    disk.problem = OutputForbidden("the bucket does not exist")
    fitness.saw(disk.problem, OWN)
    assert (fitness.paused, fitness.causes) == ("the bucket does not exist", ("output",))
    assert (fitness.facts.paused, fitness.facts.last_error) == (
        "the bucket does not exist",
        "output_forbidden: the bucket does not exist",
    )
    fitness.start()
    disk.problem = None
    eventually(lambda: fitness.paused is None)
    fitness.stop()
    assert told == ["the bucket does not exist", None]


def test_a_full_disk_is_checked_with_as_many_bytes_as_did_not_fit(fitness: Fitness, disk: Disk) -> None:
    disk.room = 1000
    error = OutputFull("no space left")
    error.needed_bytes = 5000
    fitness.saw(error, OWN)
    assert fitness.causes == ("output",)
    fitness.start()
    disk.room = 5000
    eventually(lambda: fitness.paused is None)
    fitness.stop()
    assert disk.objects["s3://own/out/.render-probe"] == TEXT  # and nothing large is left


def test_of_several_pictures_that_met_a_full_disk_the_largest_must_fit_in(fitness: Fitness, disk: Disk) -> None:
    disk.room = 5  # not even for the probe: other jobs were writing
    for size in (13, 5000, 70):
        error = OutputFull("no space left")
        error.needed_bytes = size
        fitness.saw(error, OWN)
    disk.tried.clear()
    fitness.start()
    eventually(lambda: disk.tried)
    assert set(disk.tried) == {5000}
    disk.room = 6000
    eventually(lambda: fitness.paused is None)
    fitness.stop()


@pytest.mark.parametrize(
    "error",
    [
        SourceForbidden("/etc/passwd may not be read", fault="worker", scope="settings"),
        SourceForbidden("403"),
        OutputForbidden("not on the list", scope="settings"),
        OutputUnavailable("503"),
    ],
)
def test_a_refused_source_and_storage_that_is_away_stop_no_worker(
    fitness: Fitness, disk: Disk, error: RenderError
) -> None:
    for _ in range(1000):
        fitness.saw(error, OWN)
    assert (fitness.paused, disk.order) == (None, [])


def test_keys_that_expired_pause_a_worker_wherever_the_job_writes(fitness: Fitness, disk: Disk) -> None:
    disk.problem = OutputForbidden("ExpiredToken", unfit=True)
    fitness.saw(disk.problem, OTHER)
    assert fitness.causes == ("output",)


def test_a_batch_with_a_wrong_output_stops_no_worker_that_can_write_elsewhere(fitness: Fitness, disk: Disk) -> None:
    probe(fitness, OWN)
    disk.problem, disk.where = OutputForbidden("NoCredentials", unfit=True), OTHER.output
    fitness.saw(disk.problem, OTHER)
    assert fitness.paused is None


def test_a_pause_for_a_batch_ends_with_the_batch(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_check, "FIRST_PAUSE_SECONDS", 0.0)
    open_batches = {"b"}
    fitness = Fitness(OutputProbe(POLICY, lambda _: disk), policy=POLICY, is_open=lambda batch: batch in open_batches)
    disk.problem = OutputForbidden("NoCredentials", unfit=True)
    fitness.saw(disk.problem, OTHER)
    assert fitness.paused
    open_batches.clear()
    fitness.start()
    eventually(lambda: fitness.paused is None)
    fitness.stop()


def test_an_error_that_nobody_expected_ends_no_check(
    fitness: Fitness, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitnesses, "TICK_SECONDS", 0.01)
    disk.problem = OutputForbidden("the bucket does not exist")
    fitness.saw(disk.problem, OWN)
    odd = [ValueError("odd"), KeyError("odder")]
    write = disk.write

    def broken(uri: str, data: bytes, content_type: str) -> None:
        if odd:
            raise odd.pop()
        write(uri, data, content_type)

    disk.write, disk.problem = broken, None  # type: ignore[method-assign]
    fitness.start()
    eventually(lambda: fitness.paused is None)
    fitness.stop()


# -- the start ----------------------------------------------------------------------------------------------------


def test_a_worker_whose_bucket_it_may_not_write_starts_paused(disk: Disk) -> None:
    disk.problem = OutputForbidden("SignatureDoesNotMatch", unfit=True)
    fitness = Fitness(OutputProbe(POLICY, lambda _: disk), policy=POLICY, own=POLICY.output)
    fitness.start()
    assert fitness.paused == "SignatureDoesNotMatch"
    fitness.stop()


def test_a_folder_is_looked_at_without_creating_anything(tmp_path: Path) -> None:
    assert folder_problem((tmp_path / "not" / "there").as_uri()) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    problem = folder_problem((tmp_path / "file" / "out").as_uri())
    assert problem is not None
    assert "is not a folder" in str(problem)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_found_at_the_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    problem = folder_problem((tmp_path / "out").as_uri())
    tmp_path.chmod(0o700)
    assert problem is not None
    assert "permission denied" in str(problem)


# -- the clock and refutations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead", "words"), [(3600.0, "3600 s ahead of"), (-301.0, "301 s behind")])
def test_a_clock_that_is_wrong_by_more_than_five_minutes_pauses_until_it_is_right(ahead: float, words: str) -> None:
    fitness = Fitness()
    fitness.compare_clock(299)
    assert fitness.paused is None
    fitness.compare_clock(ahead)
    assert words in (fitness.paused or "")
    fitness.compare_clock(-299)
    assert fitness.paused is None


def test_a_refutation_pauses_for_a_while_and_each_that_follows_soon_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fitnesses, "FIRST_REFUTED_SECONDS", 0.2)
    monkeypatch.setattr(fitnesses, "TICK_SECONDS", 0.01)
    refutation = Refutation(
        batch="b", job="j", row=7, by_worker="good", kind="source_forbidden", text="not on my list", at=1.0
    )
    fitness = Fitness()
    pauses = []
    for _ in range(3):
        fitness.refute(refutation)
        assert fitness.paused == "good finished a job that this worker had refused (batch b, row 7: not on my list)"
        pauses.append(fitness._refuted_seconds)
    assert pauses == [0.2, 0.4, 0.8]
    fitness.start()
    eventually(lambda: fitness.paused is None)
    fitness.stop()


def test_what_a_worker_refused_before_it_was_mended_does_not_pause_it_again(
    fitness: Fitness, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitnesses, "TICK_SECONDS", 0.01)
    fitness.compare_clock(100.0)
    redis_time = time.time() - 100.0
    disk.problem = OutputFull("no space left", unfit=True)
    fitness.saw(disk.problem, OWN)
    fitness.start()
    disk.problem = None
    eventually(lambda: fitness.paused is None)
    fitness.stop()
    refutation = Refutation(
        batch="b", job="j", by_worker="good", kind="output_full", text="full", at=redis_time + 50, refused_at=redis_time
    )
    fitness.refute(refutation)
    assert fitness.paused is None
    fitness.refute(refutation.model_copy(update={"refused_at": redis_time + 40}))
    assert fitness.causes == ("refuted",)
