"""Single files: the layouts that people have, and files that are something else."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from engines.errors import ModelRefused
from tests.engines.model.single_files import MODEL, PARTS, assert_original, load, of
from tests.engines.original import CONFIG, PREFIX, Original, save


@pytest.fixture(scope="module")
def v1_inference(original: Original) -> Path:
    """The .yaml of a model without a ControlNet."""
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    del config["model"]["params"]["control_stage_config"]
    path = original.config.with_name("v1-inference.yaml")
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("part", PARTS)
def test_v1_inference_goes_with_a_controlnet_of_its_own(
    original: Original, v1_inference: Path, tmp_path: Path, part: str
) -> None:
    model = save(of(original, *MODEL), tmp_path / "v1-5-pruned.safetensors")
    control = save(of(original, "controlnet"), tmp_path / "control_canny.pth")
    for named in (control, original.controlnet):
        assert_original(part, load(part, model, original, control=named, config=v1_inference), original)


def test_v1_inference_without_a_controlnet_says_how_to_name_one(
    original: Original, v1_inference: Path, tmp_path: Path
) -> None:
    model = save(of(original, *MODEL), tmp_path / "v1-5-pruned.safetensors")
    with pytest.raises(ModelRefused, match=r"holds no controlnet: .*; name a ControlNet with --controlnet$"):
        load("controlnet", model, original, config=v1_inference)


def test_a_named_controlnet_without_one_is_not_told_to_name_one(original: Original, tmp_path: Path) -> None:
    model = save(of(original, *MODEL), tmp_path / "v1-5-pruned.safetensors")
    with pytest.raises(ModelRefused, match=r"it looks like a checkpoint with a U-Net: it is named with --model$"):
        load("controlnet", original.model, original, control=model)


@pytest.mark.parametrize("positions", [True, False])
def test_a_merge_without_the_level_text_model_is_read(original: Original, tmp_path: Path, positions: bool) -> None:
    tensors = {name.replace(".transformer.text_model.", ".transformer."): t for name, t in original.tensors.items()}
    if not positions:
        del tensors["cond_stage_model.transformer.embeddings.position_ids"]
    path = save(tensors, tmp_path / "merge.safetensors")
    assert_original("text_encoder", load("text_encoder", path, original, config=original.config), original)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "control.pth", "diffusion_pytorch_model.bin"])
def test_a_controlnet_with_diffusers_names_is_read_from_a_file(original: Original, tmp_path: Path, name: str) -> None:
    """Its sizes are those of the model's U-Net: from a folder, or from the .yaml."""
    (source,) = original.controlnet.glob("*.safetensors")
    tensors = load_file(source)
    control = tmp_path / name
    if control.suffix == ".safetensors":
        save_file(tensors, control)
    else:
        torch.save(tensors, control)
    assert_original("controlnet", load("controlnet", original.model, original, control=control), original)
    model = save(of(original, *MODEL), tmp_path / "v1-5-pruned.safetensors")
    found = load("controlnet", model, original, control=control, config=original.config)
    assert_original("controlnet", found, original)


def test_a_controlnets_file_takes_its_sizes_from_the_models_folder(original: Original, tmp_path: Path) -> None:
    control = save(of(original, "controlnet"), tmp_path / "control.safetensors")
    assert_original("controlnet", load("controlnet", original.model, original, control=control), original)
    wrong = {"control_model.zero_convs.3.0.weight": torch.ones(3, 3, 1, 1)}
    save(of(original, "controlnet") | wrong, control)
    with pytest.raises(ModelRefused, match=r"of other sizes: .*; a ControlNet has the sizes of the model's U-Net$"):
        load("controlnet", original.model, original, control=control)


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("bare", [True, False])
def test_a_difference_controlnet_is_refused(original: Original, tmp_path: Path, marked: bool, bare: bool) -> None:
    unet = of(original, "unet", bare=True)
    tensors = {
        name if bare else PREFIX["controlnet"] + name: tensor - unet[name] if name in unet else tensor
        for name, tensor in of(original, "controlnet", bare=True).items()
    }
    if marked:
        tensors["difference"] = torch.ones(1)
    control = save(tensors, tmp_path / "control_canny_difference.safetensors")
    with pytest.raises(ModelRefused, match=r"_difference.safetensors is a 'difference' ControlNet: .* get the whole"):
        load("controlnet", original.model, original, control=control)


def test_a_controlnet_with_sparse_norms_is_refused_by_name(original: Original, tmp_path: Path) -> None:
    tensors = of(original, "controlnet")
    name = next(name for name in tensors if name.endswith("in_layers.0.weight"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.11 remarks on sparse tensors
        tensors[name] = tensors[name].to_sparse()
    control = save(tensors, tmp_path / "control.pth")
    with pytest.raises(ModelRefused, match=r"in_layers.0.weight is sparse or has no values"):
        load("controlnet", original.model, original, control=control)


@pytest.mark.parametrize("factor", [0.18215, 0.25])
def test_a_files_own_scale_factor_is_that_of_its_description_or_refused(
    original: Original, tmp_path: Path, factor: float
) -> None:
    model = save(of(original, *MODEL) | {"scale_factor": torch.tensor(factor)}, tmp_path / "model.safetensors")
    if factor == 0.18215:
        assert_original("vae", load("vae", model, original, config=original.config), original)
    else:
        with pytest.raises(ModelRefused, match=r"has the scale_factor \[0.25\], and its description has 0.18215"):
            load("vae", model, original, config=original.config)


def test_a_pickle_that_holds_more_is_not_told_to_be_named_as_it_was(original: Original, tmp_path: Path) -> None:
    path = tmp_path / "lightning.ckpt"
    torch.save({"state_dict": of(original, *MODEL), "callbacks": {Original: 1}}, path)
    with pytest.raises(ModelRefused, match=r"holds more than tensors.*where you trust it$"):
        load("unet", path, original)


@pytest.mark.parametrize(
    ("names", "look"),
    [
        (["lora_unet_mid_block.lora_down.weight"], "a LoRA"),
        (["unet.mid_block.attentions.0.lora.up.weight"], "a LoRA"),
        (["encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"], "a VAE saved by itself"),
        (["encoder.down_blocks.0.resnets.0.conv1.weight"], "a VAE saved by itself"),
        (["<cat-toy>"], "a textual inversion"),
        (["emb_params"], "a textual inversion"),
        (["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"], "a U-Net in diffusers' layout, saved by itself"),
        (["input_blocks.0.0.weight", "out.0.weight"], "a U-Net saved by itself"),
        (["text_model.embeddings.token_embedding.weight"], "a CLIP text encoder saved by itself"),
        (["control_model.time_embed.0.weight"], "a ControlNet: it is named with --controlnet"),
        (
            ["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.x"],
            "a ControlNet: it is named with --controlnet",
        ),
        (["conditioner.embedders.0.transformer.x", "first_stage_model.x"], "SDXL, which is not supported"),
        (["double_blocks.0.img_attn.qkv.weight"], "a transformer such as SD 3 or Flux"),
        (["ip_adapter.1.to_k_ip.weight", "image_proj.proj.weight"], "an IP-Adapter"),
        (["down_blocks.0.motion_modules.0.x"], "a motion module of AnimateDiff"),
        (["body.0.block1.weight"], "a T2I-Adapter"),
    ],
)
def test_a_file_that_is_no_model_is_said_to_be_what_it_looks_like(
    original: Original, tmp_path: Path, names: list[str], look: str
) -> None:
    path = save({name: torch.ones(2) for name in names}, tmp_path / "file.safetensors")
    with pytest.raises(ModelRefused, match=rf"file.safetensors holds no unet: .*; it looks like {look}"):
        load("unet", path, original)


def test_another_familys_text_encoder_is_named(original: Original, tmp_path: Path) -> None:
    for name, look in (("cond_stage_model.model.ln_final.bias", "SD 2 "), ("conditioner.embedders.0.x", "SDXL")):
        path = save(of(original, "unet", "vae") | {name: torch.ones(2)}, tmp_path / "file.safetensors")
        with pytest.raises(ModelRefused, match=rf"holds no text_encoder: .*; it looks like {look}"):
            load("text_encoder", path, original)


def test_a_textual_inversion_in_a_pickle_is_named(original: Original, tmp_path: Path) -> None:
    """It holds more than tensors, and none by name; its strings are read without running it."""
    path = tmp_path / "style.pt"
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(1, 768)}, "name": "style"}, path)
    with pytest.raises(ModelRefused, match=r"style.pt holds no unet: .*; it looks like a textual inversion"):
        load("unet", path, original)
    params = torch.nn.ParameterDict({"*": torch.ones(1, 768)})
    torch.save({"string_to_token": {"*": 265}, "string_to_param": params}, path)
    with pytest.raises(
        ModelRefused, match=r"style.pt holds (no unet|more than tensors).* looks like a textual inversion"
    ):
        load("unet", path, original)
