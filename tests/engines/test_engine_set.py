from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from engines.engine_set import EngineSet, load_engine_set
from engines.errors import EngineSetRefused
from engines.spec import COMPONENTS, ComponentSpec
from tests.engines.sets import copy_of_set
from tests.models import tiny_engine_set


@pytest.fixture(scope="module")
def reference() -> EngineSet:
    return load_engine_set(tiny_engine_set("torch"), threads=2)


@pytest.fixture(scope="module")
def onnx() -> EngineSet:
    return load_engine_set(tiny_engine_set("onnxruntime"), threads=2)


def inputs_of(spec: ComponentSpec, batch: int, height: int, width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    made = {}
    for tensor in spec.inputs:
        shape = tensor.sized(batch, height=height, width=width)
        if tensor.dtype == "int64":
            made[tensor.name] = torch.randint(0, 500, shape, generator=generator)
        else:
            made[tensor.name] = torch.randn(shape, generator=generator)
    if "timestep" in made:
        made["timestep"] = torch.linspace(1, 981, len(made["timestep"])).round()
    return made


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 64), (3, 128, 192), (2, 256, 64)])
def test_onnxruntime_agrees_with_torch_at_sizes_that_were_not_traced(
    reference: EngineSet, onnx: EngineSet, name: str, batch: int, height: int, width: int
) -> None:
    spec = onnx.manifest.components[name].spec
    inputs = inputs_of(spec, batch, height, width)
    expected, found = reference.engine(name)(inputs), onnx.engine(name)(inputs)
    assert list(found) == [tensor.name for tensor in spec.outputs]
    for tensor in spec.outputs:
        assert found[tensor.name].shape == tensor.sized(batch, height=height, width=width)
        assert found[tensor.name].dtype == onnx.io_dtype
        torch.testing.assert_close(found[tensor.name], expected[tensor.name], rtol=1e-3, atol=1e-4)


def test_a_row_does_not_depend_on_its_neighbours(onnx: EngineSet) -> None:
    inputs = inputs_of(onnx.manifest.components["unet"].spec, 3, 128, 128)
    together = onnx.engine("unet")(inputs)["latent"]
    alone = onnx.engine("unet")({name: tensor[2:4] for name, tensor in inputs.items()})["latent"]
    torch.testing.assert_close(together[2:4], alone, rtol=1e-3, atol=1e-5)


def test_control_scales_are_taken_row_by_row_and_zero_means_no_control(onnx: EngineSet) -> None:
    inputs = inputs_of(onnx.manifest.components["controlnet"].spec, 1, 64, 64)
    inputs["control_scales"] = torch.stack([torch.zeros(13), torch.arange(13.0)])
    plain = onnx.engine("controlnet")(inputs | {"control_scales": torch.ones(2, 13)})
    scaled = onnx.engine("controlnet")(inputs)
    for i in range(13):
        assert not scaled[f"control{i}"][0].any()
        torch.testing.assert_close(scaled[f"control{i}"][1], plain[f"control{i}"][1] * i, rtol=1e-4, atol=1e-4)


def test_an_input_that_is_not_contiguous_is_read_right(onnx: EngineSet) -> None:
    hint = torch.rand(1, 64, 128, 3).permute(0, 3, 1, 2)
    found = onnx.engine("hint")({"hint": hint})["guided_hint"]
    torch.testing.assert_close(found, onnx.engine("hint")({"hint": hint.contiguous()})["guided_hint"])


def test_engines_are_opened_dropped_and_opened_again(onnx: EngineSet) -> None:
    onnx.load(COMPONENTS)
    before = onnx.engine("clip")
    onnx.unload(["clip", "no such component"])
    assert onnx.engine("clip") is not before


def test_a_set_says_what_it_takes(onnx: EngineSet) -> None:
    assert onnx.max_batch == 4
    assert onnx.supports(512, 256)
    assert not onnx.supports(576, 256)
    assert onnx.shapes_text() == "64x64:512x512"
    assert len(onnx.digest) == 64


def test_the_tokenizer_of_the_set_needs_no_transformers(onnx: EngineSet) -> None:
    tokenizer = Tokenizer.from_file(str(onnx.tokenizer_path))
    encoded = tokenizer.encode("A red cat")
    assert encoded.tokens[1:4] == ["a</w>", "red</w>", "cat</w>"]
    assert (encoded.ids[0], encoded.ids[4]) == (onnx.geometry.bos_token_id, onnx.geometry.eos_token_id)


def test_a_set_that_was_loaded_through_a_link_stays_that_set_when_the_link_changes(tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(tiny_engine_set("onnxruntime"))
    with load_engine_set(link) as engines:
        link.unlink()
        link.symlink_to(tmp_path / "another-set")
        engines.load(COMPONENTS)
        assert engines.tokenizer_path.is_file()


def test_a_second_engine_set_of_the_same_folder_is_the_same_set(onnx: EngineSet) -> None:
    folder: Path = onnx.folder
    assert load_engine_set(folder).digest == onnx.digest


def test_a_set_that_another_took_the_place_of_opens_no_engines(tmp_path: Path) -> None:
    """A worker opens engines when a row first needs the set, and again after the set has left the device."""
    folder = copy_of_set(tmp_path, "onnxruntime")
    engines = load_engine_set(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    copy.rename(folder)  # the same bytes
    engines.load(COMPONENTS)
    (folder / "unet.onnx").write_bytes((folder / "controlnet.onnx").read_bytes())
    engines.unload(COMPONENTS)
    with pytest.raises(EngineSetRefused, match=r"unet.onnx was changed after it was checked at the start; restart"):
        engines.load(COMPONENTS)
    shutil.rmtree(folder)
    with pytest.raises(EngineSetRefused, match=r"set/\S+ cannot be read: No such file"):
        engines.load(COMPONENTS)


def test_a_workers_cache_folder_reaches_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RENDER_CACHE_DIR, with `~`; without it a backend keeps nothing."""
    from engines.backends.torch.backend import TorchBackend
    from engines.file_check import FileCheck
    from jobs.settings import load_settings
    from worker.renderer import _opened

    folder, places = tiny_engine_set("torch"), []
    monkeypatch.setattr(TorchBackend, "open", lambda _self, _folder, _manifest, placement: places.append(placement))
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("~/kept", None):
        _opened(folder, FileCheck.of(folder), load_settings(cache_dir=value, device="cpu"))
    assert [place.cache for place in places] == [tmp_path / "kept", None]
