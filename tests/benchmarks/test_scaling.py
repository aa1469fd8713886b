"""benchmarks/scaling: a day of scaling, simulated with real messages in a real Redis."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import scaling, simulated_scaling
from benchmarks.queue_client import QueueClient, connect
from benchmarks.sample_jobs import job_of
from benchmarks.scaled_object import Counts, ScaledObject
from benchmarks.simulated_gpus import Gpu
from benchmarks.simulated_scaling import Counting, Outcome, Plan, ScalingSimulation
from benchmarks.submissions import DAY_SECONDS, Submission, day
from benchmarks.virtual_clock import VirtualClock
from jobs.ledger.ledger import Ledger
from jobs.settings import Settings

SLOW = Gpu(jobs_per_second=0.02, cold_start_seconds=60)  # a job takes longer than the grace period
FAST = Gpu(jobs_per_second=2.0, cold_start_seconds=30)


def plan(
    gpu: Gpu, submissions: list[Submission], *, target: int, counting: Counting = "sum", kill: bool = False
) -> Plan:
    scaled = dataclasses.replace(ScaledObject.load(), target=target, most=10, cooldown_seconds=60.0)
    return Plan(scaled, gpu, tuple(submissions), counting=counting, kill=kill)


# Three GPUs, of which the autoscaler takes one back after a few minutes, long before the work is done.
LONG_DRAIN = plan(Gpu(jobs_per_second=0.3, cold_start_seconds=10), [Submission(0.0, 600)], target=240)


def simulated(plan: Plan, redis_url: str) -> Outcome:
    simulation = ScalingSimulation(plan, Settings(redis_url=redis_url))
    outcome = simulation.run()
    assert simulation.counts() == Counts(0, 0, 0)
    assert len(outcome.record.done) == sum(submission.jobs for submission in plan.submissions)
    assert outcome.record.finished_again == 0
    return outcome


def test_the_work_of_a_submission_starts_gpus_by_the_target_and_ends_with_none(redis_url: str) -> None:
    outcome = simulated(plan(FAST, [Submission(100.0, 200)], target=60), redis_url)
    assert max(number for _, number in outcome.record.gpus) == 4
    assert outcome.record.gpus[0] == (0.0, 0)
    assert outcome.record.gpus[-1][1] == 0
    assert outcome.record.seconds.rendering == pytest.approx(200 / 2.0)
    assert outcome.record.seconds.starting == pytest.approx(4 * 30)
    assert min(outcome.waits) >= 30.0


def test_the_first_gpu_is_asked_for_at_the_next_poll_and_the_others_at_the_next_sync(redis_url: str) -> None:
    outcome = simulated(plan(FAST, [Submission(101.0, 200)], target=60), redis_url)
    assert outcome.record.gpus[1:3] == [(110.0, 1), (120.0, 4)]


def test_counting_what_workers_hold_keeps_the_last_one_until_its_work_is_done(redis_url: str) -> None:
    outcome = simulated(plan(SLOW, [Submission(0.0, 20)], target=100), redis_url)
    assert (outcome.record.pods, outcome.record.stopped_with_jobs) == (1, 0)


def test_counting_only_what_waits_scales_the_last_worker_away_with_work_in_its_hands(redis_url: str) -> None:
    outcome = simulated(plan(SLOW, [Submission(0.0, 20)], target=100, counting="queued"), redis_url)
    assert outcome.record.stopped_with_jobs >= 1
    assert outcome.record.given_back >= 10
    assert outcome.record.pods >= 2
    assert outcome.rendered_twice >= 1  # what had begun and could not end within the grace period


def test_the_larger_of_two_counts_starts_fewer_gpus_than_their_sum(redis_url: str) -> None:
    # Two GPUs hold 32 jobs when 40 more come: 72 jobs are five GPUs' work, and the larger count only three's.
    submissions = [Submission(0.0, 32), Submission(200.0, 40)]
    largest = simulated(plan(SLOW, submissions, target=16, counting="largest"), redis_url)
    assert max(number for _, number in largest.record.gpus) == 3


def test_their_sum_starts_them_all(redis_url: str) -> None:
    submissions = [Submission(0.0, 32), Submission(200.0, 40)]
    assert max(number for _, number in simulated(plan(SLOW, submissions, target=16), redis_url).record.gpus) == 5


def test_gpus_that_end_with_a_grace_period_lose_nothing(redis_url: str) -> None:
    outcome = simulated(LONG_DRAIN, redis_url)
    assert outcome.record.stopped_with_jobs > 0
    assert outcome.record.given_back > 0
    assert outcome.rendered_twice == 0


def test_gpus_that_are_killed_render_twice_and_the_reconciler_takes_back_what_they_held(redis_url: str) -> None:
    outcome = simulated(dataclasses.replace(LONG_DRAIN, kill=True), redis_url)
    assert outcome.record.stopped_with_jobs > 0
    assert outcome.rendered_twice > 0


def test_the_same_seed_gives_the_same_figures(redis_url: str) -> None:
    submissions = [Submission(each.at / 50, each.jobs) for each in day(60, 5, seed=3)]
    first = simulated(plan(FAST, submissions, target=16), redis_url)
    Ledger.connect(Settings(redis_url=redis_url)).client.flushall()
    second = simulated(plan(FAST, submissions, target=16), redis_url)
    assert first.record.gpus == second.record.gpus
    assert first.waits == second.waits


def test_a_client_holds_and_gives_back_real_messages(ledger: Ledger, redis_url: str) -> None:
    ledger.open_batch("b", output="s3://bucket/renders", source="file:///b.csv")
    ledger.enqueue([job_of("b", row) for row in (1, 2)])
    with connect(Settings(redis_url=redis_url)) as connection:
        client = QueueClient("gpu-1", connection, ledger)
        assert client.take()
        assert client.take()
        assert not client.take()
        assert (ledger.queue_length(), len(ledger.kombu.delivered())) == (0, 2)
        client.finish(client.held[0])
        client.give_back(client.held[0])
        assert (ledger.queue_length(), len(ledger.kombu.delivered())) == (1, 0)
        counts = ledger.counts("b")
        assert (counts.done, counts.queued, counts.running) == (1, 1, 0)
        client.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_day_has_its_jobs_in_its_submissions_by_time(seed: int) -> None:
    submissions = day(12_000, 40, seed=seed)
    assert len(submissions) == 40
    assert sum(submission.jobs for submission in submissions) == 12_000
    assert min(submission.jobs for submission in submissions) >= 1
    times = [submission.at for submission in submissions]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] < DAY_SECONDS
    assert submissions == day(12_000, 40, seed=seed)
    assert submissions != day(12_000, 40, seed=seed + 1)


def test_events_happen_in_the_order_of_their_time() -> None:
    clock, seen = VirtualClock(), list[tuple[str, float]]()
    clock.every(10.0, lambda: seen.append(("often", clock.now)), until=30.0)
    clock.at(20.0, lambda: seen.append(("once", clock.now)))
    clock.run(25.0)
    assert seen == [("often", 10.0), ("once", 20.0), ("often", 20.0)]
    assert clock.now == 25.0
    clock.run(100.0)
    assert seen[3:] == [("often", 30.0)]


def test_an_object_with_another_formula_is_not_simulated_as_if_it_had_ours(tmp_path: Path) -> None:
    from benchmarks.scaled_object import DEPLOYED, FORMULA

    other = tmp_path / "scaledobject.yaml"
    other.write_text(DEPLOYED.read_text().replace(FORMULA, "queued"))
    with pytest.raises(ValueError, match="the formula is 'queued'"):
        ScaledObject.load(other)


def test_the_command_prints_a_line_a_target_and_draws_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], redis_server: object
) -> None:
    picture = tmp_path / "scaling.svg"
    options = ["--jobs", "60", "--submissions", "3", "--targets", "16,200", "--plot", str(picture)]
    assert scaling.main(options) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["target"] for line in lines] == [16, 200]
    assert [line["done"] for line in lines] == [60, 60]
    assert lines[0]["gpu_hours"]["paid"] > lines[1]["gpu_hours"]["paid"]
    assert picture.read_text().count("target 16") == 3


@pytest.mark.parametrize(
    "options",
    [["--jobs", "3", "--submissions", "4"], ["--targets", "0"], ["--jobs-per-second", "0"], ["--cold-start", "-1"],
     ["--max", "x"], ["--targets", "16,x"], ["--jobs-per-second", "nan"], ["--cooldown", "inf"],
     ["--plot", "no/such/folder/scaling.svg"], ["--plot", "."]],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        scaling.main(options)
    assert error.value.code == 2
    assert options[-2] in capsys.readouterr().err


def test_jobs_that_do_not_end_in_the_time_of_a_simulation_are_a_sentence(
    redis_server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated_scaling, "LATEST_SECONDS", DAY_SECONDS)
    options = ["--jobs", "20", "--submissions", "1", "--targets", "16", "--jobs-per-second", "0.00002"]
    with pytest.raises(SystemExit) as error:
        scaling.main(options)
    assert "of 20 jobs ended in 1 days of virtual time; take fewer jobs" in str(error.value.code)
