"""Folders in diffusers' layout: every tensor comes from the files, and is the one that from_pretrained reads."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from engines.errors import ModelRefused
from engines.model.folder import CLASSES, load_folder
from engines.model.libraries import quiet_libraries
from tests.engines.original import Original, make_original

PARTS = ("text_encoder", "unet", "vae", "controlnet")
# A tensor of each network, by the names of every version of the libraries.
TENSOR = {
    "text_encoder": "encoder.layers.1.mlp.fc1.weight",
    "unet": "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "vae": "decoder.mid_block.attentions.0.to_q.weight",
    "controlnet": "controlnet_down_blocks.3.weight",
}
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return make_original(tmp_path_factory.mktemp("original"))


def folder_of(original: Original, part: str) -> Path:
    return original.controlnet if part == "controlnet" else original.model / part


def weights_in(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def changed(original: Original, part: str, folder: Path, change: Callable[[Tensors], object]) -> Path:
    """A copy of one network's folder, with other tensors."""
    copy = Path(shutil.copytree(folder_of(original, part), folder / part))
    tensors = load_file(weights_in(copy))
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights_in(copy))
    return copy


def name_in(tensors: Tensors, part: str) -> str:
    return next(name for name in tensors if name.endswith(TENSOR[part]))


def put(part: str, value: Callable[[Tensor], Tensor]) -> Callable[[Tensors], object]:
    """Another value for the part's tensor."""

    def change(tensors: Tensors) -> None:
        name = name_in(tensors, part)
        tensors[name] = value(tensors[name])

    return change


def holding(value: float) -> Callable[[Tensor], Tensor]:
    """The same tensor with one other element."""

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[3] = value
        return tensor

    return change


def pretrained(part: str, folder: Path, **options: Any) -> Any:
    """What the libraries' own way of loading gives."""
    module: Any = transformers if part == "text_encoder" else diffusers
    with quiet_libraries():
        return getattr(module, CLASSES[part]).from_pretrained(folder, **options)


def assert_equal(mine: Any, theirs: Any) -> None:
    tensors = dict(mine.named_parameters()) | dict(mine.named_buffers())
    expected = dict(theirs.named_parameters()) | dict(theirs.named_buffers())
    assert list(tensors) == list(expected)
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype, name
        assert torch.equal(tensors[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("part", PARTS)
def test_a_network_is_the_one_that_from_pretrained_gives(original: Original, part: str, dtype: torch.dtype) -> None:
    folder = folder_of(original, part)
    mine, theirs = load_folder(part, folder, dtype), pretrained(part, folder, torch_dtype=dtype)
    assert_equal(mine, theirs)
    fields = (
        {key: value for key, value in theirs.config.to_dict().items() if not key.startswith("_")}
        if (part == "text_encoder")
        else {key: value for key, value in theirs.config.items() if not key.startswith("_")}
    )
    for key, value in fields.items():
        if key not in ("dtype", "torch_dtype", "architectures"):
            assert getattr(mine.config, key) == value, key


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_tensor_is_named(original: Original, tmp_path: Path, part: str) -> None:
    folder = changed(original, part, tmp_path, lambda tensors: tensors.pop(name_in(tensors, part)))
    with pytest.raises(ModelRefused, match=rf"{part} cannot be read as SD1.5's {part}: \S*{TENSOR[part]} is missing$"):
        load_folder(part, folder, torch.float32)


@pytest.mark.parametrize("part", PARTS)
def test_a_tensor_of_another_size_is_named(original: Original, tmp_path: Path, part: str) -> None:
    folder = changed(original, part, tmp_path, put(part, lambda tensor: tensor[:-1]))
    with pytest.raises(
        ModelRefused,
        match=rf"has a {part} of other sizes: \S*{TENSOR[part]} is \(.*\), not \(.*\); its config.json says so",
    ):
        load_folder(part, folder, torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", PARTS)
def test_nan_and_infinite_weights_are_refused(original: Original, tmp_path: Path, part: str, value: float) -> None:
    folder = changed(original, part, tmp_path, put(part, holding(value)))
    for dtype in (torch.float32, torch.float16):
        with pytest.raises(ModelRefused, match=rf"\S*{TENSOR[part]} has values that are NaN or infinite"):
            load_folder(part, folder, dtype)


def test_weights_too_large_for_half_precision_are_refused_there_alone(original: Original, tmp_path: Path) -> None:
    folder = changed(original, "unet", tmp_path, put("unet", holding(1e5)))
    assert load_folder("unet", folder, torch.float32)
    with pytest.raises(ModelRefused, match=r"to_k.weight has values that are too large for float16: build with --prec"):
        load_folder("unet", folder, torch.float16)


@pytest.mark.parametrize("part", PARTS)
def test_a_surplus_tensor_is_listed(
    original: Original, tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = changed(original, part, tmp_path, lambda tensors: tensors.update(notes=torch.ones(3)))
    with caplog.at_level(logging.WARNING):
        mine = load_folder(part, folder, torch.float32)
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder} has tensors that SD1.5's {part} does not use: notes"
    ]
    assert_equal(mine, load_folder(part, folder_of(original, part), torch.float32))


def test_an_untouched_model_gives_no_warning(original: Original, caplog: pytest.LogCaptureFixture) -> None:
    load_folder("text_encoder", folder_of(original, "text_encoder"), torch.float32)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("part", "name", "sentence"),
    [
        ("unet", "time_embedding.cond_proj.weight", "an embedding of the guidance scale, as LCM models have"),
        ("unet", "add_embedding.linear_1.weight", "conditions that SDXL adds"),
        ("unet", "class_embedding.linear_1.weight", "an embedding of classes"),
        ("unet", "down_blocks.0.motion_modules.0.proj_in.weight", "a video model's layers"),
        ("unet", "down_blocks.0.temp_convs.0.conv1.0.weight", "a video model's layers"),
        ("unet", "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.lora_A.weight", "a LoRA's layers"),
        ("unet", "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "a LoRA's layers"),
        ("unet", "encoder_hid_proj.image_embeds.weight", "an IP-Adapter's layers"),
        ("unet", "mid_block.attentions.0.transformer_blocks.0.fuser.linear.weight", "GLIGEN's layers"),
        ("unet", "conv_in.weight.absmax", "quantised weights"),
        ("controlnet", "add_embedding.linear_1.weight", "conditions that SDXL adds"),
        ("controlnet", "task_embedding", "a ControlNet for several conditions"),
        ("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight", "a LoRA's"),
        ("vae", "quantize.embedding.weight", "a quantised latent space"),
    ],
)
def test_a_surplus_tensor_of_another_kind_of_model_is_refused(
    original: Original, tmp_path: Path, part: str, name: str, sentence: str
) -> None:
    folder = changed(original, part, tmp_path, lambda tensors: tensors.update({name: torch.ones(3)}))
    with pytest.raises(ModelRefused, match=rf"is not SD1.5's {part}: {name} says that it has {sentence}"):
        load_folder(part, folder, torch.float32)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "mid_block.attentions.0.transformer_blocks.1.attn1.to_q.weight"),
        ("controlnet", "controlnet_down_blocks.12.weight"),
        ("vae", "encoder.down_blocks.3.attentions.0.to_q.weight"),
        ("text_encoder", "text_model.encoder.layers.2.mlp.fc1.weight"),
    ],
)
def test_a_layer_more_than_the_configuration_describes_is_refused(
    original: Original, tmp_path: Path, part: str, name: str
) -> None:
    folder = changed(original, part, tmp_path, lambda tensors: tensors.update({name: torch.ones(3)}))
    with pytest.raises(ModelRefused, match=rf"cannot be read as SD1.5's {part}: {name} has no place"):
        load_folder(part, folder, torch.float32)


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_a_text_encoder_of_every_version_of_transformers_is_read(
    original: Original, tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    def rename(tensors: Tensors) -> None:
        renamed = {prefix + name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
        tensors.clear()
        tensors.update(renamed, **{f"{prefix}embeddings.position_ids": torch.arange(77)[None]})

    folder = changed(original, "text_encoder", tmp_path, rename)
    mine = load_folder("text_encoder", folder, torch.float32)
    assert_equal(mine, pretrained("text_encoder", folder))
    assert_equal(mine, load_folder("text_encoder", folder_of(original, "text_encoder"), torch.float32))
    assert caplog.records == []


def test_a_text_encoder_with_both_spellings_of_a_name_is_refused(original: Original, tmp_path: Path) -> None:
    def double(tensors: Tensors) -> None:
        name = name_in(tensors, "text_encoder")
        bare = name.removeprefix("text_model.")
        tensors.update({bare: tensors[name].clone(), f"text_model.{bare}": tensors[name]})

    folder = changed(original, "text_encoder", tmp_path, double)
    with pytest.raises(ModelRefused, match=r"encoder.layers.1.mlp.fc1.weight has no place"):
        load_folder("text_encoder", folder, torch.float32)


def test_a_text_encoders_projection_and_positions_are_not_used(
    original: Original, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A CLIPTextModelWithProjection has the first; merges that cast positions to half precision spoilt the second."""
    extra = {"text_projection.weight": torch.ones(64, 64), "text_model.embeddings.position_ids": torch.ones(1, 77)}
    folder = changed(original, "text_encoder", tmp_path, lambda tensors: tensors.update(extra))
    mine = load_folder("text_encoder", folder, torch.float32)
    assert_equal(mine, load_folder("text_encoder", folder_of(original, "text_encoder"), torch.float32))
    assert [record.getMessage().removeprefix(f"{folder} ") for record in caplog.records] == [
        "has tensors that SD1.5's text_encoder does not use: text_projection.weight",
        "has text_model.embeddings.position_ids other than 0, 1, 2, ...: they are counted here, as diffusers does",
    ]


def test_a_vae_with_attention_as_diffusers_once_wrote_it_is_read(original: Original, tmp_path: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            for new, former in old.items():
                if f".attentions.0.{new}." in name:
                    tensors[name.replace(f".{new}.", f".{former}.")] = tensors.pop(name)

    folder = changed(original, "vae", tmp_path, rename)
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in load_file(weights_in(folder))
    mine = load_folder("vae", folder, torch.float32)
    assert_equal(mine, pretrained("vae", folder))
    assert_equal(mine, load_folder("vae", folder_of(original, "vae"), torch.float32))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_pieces_are_read(original: Original, tmp_path: Path, part: str, variant: str | None) -> None:
    network = load_folder(part, folder_of(original, part), torch.float16)
    network.save_pretrained(tmp_path / part, max_shard_size="200KB", variant=variant)
    assert len(list((tmp_path / part).glob("*.safetensors"))) > 1
    assert_equal(load_folder(part, tmp_path / part, torch.float16), network)
    (piece, *_) = sorted((tmp_path / part).glob("*.safetensors"))
    piece.unlink()
    with pytest.raises(ModelRefused, match=rf"cannot be read as SD1.5's {part}: {piece.name} is missing: .* names it"):
        load_folder(part, tmp_path / part, torch.float16)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("ending", ["fp16.safetensors", "fp16.bin", "bin"])
def test_a_variant_or_a_pickle_is_read_where_it_is_all_there_is(
    original: Original, tmp_path: Path, part: str, ending: str
) -> None:
    folder = Path(shutil.copytree(folder_of(original, part), tmp_path / part))
    source = weights_in(folder)
    tensors = {name: tensor.half() for name, tensor in load_file(source).items()}
    source.unlink()
    if ending.endswith("bin"):
        stem = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
        torch.save(tensors, folder / f"{stem}.{ending}")
    else:
        save_file(tensors, source.with_suffix(f".{ending}"))
    expected = load_folder(part, folder_of(original, part), torch.float32).half().float()
    assert_equal(load_folder(part, folder, torch.float32), expected)


def test_the_plain_weights_are_preferred_to_a_variant(original: Original, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of(original, "vae"), tmp_path / "vae"))
    save_file({"other": torch.ones(1)}, folder / "diffusion_pytorch_model.fp16.safetensors")
    assert load_folder("vae", folder, torch.float32)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_floating_point_number_is_read(original: Original, tmp_path: Path, stored: torch.dtype) -> None:
    folder = changed(
        original, "vae", tmp_path, lambda tensors: tensors.update({n: t.to(stored) for n, t in tensors.items()})
    )
    expected = load_folder("vae", folder_of(original, "vae"), torch.float32)
    mine = load_folder("vae", folder, torch.float32)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(mine.state_dict()[name], tensor.to(stored).to(torch.float32)), name


@pytest.mark.parametrize("stored", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_numbers_of_another_kind_are_refused(original: Original, tmp_path: Path, stored: torch.dtype) -> None:
    folder = changed(original, "unet", tmp_path, put("unet", lambda tensor: tensor.to(stored)))
    kind = str(stored).removeprefix("torch.")
    with pytest.raises(ModelRefused, match=rf"to_k.weight holds no floating-point numbers \({kind}\): quantised files"):
        load_folder("unet", folder, torch.float32)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "has no config.json, so the sizes of its {part} are not known"),
        ("{", "config.json is not JSON: "),
        ("\xff\xfe", "config.json is not JSON: "),
        ("[1]", "config.json is not a configuration: it holds list, no fields by name"),
    ],
)
def test_a_damaged_configuration_is_named(
    original: Original, tmp_path: Path, part: str, text: str | None, sentence: str
) -> None:
    folder = Path(shutil.copytree(folder_of(original, part), tmp_path / part))
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelRefused, match=sentence.format(part=part)):
        load_folder(part, folder, torch.float32)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("unet", "block_out_channels", "wide"),
        ("unet", "down_block_types", ["NoSuchBlock"] * 4),
        ("unet", "norm_num_groups", 7),
        ("vae", "block_out_channels", []),
        ("controlnet", "layers_per_block", None),
        ("text_encoder", "hidden_size", "wide"),
        ("text_encoder", "num_attention_heads", 7),
    ],
)
def test_a_configuration_that_describes_no_network_is_refused(
    original: Original, tmp_path: Path, part: str, field: str, value: object
) -> None:
    folder = Path(shutil.copytree(folder_of(original, part), tmp_path / part))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(ModelRefused, match=r"config\.json "):
        load_folder(part, folder, torch.float32)


@pytest.mark.parametrize(("part", "name"), [("unet", "UNetMotionModel"), ("vae", "AutoencoderTiny")])
def test_a_network_of_another_class_is_refused(original: Original, tmp_path: Path, part: str, name: str) -> None:
    folder = Path(shutil.copytree(folder_of(original, part), tmp_path / part))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": name}))
    with pytest.raises(
        ModelRefused, match=rf"config.json describes a network of another class: {name}, not {CLASSES[part]}"
    ):
        load_folder(part, folder, torch.float32)


def test_two_loads_share_no_memory_with_the_file(original: Original, tmp_path: Path) -> None:
    """The file may be replaced, or grow shorter, while the network is in use."""
    folder = Path(shutil.copytree(folder_of(original, "vae"), tmp_path / "vae"))
    network = load_folder("vae", folder, torch.float32)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights_in(folder).write_bytes(b"\0" * weights_in(folder).stat().st_size)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
