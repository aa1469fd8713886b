"""What the page shows of the chosen batch: its newest pictures, why jobs failed, and why others wait. JSON.

Each request reads the ledger, in a bounded number of commands whatever the batch's size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from pydantic import ValidationError

from jobs.job import RenderResult
from jobs.ledger.failures import Failures
from jobs.ledger.ledger import Ledger
from jobs.redaction import without_secrets
from producer.console import place
from producer.keep.observation import BatchCounts
from producer.keep.overview import of_batch
from producer.waiting import Reason, waiting

SHOWN_PICTURES = 36
LOOKED_THROUGH = 2_000  # results of a batch whose newest ones were not noted
SHOWN_REASONS = 8  # of each kind of failure
SHOWN_ROWS = 6  # of each reason
MOST_REFUSED = 5_000  # jobs whose refusals are read

Item = TypeVar("Item")


def details(ledger: Ledger, batch: BatchCounts) -> dict[str, object]:
    """The details of one batch. What is damaged in Redis is left out, and `damaged` says why.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """
    name, counts, failures = batch.info.name, batch.counts, Failures(only=None)

    def unless_damaged(read: Callable[[], list[Item]]) -> list[Item]:
        with failures.of(name):
            return read()
        return []

    newest = partial(_newest, ledger, name)
    done = unless_damaged(partial(newest, failed=False, there_are=counts.done, wanted=SHOWN_PICTURES))
    failed = unless_damaged(partial(newest, failed=True, there_are=counts.failed, wanted=None))
    waits = unless_damaged(partial(_waits, ledger, name))
    return {
        **of_batch(batch),
        "pictures": list(islice(_pictures(done), SHOWN_PICTURES)),
        "failures": _failures(failed),
        "failures_looked_at": len(failed),
        "waits": waits,
        "damaged": failures.get(name),
    }


def _newest(ledger: Ledger, batch: str, *, failed: bool, there_are: int, wanted: int | None) -> list[RenderResult]:
    """The newest results first. Workers of an earlier version did not note them: then the first LOOKED_THROUGH tell."""
    if not there_are:
        return []
    noted = ledger.newest(batch, failed=failed) if wanted is None else ledger.newest(batch, failed=failed, limit=wanted)
    if len(noted) >= min(there_are, wanted or 1):
        return noted
    state = "failed" if failed else "done"
    found = {result.id: result for result in _some(ledger, batch) if result.state == state}
    return sorted(found.values(), key=lambda result: -(result.finished_at or 0.0))


def _some(ledger: Ledger, batch: str) -> Iterator[RenderResult]:
    for text in islice(ledger.result_texts(batch), LOOKED_THROUGH):
        try:
            yield RenderResult.model_validate_json(text)
        except ValidationError:
            continue  # another program may have written anything there


def _pictures(results: Sequence[RenderResult]) -> Iterator[dict[str, object]]:
    for result in results:
        for sample, uri in enumerate(result.samples):
            yield {
                "path": f"pictures/{result.batch}/{result.id}/{sample}",
                "row": result.row,
                "sample": sample,
                "samples": len(result.samples),
                "prompt": result.prompt,
                "seed": result.seed,
                "uri": place(uri),
                "source": place(result.image),
                "width": result.width,
                "height": result.height,
                "worker": result.worker,
                "finished_at": result.finished_at,
                "warnings": [without_secrets(warning) for warning in result.warnings],
            }


def _failures(failed: Sequence[RenderResult]) -> list[dict[str, object]]:
    """Failures by kind, and within a kind by error text; those of most jobs first."""
    kinds: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for result in failed:
        kinds[result.error_kind or "error"][without_secrets(result.error or "no reason was given")].append(result.row)
    groups = [(kind, sum(map(len, said.values())), said) for kind, said in kinds.items()]
    groups.sort(key=lambda group: (-group[1], group[0]))
    return [
        {"kind": kind, "jobs": jobs, "reasons": _reasons(said), "more_reasons": max(0, len(said) - SHOWN_REASONS)}
        for kind, jobs, said in groups
    ]


def _reasons(said: dict[str, list[int]]) -> list[dict[str, object]]:
    ordered = sorted(said.items(), key=lambda item: (-len(item[1]), min(item[1])))
    return [
        {"text": text, "jobs": len(rows), "rows": sorted(rows)[:SHOWN_ROWS]} for text, rows in ordered[:SHOWN_REASONS]
    ]


def _waits(ledger: Ledger, batch: str) -> list[dict[str, object]]:
    """Why queued jobs are not rendered: what the workers that refused them said."""
    if ledger.refused_jobs(batch) > MOST_REFUSED:
        return []
    return [_wait(reason) for reason in waiting(ledger, batch).reasons[:SHOWN_REASONS]]


def _wait(reason: Reason) -> dict[str, object]:
    said = reason.example
    return {"jobs": reason.jobs, "worker": said.worker, "kind": said.kind, "text": without_secrets(said.text)}
