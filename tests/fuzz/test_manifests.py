"""Any text as manifest.json gives an engine set, or a refusal with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.errors import EngineSetRefused
from engines.file_check import check_files
from engines.manifest import MANIFEST, load_manifest
from tests.fuzz.documents import any_text
from tests.fuzz.outcome import result_or_sentence
from tests.models import tiny_engine_set


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads((tiny_engine_set() / MANIFEST).read_text())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_manifest_is_read_or_refused(document: Any, tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / MANIFEST).write_bytes(data.draw(any_text(document)))

    def use() -> None:
        manifest = load_manifest(tmp_path)
        assert manifest.digest
        assert manifest.max_batch > 0
        assert manifest.shapes_text
        manifest.covers(512, 512)
        check_files(tmp_path, manifest.files)

    said = result_or_sentence(use, EngineSetRefused)
    assert said is None or str(tmp_path) in said


def test_the_manifest_that_is_damaged_here_can_be_read_whole(document: Any, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(document))
    assert load_manifest(tmp_path).files
