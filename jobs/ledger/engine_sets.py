"""Which engine sets drew a batch's pictures: a hash of counters that the script which ends a job keeps.

A field is `<digest> <name>`, its value the number of done jobs whose result names them; where rows ask for a model, a
tab and that model follow. Workers of an earlier version end jobs without counting, and a correction by an earlier
producer takes no job out, so the numbers are compared with the number of done jobs before they are believed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from jobs.job import RenderResult
from jobs.ledger.records import EngineSetJobs, EngineSets

# A batch of so few done jobs is counted from its results where the counters do not cover it: a tenth of a second.
READ_UP_TO = 5_000
_NUMBER = re.compile(r"-?[0-9]{1,19}")


def engine_sets(counters: Mapping[str, str], *, done: int) -> EngineSets | None:
    """What the counters say; None where they mean nothing: they hold more jobs than are done, or no numbers."""
    tally = _Tally()
    for field, number in counters.items():
        if not _NUMBER.fullmatch(number):
            return None
        digest, _, rest = field.partition(" ")
        name, _, model = rest.rpartition("\t") if "\t" in rest else (rest, "", "")
        tally.add(digest, name=name, model=model, jobs=int(number))
    return tally.summed(done=done) if tally.total <= done else None


def engine_sets_of(results: Iterable[RenderResult]) -> EngineSets:
    """The same, from the results of a batch. A result that comes twice counts once, as it may from a Redis scan."""
    tally = _Tally()
    ids: set[str] = set()
    for result in results:
        if result.state != "done" or result.id in ids:
            continue
        ids.add(result.id)
        if result.engine_set:
            tally.add(result.engine_set, name=result.model_name, model=result.model, jobs=1)
    return tally.summed(done=len(ids))


class _Tally:
    """Jobs by the model that their rows ask for, and by the set that drew them."""

    def __init__(self) -> None:
        self._jobs: dict[str, Counter[str]] = {}  # by model, '' where rows ask for none
        self._names: dict[str, str] = {}  # by digest

    @property
    def total(self) -> int:
        return sum(jobs.total() for jobs in self._jobs.values())

    def add(self, digest: str, *, name: str | None, model: str | None, jobs: int) -> None:
        if jobs > 0:
            self._jobs.setdefault(model or "", Counter())[digest] += jobs
            # One name a set: it may be built from a model under another name, and results of before have no name.
            if name and name < self._names.get(digest, "\U0010ffff"):
                self._names[digest] = name

    def summed(self, *, done: int) -> EngineSets:
        together = sum(self._jobs.values(), start=Counter[str]())
        by_model = tuple((model or None, self._ordered(jobs)) for model, jobs in sorted(self._jobs.items()))
        if not any(self._jobs):
            by_model = ()  # no row asks for a model
        return EngineSets(sets=self._ordered(together), unknown=done - self.total, by_model=by_model)

    def _ordered(self, jobs: Counter[str]) -> tuple[EngineSetJobs, ...]:
        ordered = sorted(jobs.items(), key=lambda item: (-item[1], item[0]))
        return tuple(
            EngineSetJobs(engine_set=digest, model=self._names.get(digest), jobs=number) for digest, number in ordered
        )
