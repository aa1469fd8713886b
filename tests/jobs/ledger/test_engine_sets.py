"""Which engine sets drew a batch, on a real Redis: counted when a job ends, whoever ends it, and never told wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.job import RenderJob, RenderResult
from jobs.ledger.engine_sets import READ_UP_TO, engine_sets_of
from jobs.ledger.keys import batch_key, batch_keys
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import EngineSetJobs, EngineSets
from tests.jobs.rows import enqueue, make_job, make_jobs, make_result

OLD_FINISH = Path(__file__).parents[1] / "data" / "finish_before_engine_sets.lua"
OLD_KEYS = ("states", "counts", "jobs", "results", "cancels", "superseded", "replaced")
COUNTERS = batch_key("b", "engine_sets")


def drawn(job: RenderJob, engine_set: str | None, *, model: str | None = None, state: str = "done") -> RenderResult:
    return make_result(job, state).model_copy(update={"engine_set": engine_set, "model_name": model})


def finish_as_before(ledger: Ledger, result: RenderResult) -> None:
    """What a worker of the version before this one does: its own script, which counts nothing."""
    script = ledger.client.register_script(OLD_FINISH.read_text())
    text = result.model_dump_json(exclude={"parameters"}, exclude_none=True)
    assert script(keys=batch_keys(result.batch, *OLD_KEYS), args=[result.id, result.state, text]) == 1  # type: ignore[arg-type]


def numbers(sets: EngineSets) -> dict[str, int]:
    return {of.engine_set: of.jobs for of in sets.sets}


def from_results(ledger: Ledger) -> EngineSets:
    """The truth, however the counters stand."""
    return engine_sets_of(ledger.results("b"))


def test_done_jobs_are_counted_by_engine_set_without_reading_a_result(ledger: Ledger) -> None:
    jobs = make_jobs(6)
    enqueue(ledger, jobs)
    for job, engine_set in zip(jobs, ("a", "a", "a", "b", "b"), strict=False):
        ledger.finish(drawn(job, engine_set, model=f"model {engine_set}"))
    expected = EngineSets(
        sets=(
            EngineSetJobs(engine_set="a", model="model a", jobs=3),
            EngineSetJobs(engine_set="b", model="model b", jobs=2),
        )
    )
    assert ledger.engine_sets("b", read_up_to=0) == expected == from_results(ledger)
    assert ledger.engine_sets("b").differ


def test_a_batch_without_a_result_has_no_set(ledger: Ledger) -> None:
    enqueue(ledger, make_jobs(1))
    assert ledger.engine_sets("b") == EngineSets() == ledger.engine_sets("no such batch")
    assert not ledger.engine_sets("b").differ


def test_jobs_that_failed_or_were_cancelled_are_no_pictures_of_a_set(ledger: Ledger) -> None:
    jobs = make_jobs(3)
    enqueue(ledger, jobs)
    for job, state in zip(jobs, ("done", "failed", "cancelled"), strict=True):
        ledger.finish(drawn(job, "a" if state == "done" else "b", state=state))
    assert numbers(ledger.engine_sets("b", read_up_to=0)) == {"a": 1}


def test_a_job_that_ends_twice_is_counted_once_for_the_set_that_was_first(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    assert ledger.finish(drawn(job, "a"))
    assert not ledger.finish(drawn(job, "b"))
    assert not ledger.finish(drawn(job, "a"))
    assert numbers(ledger.engine_sets("b", read_up_to=0)) == {"a": 1} == numbers(from_results(ledger))


def test_a_failed_job_that_is_rendered_again_counts_for_the_set_that_drew_it(ledger: Ledger) -> None:
    job = make_job()
    enqueue(ledger, [job])
    ledger.finish(drawn(job, "a", state="failed"))
    assert ledger.retry("b") == 1
    ledger.start(job, worker="w")
    ledger.finish(drawn(job, "b"))
    assert numbers(ledger.engine_sets("b", read_up_to=0)) == {"b": 1}


def test_a_corrected_row_counts_for_the_set_of_its_newest_version(ledger: Ledger) -> None:
    before, after = make_job(1, prompt="a cat"), make_job(1, prompt="a dog")
    enqueue(ledger, [before])
    ledger.finish(drawn(before, "a"))
    enqueue(ledger, [after])
    assert ledger.engine_sets("b", read_up_to=0) == EngineSets()
    ledger.finish(drawn(after, "b"))
    assert numbers(ledger.engine_sets("b", read_up_to=0)) == {"b": 1} == numbers(from_results(ledger))
    assert enqueue(ledger, [before]).done == 1  # the correction is taken back
    assert numbers(ledger.engine_sets("b", read_up_to=0)) == {"a": 1} == numbers(from_results(ledger))


def test_a_job_that_ends_after_its_row_was_corrected_is_not_counted(ledger: Ledger) -> None:
    before, after = make_job(1, prompt="a cat"), make_job(1, prompt="a dog")
    enqueue(ledger, [before])
    ledger.start(before, worker="w")
    enqueue(ledger, [after])
    ledger.finish(drawn(before, "a"))
    assert ledger.engine_sets("b", read_up_to=0) == EngineSets()


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_jobs_that_storage_brings_back_are_counted_as_their_sidecars_say(ledger: Ledger, times: int) -> None:
    jobs = make_jobs(3)
    finished = {job.id: drawn(job, "a" if job.row < 3 else "b", model="m") for job in jobs}
    for _ in range(times):
        ledger.enqueue(jobs, finished=finished)
    sets = ledger.engine_sets("b", read_up_to=0)
    assert numbers(sets) == {"a": 2, "b": 1}
    assert [of.model for of in sets.sets] == ["m", "m"]


def test_a_small_batch_whose_first_half_was_not_counted_is_counted_from_its_results(ledger: Ledger) -> None:
    jobs = make_jobs(5)
    enqueue(ledger, jobs)
    for job in jobs[:3]:
        finish_as_before(ledger, drawn(job, "a"))
    for job in jobs[3:]:
        ledger.finish(drawn(job, "b"))
    assert numbers(ledger.engine_sets("b")) == {"a": 3, "b": 2}
    assert ledger.engine_sets("b", read_up_to=4) == EngineSets(sets=(EngineSetJobs(engine_set="b", jobs=2),), unknown=3)


def test_a_batch_of_before_is_not_said_to_be_of_any_set_unless_its_results_were_read(ledger: Ledger) -> None:
    jobs = make_jobs(2)
    enqueue(ledger, jobs)
    for job in jobs:
        finish_as_before(ledger, drawn(job, "a"))
    assert ledger.engine_sets("b", read_up_to=0) == EngineSets(unknown=2)
    assert numbers(ledger.engine_sets("b")) == {"a": 2}


def test_a_correction_of_a_job_that_was_not_counted_takes_no_more_away_than_there_is(ledger: Ledger) -> None:
    first, second = make_jobs(2)
    enqueue(ledger, [first, second])
    finish_as_before(ledger, drawn(first, "a"))
    ledger.finish(drawn(second, "b"))
    enqueue(ledger, [make_job(1, prompt="corrected")])
    assert ledger.client.hgetall(COUNTERS) == {"b ": "1"}
    assert numbers(ledger.engine_sets("b", read_up_to=0)) == {"b": 1}


def test_counters_above_the_number_of_done_jobs_are_not_believed(ledger: Ledger) -> None:
    """As where a producer of before corrects rows: it does not know that there is something to take away."""
    jobs = make_jobs(2)
    enqueue(ledger, jobs)
    for job in jobs:
        ledger.finish(drawn(job, "a"))
    ledger.client.hincrby(COUNTERS, "b ", 1)
    assert ledger.engine_sets("b", read_up_to=0) == EngineSets(unknown=2)
    assert numbers(ledger.engine_sets("b")) == {"a": 2}


def test_results_that_name_no_set_are_not_known(ledger: Ledger) -> None:
    jobs = make_jobs(3)
    enqueue(ledger, jobs)
    for job, engine_set in zip(jobs, (None, "", "a"), strict=True):
        ledger.finish(drawn(job, engine_set))
    expected = EngineSets(sets=(EngineSetJobs(engine_set="a", jobs=1),), unknown=2)
    assert ledger.engine_sets("b", read_up_to=0) == expected == ledger.engine_sets("b")


def test_one_set_under_two_model_names_is_one_set(ledger: Ledger) -> None:
    """The digest does not depend on what the model was called where the set was built."""
    jobs = make_jobs(3)
    enqueue(ledger, jobs)
    for job, model in zip(jobs, (None, "sd15", "a model of mine"), strict=True):
        ledger.finish(drawn(job, "a", model=model))
    sets = ledger.engine_sets("b", read_up_to=0)
    assert sets.sets == (EngineSetJobs(engine_set="a", model="a model of mine", jobs=3),)
    assert not sets.differ
    assert sets == from_results(ledger)


def of_model(job: RenderJob, engine_set: str, name: str | None = "sd15") -> RenderResult:
    return drawn(job, engine_set, model=name).model_copy(update={"model": job.parameters.model})


def test_sets_differ_only_where_one_models_rows_were_drawn_by_two(ledger: Ledger) -> None:
    jobs = [make_job(row, model=model) for row, model in enumerate((None, "ink", "ink", "oil"), start=1)]
    enqueue(ledger, jobs)
    for job, engine_set in zip(jobs, ("a", "b", "b", "c"), strict=True):
        ledger.finish(of_model(job, engine_set))
    sets = ledger.engine_sets("b", read_up_to=0)
    assert sets == from_results(ledger)
    assert numbers(sets) == {"a": 1, "b": 2, "c": 1}
    assert [(model, [each.engine_set for each in of]) for model, of in sets.by_model] == [
        (None, ["a"]),
        ("ink", ["b"]),
        ("oil", ["c"]),
    ]
    assert not sets.differ
    more = [make_job(row, model="oil") for row in (5, 6)]
    enqueue(ledger, more)
    for job in more:
        ledger.finish(of_model(job, "b"))
    sets = ledger.engine_sets("b", read_up_to=0)
    assert [(model, [(each.engine_set, each.jobs) for each in of]) for model, of in sets.differing] == [
        ("oil", [("b", 2), ("c", 1)])
    ]
    assert sets == from_results(ledger)
    enqueue(ledger, [make_job(5, model="ink"), make_job(6, model="ink")])  # the rows are corrected
    assert not ledger.engine_sets("b", read_up_to=0).differ


def test_a_models_name_with_a_tab_is_no_row_that_asks_for_a_model(ledger: Ledger) -> None:
    jobs = [make_job(1), make_job(2, model="ink")]
    enqueue(ledger, jobs)
    for job in jobs:
        ledger.finish(of_model(job, "a", name="sd\t15"))
    sets = ledger.engine_sets("b", read_up_to=0)
    assert sets == from_results(ledger)
    assert [model for model, _ in sets.by_model] == [None, "ink"]


def test_a_result_that_is_not_json_is_superseded_like_any_other(ledger: Ledger) -> None:
    job = make_job(1)
    enqueue(ledger, [job])
    ledger.finish(drawn(job, "a"))
    for text in ("not json", "[]", '{"engine_set": 5}', '{"engine_set": null}'):
        ledger.client.hset(batch_key("b", "results"), job.id, text)
        enqueue(ledger, [make_job(1, prompt=text)])
        enqueue(ledger, [job])
        assert ledger.counts("b").total == 1


def test_large_batches_are_answered_by_the_counters_alone(ledger: Ledger) -> None:
    """The results of a batch that was counted in full are never read: here, there are none to read."""
    ledger.client.hset(batch_key("b", "counts"), "done", READ_UP_TO * 200)
    ledger.client.hset(COUNTERS, mapping={"a x": READ_UP_TO * 150, "b y": READ_UP_TO * 50})
    assert numbers(ledger.engine_sets("b", read_up_to=None)) == {"a": READ_UP_TO * 150, "b": READ_UP_TO * 50}
