"""Which engine sets drew a batch's pictures: a hash of counters that the script which ends a job keeps.

A field is `<digest> <model>`, its value the number of done jobs whose result names them. Workers of an earlier version
end jobs without counting, and a correction by an earlier producer takes no job out, so the numbers are compared with
the number of done jobs before they are believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from jobs.job import RenderResult
from jobs.ledger.records import EngineSetJobs, EngineSets

# A batch of so few done jobs is counted from its results where the counters do not cover it: a tenth of a second.
READ_UP_TO = 5_000


def engine_sets(counters: Mapping[str, str], *, done: int) -> EngineSets | None:
    """What the counters say; None where they hold more jobs than are done, so that they mean nothing."""
    jobs: Counter[str] = Counter()
    models: dict[str, str] = {}
    for field, number in counters.items():
        digest, _, model = field.partition(" ")
        if int(number) > 0:
            jobs[digest] += int(number)
            _note_model(models, digest, model)
    return _summed(jobs, models, done=done) if jobs.total() <= done else None


def engine_sets_of(results: Iterable[RenderResult]) -> EngineSets:
    """The same, from the results of a batch. A result that comes twice counts once, as it may from a Redis scan."""
    jobs: Counter[str] = Counter()
    models: dict[str, str] = {}
    ids: set[str] = set()
    for result in results:
        if result.state != "done" or result.id in ids:
            continue
        ids.add(result.id)
        if result.engine_set:
            jobs[result.engine_set] += 1
            _note_model(models, result.engine_set, result.model_name)
    return _summed(jobs, models, done=len(ids))


def _note_model(models: dict[str, str], digest: str, model: str | None) -> None:
    """One name a set. The same set may be built from a model under another name; results of before have no name."""
    if model and model < models.get(digest, "\U0010ffff"):
        models[digest] = model


def _summed(jobs: Counter[str], models: Mapping[str, str], *, done: int) -> EngineSets:
    ordered = sorted(jobs.items(), key=lambda item: (-item[1], item[0]))
    sets = tuple(EngineSetJobs(engine_set=digest, model=models.get(digest), jobs=number) for digest, number in ordered)
    return EngineSets(sets=sets, unknown=done - jobs.total())
