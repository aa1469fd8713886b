"""Messages that dead workers left behind, of jobs that had ended."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.ledger.failures import Failures
from jobs.ledger.kombu_view import Delivered
from jobs.ledger.ledger import Ledger
from jobs.ledger.owners import Owners
from jobs.ledger.records import TERMINAL


def forget_left_behind(ledger: Ledger, delivered: Mapping[str, Delivered], owners: Owners, failures: Failures) -> None:
    """Remove messages of jobs that a worker ended before it died without acknowledging them.

    They are not needed (a retry writes a new one), and kombu would keep them for the visibility timeout, an hour. Until
    then they would count as work in hand, and a scaler would keep a machine for them.
    """
    suspects = [] if owners.forgiving else [id_ for id_, message in delivered.items() if owners.ignore(id_, message)]
    names = [info.name for info in ledger.batches()] if suspects else []
    for name in names:
        with failures.of(name):
            ended = [line.id for line in ledger.states_of(name, suspects) if line.state in TERMINAL]
            ledger.kombu.forget([delivered[id_].tag for id_ in ended])
