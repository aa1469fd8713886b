"""What a build does again for other additions, what it takes over from another set, and what its manifest says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.build.builder import BuildRequest, Step, build_set
from engines.check.verify import verify
from engines.engine_set import load_engine_set
from engines.errors import EngineSetRefused, ModelRefused
from engines.files import file_sha256
from engines.manifest import load_manifest
from engines.model.locate import find_weights
from engines.source import AdditionNames
from engines.spec import Profile
from jobs.settings import load_settings
from tests.engines.model.loras import UNET, kohya, random_pairs, save, tiny_network
from tests.models import tiny_model
from worker.renderer import load_renderer

TOKENIZER, CLIP, CONTROL, UNET_STAGE, DECODER = "tokenizer", "clip", "controlnet", "unet", "decoder"


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = random_pairs({"unet": tiny_network("unet")}, {"unet": UNET})
    return save(kohya(pairs), tmp_path_factory.mktemp("lora") / "style.safetensors")


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save({"emb_params": torch.ones(2, 32)}, tmp_path_factory.mktemp("embedding") / "toy.safetensors")


def request(out: Path, *, reuse: tuple[Path, ...] = (), **additions: Any) -> BuildRequest:
    return BuildRequest(
        model=str(tiny_model() / "model"),
        controlnet=str(tiny_model() / "controlnet"),
        out=out,
        backend="torch",
        precision="fp32",
        profiles=(Profile.parse("64x64", max_batch=1),),
        additions=AdditionNames(**additions),
        reuse=reuse,
    )


def built(out: Path, **named: Any) -> list[str]:
    """Build; the components whose stages ran."""
    steps: list[Step] = []
    build_set(request(out, **named), steps.append)
    return [step.component for step in steps if step.state == "done"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set without additions."""
    out = tmp_path_factory.mktemp("plain") / "set"
    assert built(out) == [TOKENIZER, CLIP, "hint", UNET_STAGE, DECODER]
    return out


def test_only_what_an_addition_changes_is_built_again(plain: Path, lora: Path, embedding: Path, tmp_path: Path) -> None:
    """Sets of one model share everything else: the kernels, and networks that are the same."""
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, []),
        ({"loras": (str(lora),)}, [CLIP, UNET_STAGE]),
        ({"embeddings": (str(embedding),), "clip_skip": 2}, [TOKENIZER, CLIP]),
        ({"vae": str(tiny_model() / "model" / "vae")}, [DECODER]),
    ]
    for i, (additions, components) in enumerate(cases):
        assert built(tmp_path / str(i), reuse=(plain,), **additions) == components, additions
        assert load_manifest(tmp_path / str(i)).source.additions == AdditionNames(**resolved(additions))
    digests = {load_manifest(folder).digest for folder in (plain, *tmp_path.iterdir())}
    assert len(digests) == 4  # the first is the plain set


def resolved(additions: dict[str, Any]) -> dict[str, Any]:
    """As a manifest names them: with weights and words."""
    changed = dict(additions)
    if "loras" in changed:
        changed["loras"] = tuple(f"{each}:1.0" for each in changed["loras"])
    if "embeddings" in changed:
        changed["embeddings"] = tuple(f"{each}:toy" for each in changed["embeddings"])
    return changed


def test_compiled_code_is_shared_by_sets_with_other_weights(lora: Path, embedding: Path) -> None:
    """Kernels and packages are looked for by this digest: embeddings change the text encoder's alone."""
    folder = tiny_model()

    def weights(**additions: Any) -> Any:
        return find_weights(str(folder / "model"), str(folder / "controlnet"), additions=AdditionNames(**additions))

    plain = weights()
    for name in ("clip", "hint", "controlnet", "unet", "decoder"):
        own = plain.graph_digest(name)
        assert own == plain.config_digest
        assert weights(loras=(str(lora),)).graph_digest(name) == own
        for other in (weights(clip_skip=2), weights(embeddings=(str(embedding),))):
            assert (other.graph_digest(name) == own) is (name != "clip")


def test_manifest_and_verify_know_what_was_added(lora: Path, embedding: Path, tmp_path: Path) -> None:
    vae = str(tiny_model() / "model")
    names = {"loras": (f"{lora}:0.5",), "vae": vae, "embeddings": (f"{embedding}:my word",), "clip_skip": 2}
    out = tmp_path / "set"
    built(out, **names)
    source = load_manifest(out).source
    assert [(each.file, each.digest, each.weight) for each in source.loras] == [(str(lora), file_sha256(lora), 0.5)]
    assert [(each.file, each.word) for each in source.embeddings] == [(str(embedding), "my word")]
    assert source.vae is not None
    assert (source.vae.file, source.clip_skip) == (vae, 2)
    said = source.built_with
    assert said is not None
    assert said["loras"] == [{"file": "style.safetensors", "digest": file_sha256(lora), "weight": 0.5}]
    assert [said["vae"]["file"], said["embeddings"][0]["file"], said["clip_skip"]] == ["model", "toy.safetensors", 2]
    command = load_manifest(out).build_command(tmp_path / "again")
    assert f"--lora {lora}:0.5 --vae {vae} --embedding '{embedding}:my word' --clip-skip 2" in command
    renderer = load_renderer(load_settings(engine_dir=str(out), device="cpu"))
    renderer.close()
    assert renderer.built_with == said
    assert all(finding.ok for finding in verify(out))
    with (
        load_engine_set(out) as engines,
        pytest.raises(
            EngineSetRefused,
            match=f"was built from other weights: .*; it has additions.* --lora {lora}:0.5 --vae {vae} ",
        ),
    ):
        load_engine_set(out, weights=find_weights(source.model, source.controlnet).digest)
    assert engines.digest == load_manifest(out).digest


def test_a_set_without_additions_is_written_and_named_as_before(plain: Path) -> None:
    text = (plain / "manifest.json").read_text()
    assert set(json.loads(text)["source"]) == {"model", "controlnet", "weights", "tokenizer", "original_config"}
    source = load_manifest(plain).source
    assert source.built_with is None
    assert source.weights == find_weights(source.model, source.controlnet).model_digest


def test_a_changed_lora_changes_the_set(lora: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(lora.read_bytes())
    out = tmp_path / "set"
    built(out, loras=(str(own),))
    before = load_manifest(out)
    assert built(out, loras=(str(own),)) == []
    save_file({name: tensor * 2 for name, tensor in load_file(own).items()}, own)
    assert built(out, loras=(str(own),)) == [CLIP, UNET_STAGE]
    assert load_manifest(out).digest != before.digest


def test_a_manifest_names_the_files_that_were_given_last(lora: Path, embedding: Path, tmp_path: Path) -> None:
    """The same bytes under other names: no stage runs, and `verify` looks where the files are now."""
    out, moved = tmp_path / "set", tmp_path / "moved"
    vae = tmp_path / "vae"
    shutil.copytree(tiny_model() / "model" / "vae", vae)
    built(out, loras=(str(lora),), vae=str(vae), embeddings=(f"{embedding}:toy",))
    before = load_manifest(out)
    moved.mkdir()
    files = {name: moved / Path(name).name for name in (str(lora), str(vae), str(embedding))}
    for name, file in files.items():
        shutil.copytree(name, file) if Path(name).is_dir() else shutil.copy(name, file)
    shutil.rmtree(vae)
    names = [str(file) for file in files.values()]
    given = {"loras": (names[0],), "vae": names[1], "embeddings": (f"{names[2]}:toy",)}
    assert built(out, **given) == []
    manifest = load_manifest(out)
    assert manifest.source.additions == AdditionNames((f"{names[0]}:1.0",), names[1], (f"{names[2]}:toy",))
    assert manifest == before.model_copy(update={"source": manifest.source})
    assert all(finding.ok for finding in verify(out))
    inode = (out / "manifest.json").stat().st_ino
    assert built(out, **given) == []
    assert (out / "manifest.json").stat().st_ino == inode


def unfit(folder: Path) -> list[tuple[dict[str, Any], str]]:
    """Additions that are found, and that the model cannot take."""
    no_lora = save({"some.weight": torch.ones(2, 2)}, folder / "style.safetensors")
    wide = save({"emb_params": torch.ones(2, 768)}, folder / "wide.safetensors")
    two = save({"a": torch.ones(2, 32), "b": torch.ones(2, 32)}, folder / "two.safetensors")
    return [
        ({"clip_skip": 99}, "--clip-skip takes 1"),
        ({"loras": (str(no_lora),)}, "is not a LoRA"),
        ({"vae": str(no_lora)}, r"style\.safetensors"),
        ({"vae": str(tiny_model() / "model" / "unet")}, "unet"),
        ({"embeddings": (f"{wide}:wide",)}, "was made for another model"),
        ({"embeddings": (f"{two}:two",)}, "is not a textual inversion"),
    ]


def test_an_addition_that_is_refused_is_refused_before_any_stage_and_leaves_no_folder(tmp_path: Path) -> None:
    files, out = tmp_path / "files", tmp_path / "new" / "folders" / "set"
    files.mkdir()
    for additions, sentence in unfit(files):
        steps: list[Step] = []
        with pytest.raises(ModelRefused, match=sentence):
            build_set(request(out, **additions), steps.append)
        assert (steps, list(tmp_path.iterdir())) == ([], [files]), additions


def test_a_set_to_reuse_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineSetRefused, match="is not a finished engine set"):
        build_set(request(tmp_path / "set", reuse=(tmp_path,)))
    assert not (tmp_path / "set").exists()


def test_a_changed_file_of_a_set_to_reuse_is_not_taken(plain: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(plain, tmp_path / "other"))
    (other / "tokenizer.json").write_text("{}")
    assert built(tmp_path / "set", reuse=(other,)) == [TOKENIZER]
    assert (tmp_path / "set" / "tokenizer.json").read_bytes() == (plain / "tokenizer.json").read_bytes()
