"""What lies beside a ControlNet's or a VAE's single file, and says what its tensors do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines.errors import ModelRefused
from engines.model.locate import find_weights
from engines.model.networks import load_networks
from engines.source import AdditionNames
from tests.engines.model.single_files import MODEL, of
from tests.engines.original import CONFIG, Original, save

PLAIN, HALF = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"


def load_with(original: Original, control: Path, vae: Path | None = None, model: Path | None = None) -> Any:
    named: dict[str, Any] = {} if model is None else {"original_config": str(original.config)}
    additions = AdditionNames(vae=None if vae is None else str(vae))
    tokenizer = str(original.tokenizer)
    weights = find_weights(
        str(model or original.model), str(control), tokenizer=tokenizer, additions=additions, **named
    )
    return load_networks(weights)


def described(folder: Path, to: Path, **fields: Any) -> Path:
    """A copy of a network's folder with other fields in its config.json."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | fields))
    return to


def pooling(path: Path, value: object) -> None:
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    config["model"]["params"]["global_average_pooling"] = value
    # Another program's .yaml may describe a model that is not the one to be rendered.
    config["model"]["params"]["cond_stage_config"]["params"] = {"layer": "hidden", "layer_idx": -2}
    path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("name", [PLAIN, HALF])
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"global_pool_conditions": True}, r"config.json has global_pool_conditions True"),
        ({"_class_name": "ControlNetUnionModel"}, "describes a network of another class: ControlNetUnionModel, not"),
    ],
)
def test_a_controlnets_file_in_its_folder_is_what_the_folders_configuration_says(
    original: Original, tmp_path: Path, name: str, fields: dict[str, Any], sentence: str
) -> None:
    folder = described(original.controlnet, tmp_path / "control", **fields)
    (folder / PLAIN).rename(folder / name)
    with pytest.raises(ModelRefused, match=sentence):
        load_with(original, folder / name)
    load_with(original, (folder / name).rename(tmp_path / "control.safetensors"))


def test_sdxls_vae_is_refused_by_the_file_in_its_folder(original: Original, tmp_path: Path) -> None:
    """Its tensors have SD1.5's names and sizes."""
    folder = described(original.model / "vae", tmp_path / "sdxl-vae", scaling_factor=0.13025)
    with pytest.raises(ModelRefused, match=rf"{PLAIN} is a VAE for another kind of model: its scaling_factor is 0\.13"):
        load_with(original, original.controlnet, vae=folder / PLAIN)


@pytest.mark.parametrize("name", ["sdxl_vae.safetensors", "SDXL-vae-fp16-fix.pt"])
def test_sdxls_vae_is_refused_by_its_name(original: Original, tmp_path: Path, name: str) -> None:
    vae = save(of(original, "vae", bare=True), tmp_path / name)
    control = save(of(original, "controlnet"), tmp_path / "sdxl-looking-control.pth")
    with pytest.raises(ModelRefused, match=rf"{name} is SDXL's VAE by its name"):
        load_with(original, control, vae=vae)
    renamed = vae.rename(tmp_path / f"vae{vae.suffix}")
    model = save(of(original, *MODEL), tmp_path / "sdxl-looking-model.safetensors")
    load_with(original, control, vae=renamed, model=model)


@pytest.mark.parametrize("single", [True, False])
def test_a_controlnets_yaml_beside_it_says_that_controls_are_pooled(
    original: Original, tmp_path: Path, single: bool
) -> None:
    model = save(of(original, *MODEL), tmp_path / "model.safetensors") if single else None
    control = save(of(original, "controlnet"), tmp_path / "control.pth")
    load_with(original, control, model=model)
    pooling(tmp_path / "control.yaml", value=True)
    with pytest.raises(ModelRefused, match=r"control.yaml has params.global_average_pooling True \(controls are"):
        load_with(original, control, model=model)
    pooling(tmp_path / "control.yaml", value=False)
    load_with(original, control, model=model)


@pytest.mark.parametrize("name", ["control_v11e_sd15_shuffle.pth", "control_v11e_sd15_shuffle_fp16.safetensors"])
def test_controlnet_shuffle_is_refused_by_its_name(original: Original, tmp_path: Path, name: str) -> None:
    """Its tensors are those of any ControlNet; other programs go by the name, too."""
    control = save(of(original, "controlnet"), tmp_path / name)
    (tmp_path / name).with_suffix(".yaml").write_text("a: note")
    with pytest.raises(ModelRefused, match=rf"{name} is ControlNet Shuffle by its name"):
        load_with(original, control)
    pooling(control.with_suffix(".yaml"), value=False)
    load_with(original, control)


def test_a_model_with_several_controlnets_asks_for_one(original: Original, tmp_path: Path) -> None:
    """diffusers saves them as controlnet, controlnet_1, ..."""
    model = Path(shutil.copytree(original.model, tmp_path / "model"))
    for name in ("controlnet", "controlnet_1"):
        shutil.copytree(original.controlnet, model / name)
    with pytest.raises(ModelRefused, match=r"has several ControlNets \(controlnet, controlnet_1\): name one with"):
        find_weights(str(model))
    find_weights(str(model), str(model / "controlnet_1"))
