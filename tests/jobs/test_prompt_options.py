"""The prompt options of a submission, in the ledger and in storage."""

from __future__ import annotations

import json

import pytest

from jobs.errors import OutputForbidden
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import PromptOptions
from jobs.prompt_options import read_prompt_options, write_prompt_options
from jobs.storage.memory import MemoryStore
from jobs.submission import part_uris

OPTIONS = PromptOptions(source="file:///jobs.csv", prompts={"n_prompt": "", "a_prompt": "línea\n"})


def test_storage_gives_them_back_for_their_source_and_batch() -> None:
    store = MemoryStore()
    write_prompt_options(store, "file:///out", "b", OPTIONS)
    assert read_prompt_options(store, "file:///out/", "b", OPTIONS.source) == OPTIONS
    assert read_prompt_options(store, "file:///out", "b", "file:///more.csv") is None
    assert read_prompt_options(store, "file:///out", "c", OPTIONS.source) is None


def test_they_are_no_part_of_the_manifest_so_earlier_versions_do_not_read_them() -> None:
    store = MemoryStore()
    write_prompt_options(store, "file:///out", "b", OPTIONS)
    ((uri, _),) = store.objects.items()
    assert uri.startswith("file:///out/b/manifest/")
    assert part_uris(store, "file:///out", "b") == []


def test_no_options_are_no_file() -> None:
    store = MemoryStore()
    write_prompt_options(store, "file:///out", "b", PromptOptions(source="s", prompts={}))
    assert store.objects == {}


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"version":2,"source":"s","prompts":{}}'])
def test_a_file_that_cannot_be_read_is_none(data: bytes) -> None:
    store = MemoryStore()
    write_prompt_options(store, "file:///out", "b", OPTIONS)
    (uri,) = store.objects
    store.objects[uri] = data
    assert read_prompt_options(store, "file:///out", "b", OPTIONS.source) is None


def test_fields_that_a_newer_version_adds_are_ignored() -> None:
    newer = json.dumps({**OPTIONS.model_dump(), "more": 1})
    assert PromptOptions.model_validate_json(newer) == OPTIONS


def test_storage_that_cannot_be_written_is_told() -> None:
    class Closed(MemoryStore):
        def write(self, uri: str, data: bytes, content_type: str) -> None:
            raise OutputForbidden("no")

    with pytest.raises(OutputForbidden):
        write_prompt_options(Closed(), "file:///out", "b", OPTIONS)


def test_the_ledger_keeps_what_it_was_told_first(ledger: Ledger) -> None:
    assert ledger.prompt_options("b", OPTIONS.source) is None
    assert ledger.keep_prompt_options("b", OPTIONS) == OPTIONS
    assert ledger.keep_prompt_options("b", PromptOptions(source=OPTIONS.source, prompts={})) == OPTIONS
    assert ledger.prompt_options("b", OPTIONS.source) == OPTIONS
    assert ledger.prompt_options("b", "file:///more.csv") is None
