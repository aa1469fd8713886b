"""Sidecars name the LoRAs, the VAE, the embeddings and the clip skip of the set that drew a picture."""

from __future__ import annotations

import json
from dataclasses import replace

from jobs.job import RenderResult
from tests.worker.bench import Bench, queued

ADDED = {"loras": [{"file": "ink.safetensors", "digest": "ab" * 32, "weight": 0.8}], "clip_skip": 2}


def test_the_sidecar_names_what_was_added_and_the_ledger_does_not(bench: Bench) -> None:
    """Redis holds a result of every job; the set's digest is enough there."""
    bench.runner = replace(bench.runner, renderer=replace(bench.runner.renderer, built_with=ADDED))
    job = queued(bench)
    bench.run(job)
    text = bench.storage.objects[job.sidecar_uri]
    assert json.loads(text)["built_with"] == ADDED
    assert RenderResult.model_validate_json(text).built_with == ADDED
    assert bench.result(job).built_with is None


def test_a_set_without_additions_has_the_sidecar_of_before(bench: Bench) -> None:
    job = queued(bench)
    bench.run(job)
    assert "built_with" not in json.loads(bench.storage.objects[job.sidecar_uri])
