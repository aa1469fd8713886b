"""Results and sidecars name the picture that was rendered, without the secrets of its URL."""

from __future__ import annotations

import json
import os

import pytest

from jobs.errors import SourceNotFound
from jobs.ledger.records import Start
from tests.jobs.rows import make_job
from tests.jobs.test_redaction import SECRETS, WITHOUT_SECRETS
from worker.result import ResultWriter, sidecar

WRITER = ResultWriter(worker="w", engine_set="e")
EITHER = [(uri, uri) for uri in WITHOUT_SECRETS] + SECRETS


@pytest.mark.parametrize(("image", "recorded"), EITHER)
def test_the_picture_is_recorded_as_it_was_named_without_its_secrets(image: str, recorded: str) -> None:
    job = make_job(image=image)
    result = WRITER.ended(job, Start(decision="run", attempts=1), SourceNotFound("gone"))
    assert result.image == recorded
    assert json.loads(sidecar(job, result))["parameters"]["image"] == recorded


@pytest.mark.parametrize("error", [SourceNotFound, OSError])
def test_a_name_that_is_not_utf_8_can_be_recorded_in_an_error(error: type[Exception]) -> None:
    failure = error(os.fsdecode(b"caf\xe9.png") + " does not exist")
    result = WRITER.ended(make_job(), Start(decision="run", attempts=1), failure)
    assert "caf?.png does not exist" in json.loads(result.model_dump_json())["error"]
