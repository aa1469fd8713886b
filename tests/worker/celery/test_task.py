"""What the Celery task makes of an outcome."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery.exceptions import Reject

from worker.celery.task import render
from worker.outcome import Outcome


def task_whose_job_ends(outcome: Outcome) -> SimpleNamespace:
    return SimpleNamespace(app=SimpleNamespace(service=SimpleNamespace(run_job=lambda _: outcome)))


def test_a_requeued_job_rejects_its_message_into_the_queue() -> None:
    with pytest.raises(Reject) as caught:
        render(task_whose_job_ends(Outcome.REQUEUED), "{}")
    assert caught.value.requeue


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.REQUEUED])
def test_every_other_outcome_acknowledges(outcome: Outcome) -> None:
    assert render(task_whose_job_ends(outcome), "{}") == outcome.value
