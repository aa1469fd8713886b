"""Sets that were built before backends became folders: their manifests are read, and their stages are reused.

That code wrote the files in data/. The keys are for made-up versions, with 'reads' as the digest of a stage's input.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engines.backends import registry
from engines.backends.recipe import Recipe
from engines.build.recipe import tokenizer_stage
from engines.errors import EngineSetRefused
from engines.manifest import EXPORT, MANIFEST, Manifest, json_key, load_manifest
from engines.spec import COMPONENTS, Profile

DATA = Path(__file__).parent / "data"
OLD_MANIFEST = DATA / "onnxruntime-manifest.json"
OLD_DIGEST = "212dbee7cd1d17b9610724b71f98e822eb44a53f83747f8aaeb37e843cf40933"
RECORDED = json.loads((DATA / "stage-keys.json").read_text())


@pytest.fixture
def old(tmp_path: Path) -> Manifest:
    shutil.copy(OLD_MANIFEST, tmp_path / MANIFEST)
    return load_manifest(tmp_path)


def test_an_old_manifest_is_read_and_names_the_same_set(old: Manifest) -> None:
    assert old.digest == OLD_DIGEST
    assert old.kernels == {}


def test_a_manifest_without_kernels_is_written_as_the_old_version_wrote_it(old: Manifest, tmp_path: Path) -> None:
    old.save(tmp_path)
    assert (tmp_path / MANIFEST).read_bytes() == OLD_MANIFEST.read_bytes()
    assert "kernels" not in old.model_dump()


def test_kernels_are_written_and_read_and_are_not_part_of_the_digest(old: Manifest, tmp_path: Path) -> None:
    newer = old.model_copy(update={"kernels": {"one": "key"}})
    newer.save(tmp_path)
    assert load_manifest(tmp_path) == newer
    assert newer.digest == old.digest


def test_the_stages_of_an_old_set_have_the_keys_that_a_build_looks_for(old: Manifest) -> None:
    recipe = Recipe(old.backend, old.runtime, old.precision, old.profiles, old.architecture, old.versions)
    stage = tokenizer_stage(recipe)
    assert json_key(stage.name, stage.inputs, old.source.weights) == old.tokenizer.key
    for name in COMPONENTS:
        (stage,) = registry.choose(old.backend).stages(recipe, name)
        assert json_key(stage.name, stage.inputs, old.source.weights) == old.components[name].stages[EXPORT].key


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["recipe"]["runtime"])
def test_every_backend_computes_the_keys_of_before(recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest of triton's sources is left out: it changes with the code, and should."""
    monkeypatch.setattr("engines.backends.triton.backend.sources_digest", lambda: "sources")
    fields = dict(recorded["recipe"])
    sizes = zip(fields.pop("profiles"), fields.pop("max_batches"), strict=True)
    profiles = tuple(Profile.parse(text, max_batch=max_batch) for text, max_batch in sizes)
    recipe = Recipe(profiles=profiles, **fields)
    stages = {name: registry.choose(recipe.backend).stages(recipe, name) for name in COMPONENTS}
    stages["tokenizer"] = (tokenizer_stage(recipe),)
    keys = {
        name: {stage.name: json_key(stage.name, stage.inputs, "reads") for stage in planned}
        for name, planned in stages.items()
    }
    assert keys == recorded["keys"]
    assert {name: list(planned) for name, planned in keys.items()} == {
        name: list(planned) for name, planned in recorded["keys"].items()
    }


def test_a_set_of_a_backend_that_is_not_known_is_refused(old: Manifest, tmp_path: Path) -> None:
    with pytest.raises(EngineSetRefused, match="is not valid at backend: Input should be 'tensorrt', 'triton'"):
        registry.backend_of(tmp_path, old.model_copy(update={"backend": "openvino"}))
