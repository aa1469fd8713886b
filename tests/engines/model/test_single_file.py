"""Single files: the layouts that people have, and a fault in any tensor of any part."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from engines.errors import ModelRefused
from engines.model.locate import find_weights
from engines.model.networks import load_network
from tests.engines.original import CONFIG, PREFIX, Original, make_original, save

PARTS = ("text_encoder", "unet", "vae", "controlnet")
MODEL = ("text_encoder", "unet", "vae")
# A tensor of each part, by its name in the file.
TENSOR = {
    "text_encoder": "text_model.encoder.layers.1.mlp.fc1.weight",
    "unet": "output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight",
    "vae": "decoder.mid.attn_1.q.weight",
    "controlnet": "zero_convs.3.0.weight",
}
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return make_original(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def v1_inference(original: Original) -> Path:
    """The .yaml of a model without a ControlNet."""
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    del config["model"]["params"]["control_stage_config"]
    path = original.config.with_name("v1-inference.yaml")
    path.write_text(yaml.safe_dump(config))
    return path


def of(original: Original, *parts: str, bare: bool = False) -> Tensors:
    """The tensors of some parts; `bare`: without the part's prefix."""
    prefixes = tuple(PREFIX[part] for part in parts)
    found = {name: tensor for name, tensor in original.tensors.items() if name.startswith(prefixes)}
    return {name.removeprefix(prefixes[0]): tensor for name, tensor in found.items()} if bare else found


def load(part: str, model: Path, original: Original, *, control: Path | None = None, config: Path | None = None) -> Any:
    controlnet = None if control is None else str(control)
    described = None if config is None else str(config)
    weights = find_weights(str(model), controlnet, tokenizer=str(original.tokenizer), original_config=described)
    return load_network(part, weights, torch.float32)


def assert_original(part: str, network: Any, original: Original) -> None:
    expected = load_network(part, find_weights(str(original.model), str(original.controlnet)), torch.float32)
    state = network.state_dict()
    assert list(state) == list(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(state[name], tensor), name
    for key in (
        "attention_head_dim",
        "num_attention_heads",
        "cross_attention_dim",
        "conditioning_embedding_out_channels",
    ):
        assert _plain(getattr(network.config, key, None)) == _plain(getattr(expected.config, key, None)), key


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


@pytest.mark.parametrize("part", PARTS)
def test_a_tensor_of_another_size_is_named(original: Original, tmp_path: Path, part: str) -> None:
    name = PREFIX[part] + TENSOR[part]
    tensors = original.tensors | {name: original.tensors[name][:-1]}
    path = save(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ModelRefused, match=rf"odd.safetensors has a {part} of other sizes: {name} is \(.*\), not \("):
        load(part, path, original, config=original.config)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", PARTS)
def test_nan_and_infinite_weights_are_refused(original: Original, tmp_path: Path, part: str, value: float) -> None:
    name = PREFIX[part] + TENSOR[part]
    spoilt = original.tensors[name].clone()
    spoilt.view(-1)[3] = value
    path = save(original.tensors | {name: spoilt}, tmp_path / "spoilt.ckpt")
    with pytest.raises(ModelRefused, match=rf"SD1.5's {part}: {name} has values that are NaN or infinite"):
        load(part, path, original, config=original.config)


@pytest.mark.parametrize("part", PARTS)
def test_a_surplus_tensor_has_no_place(original: Original, tmp_path: Path, part: str) -> None:
    path = save(original.tensors | {f"{PREFIX[part]}notes": torch.ones(3)}, tmp_path / "more.safetensors")
    with pytest.raises(ModelRefused, match=rf"cannot be read as SD1.5's {part}: notes has no place"):
        load(part, path, original, config=original.config)


@pytest.mark.parametrize(
    ("part", "name", "sentence"),
    [
        ("vae", "decoder.up.3.attn.0.q.weight", "decoder.up.3.attn.0.q.weight has no place"),
        ("vae", "quantize.embedding.weight", "quantize.embedding.weight says that it has a quantised latent space"),
        ("unet", "label_emb.0.0.weight", "label_emb.0.0.weight says that it has an embedding of classes"),
        ("unet", "input_blocks.1.0.in_layers.9.weight", "has no place"),
        ("unet", "output_blocks.2.2.conv.extra", "has no place"),
        ("controlnet", "input_hint_block.16.weight", "has no place"),
        ("text_encoder", "text_model.encoder.layers.0.self_attn.rotary.weight", "has no place"),
    ],
)
def test_what_diffusers_conversion_would_drop_is_refused(
    original: Original, tmp_path: Path, part: str, name: str, sentence: str
) -> None:
    path = save(original.tensors | {PREFIX[part] + name: torch.ones(3, 3)}, tmp_path / "more.safetensors")
    with pytest.raises(ModelRefused, match=sentence):
        load(part, path, original, config=original.config)


def test_trainings_own_tensors_are_listed(original: Original, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {"first_stage_model.loss.logvar": torch.ones(1), "first_stage_model.model_ema.decay": torch.ones(1)}
    path = save(original.tensors | more, tmp_path / "trained.safetensors")
    with caplog.at_level(logging.WARNING):
        assert_original("vae", load("vae", path, original, config=original.config), original)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} has tensors that SD1.5's vae does not use: loss.logvar, model_ema.decay"
    ]


def test_a_missing_bias_of_a_resampling_layer_is_named(original: Original, tmp_path: Path) -> None:
    """diffusers' functions expect these, and end with a KeyError."""
    for part, name in (("unet", "output_blocks.2.1.conv.bias"), ("vae", "decoder.up.1.upsample.conv.bias")):
        tensors = {each: t for each, t in original.tensors.items() if each != PREFIX[part] + name}
        with pytest.raises(ModelRefused, match=rf"SD1.5's {part}: \S+\.bias is missing$"):
            load(part, save(tensors, tmp_path / "lacking.safetensors"), original, config=original.config)


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


def test_a_merge_that_lacks_a_piece_of_the_text_encoder_is_refused(original: Original, tmp_path: Path) -> None:
    for name in ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight", "final_layer_norm.bias"):
        tensors = {each: t for each, t in original.tensors.items() if not each.endswith(f"text_model.{name}")}
        with pytest.raises(ModelRefused, match=rf"SD1.5's text_encoder: \S*{name} is missing$"):
            load("text_encoder", save(tensors, tmp_path / "merge.safetensors"), original, config=original.config)


def test_a_full_size_text_encoder_has_twelve_layers() -> None:
    """Its number of layers is in no .yaml: a file without the last one would describe a shorter encoder."""
    from engines.model.checkpoint import MAKERS, SD15
    from tests.engines.model.test_networks import on_paper
    from tests.engines.original import original_state

    state = original_state("text_encoder", on_paper().text_encoder)
    shorter = {PREFIX["text_encoder"] + name: t for name, t in state.items() if ".layers.11." not in name}
    network, renamed = MAKERS["text_encoder"](shorter, SD15)
    assert len({name for name in network.state_dict() if name not in renamed}) == 16


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


@pytest.mark.parametrize(
    "name",
    [
        "controlnet_cond_embedding.conv_in.weight",
        "controlnet_cond_embedding.blocks.5.weight",
        "time_embedding.linear_1.bias",
    ],
)
def test_a_tensor_that_a_controlnet_with_diffusers_names_lacks_is_named(
    original: Original, tmp_path: Path, name: str
) -> None:
    (source,) = original.controlnet.glob("*.safetensors")
    tensors = load_file(source)
    del tensors[name]
    save_file(tensors, tmp_path / "control.safetensors")
    with pytest.raises(ModelRefused, match=rf"SD1.5's controlnet: {name} is missing$"):
        load("controlnet", original.model, original, control=tmp_path / "control.safetensors")


@pytest.mark.parametrize("name", ["time_embed.0.weight", "input_hint_block.0.weight", "zero_convs.0.0.weight"])
def test_a_tensor_that_a_bare_controlnet_lacks_is_named(original: Original, tmp_path: Path, name: str) -> None:
    tensors = of(original, "controlnet", bare=True)
    del tensors[name]
    with pytest.raises(ModelRefused, match=r"SD1.5's controlnet: \S+ is missing$"):
        load("controlnet", original.model, original, control=save(tensors, tmp_path / "control.safetensors"))


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


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_tensor_is_named_as_the_file_would_name_it(original: Original, tmp_path: Path, part: str) -> None:
    name = PREFIX[part] + TENSOR[part]
    tensors = {each: tensor for each, tensor in original.tensors.items() if each != name}
    with pytest.raises(ModelRefused, match=rf"cannot be read as SD1.5's {part}: {name} is missing$"):
        load(part, save(tensors, tmp_path / "lacking.safetensors"), original, config=original.config)
