"""LoRAs in every naming are merged exactly; what is no plain LoRA for SD1.5 is refused by file and tensor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engines.errors import ModelRefused
from engines.model.additions import Lora, find_loras
from engines.model.locate import find_weights
from engines.model.lora import lora_changes
from engines.model.networks import load_network
from engines.source import AdditionNames
from tests.engines.model.folders import pretrained
from tests.engines.model.loras import (
    TEXT,
    UNET,
    Naming,
    Pairs,
    before_peft,
    first_files,
    kohya,
    module_of,
    original_blocks,
    peft,
    random_pairs,
    save,
    tiny_network,
)
from tests.engines.required import required
from tests.models import tiny_model

LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_v"
Networks = dict[str, Any]


@pytest.fixture(scope="module")
def networks() -> Networks:
    return {part: tiny_network(part) for part in ("unet", "text_encoder")}


def merged(networks: Networks, *loras: Lora) -> dict[tuple[str, str], Tensor]:
    """Part and parameter -> its value with LoRAs, of those that change."""
    found = {}
    for part, network in networks.items():
        values = dict(network.named_parameters())
        for name, change in lora_changes(loras, part, network).items():
            found[part, name.removeprefix("text_model.")] = change(values[name].detach())
    return found


def assert_merged(networks: Networks, pairs: Pairs, found: dict[tuple[str, str], Tensor], weight: float = 1.0) -> None:
    assert set(found) == {(part, f"{layer}.weight") for part, layer in pairs}
    for (part, layer), pair in pairs.items():
        value = module_of(networks[part], layer).weight.detach()
        expected = value + weight * pair.difference.reshape(value.shape)
        assert torch.allclose(found[part, f"{layer}.weight"], expected, rtol=0, atol=1e-6), layer


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize(
    ("naming", "layers", "alphas"),
    [
        (kohya, None, True),
        (kohya, None, False),
        (peft, None, False),
        (before_peft, None, False),
        (first_files, {"unet": UNET, "text_encoder": TEXT}, False),
        (original_blocks, {"unet": UNET}, True),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_naming_is_merged(
    networks: Networks, tmp_path: Path, naming: Naming, layers: Any, alphas: bool, ending: str
) -> None:
    pairs = random_pairs(networks, **({} if layers is None else {"layers": layers}), alphas=alphas)
    path = save(naming(pairs), tmp_path / f"style.{ending}")
    assert_merged(networks, pairs, merged(networks, Lora(path, -0.7)), weight=-0.7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_merged_in_float32(networks: Networks, tmp_path: Path, dtype: torch.dtype) -> None:
    pairs = random_pairs(networks)
    rounded = {key: type(p)(p.down.to(dtype).float(), p.up.to(dtype).float(), p.alpha) for key, p in pairs.items()}
    path = save({name: tensor.to(dtype) for name, tensor in kohya(pairs).items()}, tmp_path / "half.safetensors")
    assert_merged(networks, rounded, merged(networks, Lora(path)))


def test_several_loras_add_up(networks: Networks, tmp_path: Path) -> None:
    first, second = random_pairs(networks), random_pairs(networks, {"unet": UNET}, seed=1, alphas=False)
    loras = (
        Lora(save(kohya(first), tmp_path / "a.safetensors"), 0.5),
        Lora(save(peft(second), tmp_path / "b.safetensors"), 2.0),
    )
    found = merged(networks, *loras)
    for (part, layer), pair in first.items():
        value = module_of(networks[part], layer).weight.detach()
        other = second.get((part, layer))
        expected = 0.5 * pair.difference + (0 if other is None else 2 * other.difference)
        assert torch.allclose(found[part, f"{layer}.weight"] - value, expected.reshape(value.shape), atol=1e-6)


@pytest.mark.parametrize("root", [False, True])
def test_pefts_alphas_are_read_from_the_files_metadata(networks: Networks, tmp_path: Path, root: bool) -> None:
    pairs = random_pairs(networks, alphas=False)
    config = {"lora_alpha": 3, "r": 2, "use_rslora": root, "alpha_pattern": {UNET[0]: 5}}
    metadata = {f"{part}.{name}": value for part in networks for name, value in config.items()}
    path = save(peft(pairs), tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    found = merged(networks, Lora(path))
    for (part, layer), pair in pairs.items():
        rank, alpha = pair.down.shape[0], 5 if layer == UNET[0] else 3
        value = module_of(networks[part], layer).weight.detach()
        expected = alpha / (rank**0.5 if root else rank) * pair.difference
        assert torch.allclose(found[part, f"{layer}.weight"] - value, expected.reshape(value.shape), atol=1e-6), layer


@pytest.mark.parametrize(
    "key", [f"^{UNET[0]}", UNET[0].split(".", 2)[2], r"down_blocks\.0\..*to_q", "nothing|down_blocks.*to_q"]
)
def test_keys_of_pefts_alphas_are_regular_expressions_for_the_end_of_a_name(
    networks: Networks, tmp_path: Path, key: str
) -> None:
    pairs = random_pairs(networks, {"unet": UNET}, alphas=False)
    metadata = {"unet.lora_alpha": 3, "unet.alpha_pattern": {key: 5}}
    found = merged(
        networks,
        Lora(save(peft(pairs), tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})),
    )
    scaled = {(part, layer): replace(pair, alpha=5 if layer == UNET[0] else 3) for (part, layer), pair in pairs.items()}
    assert_merged(networks, scaled, found)


@pytest.mark.parametrize("key", ["^encoder.layers.0.self_attn.q_proj", "^text_model.encoder.layers.0.self_attn.q_proj"])
def test_pefts_alphas_name_layers_of_the_text_encoder_as_any_version_does(
    networks: Networks, tmp_path: Path, key: str
) -> None:
    pairs = random_pairs(networks, {"text_encoder": TEXT}, alphas=False)
    metadata = {"text_encoder.lora_alpha": 3, "text_encoder.alpha_pattern": {key: 5}}
    path = save(peft(pairs), tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    scaled = {key: replace(pair, alpha=5 if key[1] == TEXT[0] else 3) for key, pair in pairs.items()}
    assert_merged(networks, scaled, merged(networks, Lora(path)))


def test_a_file_that_diffusers_saves_of_a_unet_alone_is_merged_with_its_alphas(
    networks: Networks, tmp_path: Path
) -> None:
    """`save_lora_adapter` writes neither tensors nor peft's configuration with a prefix."""
    peft = required("peft")
    unet = pretrained("unet", tiny_model() / "model" / "unet")
    config = {"r": 4, "lora_alpha": 16, "alpha_pattern": {"^mid_block.*to_v": 2}, "init_lora_weights": False}
    unet.add_adapter(peft.LoraConfig(target_modules=["to_q", "to_v"], **config))
    unet.save_lora_adapter(tmp_path)
    unet.fuse_lora()
    unet.unload_lora()
    expected = {name: value.detach() for name, value in unet.named_parameters() if ".to_q." in name or ".to_v." in name}
    (lora,) = find_loras([str(tmp_path)])
    found = merged(networks, lora)
    assert set(found) == {("unet", name) for name in expected}
    for name, value in expected.items():
        assert torch.allclose(found["unet", name], value, rtol=0, atol=1e-5), name


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "loftq", ["x"]])
def test_a_lora_that_was_trained_beside_changed_weights_is_refused(
    networks: Networks, tmp_path: Path, start: object
) -> None:
    metadata = {"unet.lora_alpha": 3, "unet.init_lora_weights": start}
    path = save(one(), tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    with pytest.raises(ModelRefused, match=r"a.safetensors was trained beside changed weights: .*init_lora_weights"):
        merged(networks, Lora(path))


@pytest.mark.parametrize("start", [None, True, False, "gaussian", "Gaussian", "eva", "orthogonal", "mica"])
def test_a_lora_that_was_trained_beside_the_weights_as_they_are_is_merged(
    networks: Networks, tmp_path: Path, start: object
) -> None:
    metadata = {"unet.lora_alpha": 3, "unet.init_lora_weights": start}
    path = save(one(), tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    assert len(merged(networks, Lora(path))) == 1


@pytest.mark.parametrize(("weight", "dtype"), [(1e6, torch.float16), (1e300, torch.float32)])
def test_a_sum_that_is_too_large_is_said_of_the_loras(tmp_path: Path, weight: float, dtype: torch.dtype) -> None:
    path = save(one(), tmp_path / "a.safetensors")
    names = AdditionNames(loras=(f"{path}:{weight}",))
    weights = find_weights(str(tiny_model() / "model"), str(tiny_model() / "controlnet"), additions=names)
    with pytest.raises(ModelRefused, match=r"with the LoRAs, mid_block.*to_v.weight has values that are too large for"):
        load_network("unet", weights, dtype)


def one(width: int = 32, rank: int = 2) -> dict[str, Tensor]:
    """A whole pair."""
    return {f"{LAYER}.lora_down.weight": torch.ones(rank, width), f"{LAYER}.lora_up.weight": torch.ones(width, rank)}


ONE = torch.ones(2, 2)
CONVOLUTION = "lora_unet_down_blocks_0_resnets_0_conv1"
REFUSED: list[tuple[dict[str, Tensor], str]] = [
    ({f"{LAYER}.hada_w1_a": ONE}, f"is a LoHa: it has {LAYER}.hada_w1_a; only plain LoRAs"),
    ({f"{LAYER}.lokr_w1": ONE}, f"is a LoKr: it has {LAYER}.lokr_w1; "),
    (one() | {f"{LAYER}.dora_scale": ONE}, f"is a DoRA: it has {LAYER}.dora_scale; "),
    ({"unet.conv_in.lora_magnitude_vector": ONE}, "is a DoRA: it has unet.conv_in.lora_magnitude_vector; "),
    ({f"{CONVOLUTION}.lora_mid.weight": ONE}, "is a LoCon (with a third factor): it has "),
    (
        {
            f"{CONVOLUTION}.lora_down.weight": torch.ones(2, 16, 3, 3),
            f"{CONVOLUTION}.lora_up.weight": torch.ones(16, 2, 1, 1),
        },
        f"is a LoCon: it has {CONVOLUTION}.lora_down.weight, which changes a convolution; ",
    ),
    (
        {
            "unet.down_blocks.1.resnets.0.conv_shortcut.lora_A.weight": torch.ones(2, 16, 1, 1),
            "unet.down_blocks.1.resnets.0.conv_shortcut.lora_B.weight": torch.ones(32, 2, 1, 1),
        },
        "is a LoCon: it has unet.down_blocks.1.resnets.0.conv_shortcut.lora_A.weight, which changes a convolution; ",
    ),
    (
        {
            f"lora_unet_input_blocks_1_0_in_layers_2.lora_{half}.weight": torch.ones(2, 2, 3, 3)
            for half in ("down", "up")
        },
        "is a LoCon: it has lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight",
    ),
    ({f"{LAYER}.oft_blocks": ONE}, "is an OFT: it has "),
    ({f"{LAYER}.diff": ONE}, "is a file of whole differences: it has "),
    (one() | {f"{LAYER}.lora_up.bias": ONE}, "is a LoRA with biases: it has "),
    (
        {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": ONE},
        "further text encoders, such as SDXL: it has ",
    ),
    (
        {"lora_unet_input_blocks_4_1_proj_in.alpha": torch.ones(())}
        | {"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_k.lora_down.weight": ONE},
        "is a LoRA for SDXL, whose attentions have several blocks: it has ",
    ),
    (
        {"unet.mid_block.attentions.0.transformer_blocks.9.attn1.to_k.lora_A.weight": ONE},
        "is a LoRA for SDXL, whose attentions have several blocks: it has ",
    ),
    ({"transformer.transformer_blocks.1.x.lora_A.weight": ONE}, "is a LoRA for a transformer such as Flux or SD 3: it"),
    ({"transformer.x.lora_A.weight": ONE}, "is a LoRA for a transformer such as Flux or SD 3: it has "),
    ({"base_model.model.x.lora_A.weight": ONE}, "is a LoRA as peft saves one network, without its alpha: it has "),
    (
        {"lora_unet_down_blocks_9_attentions_0_proj_in.lora_down.weight": ONE},
        "lora_unet_down_blocks_9_attentions_0_proj_in.lora_down.weight has no place in SD1.5's unet; only plain",
    ),
    (
        {"lycoris_unet_mid_block_attentions_0_proj_in.lora_down.weight": ONE},
        "cannot be merged: lycoris_unet_mid_block_attentions_0_proj_in.lora_down.weight has no place in SD1.5's ",
    ),
    (
        {"lora_controlnet": ONE, "input_blocks.1.0.in_layers.2.up": torch.ones(2, 1)},
        "is a Control-LoRA, a small ControlNet: it has ",
    ),
    (one() | {"surprise": ONE}, "cannot be merged: surprise has no place in SD1.5's networks; "),
    (
        one(width=64),
        f"was made for another model: {LAYER}.lora_down.weight is (2, 64) and the layer's other half (64, 2), ",
    ),
    (one(rank=0), "was made for another model: "),
    ({f"{LAYER}.lora_down.weight": ONE}, f"beside {LAYER}.lora_down.weight, the layer's up matrix is missing"),
    ({f"{LAYER}.alpha": torch.tensor(1.0)}, f"beside {LAYER}.alpha, the layer's down matrix is missing"),
    (one() | {f"{LAYER}.alpha": ONE}, f"{LAYER}.alpha is (2, 2), not one number"),
    (one() | {f"{LAYER}.lora_up.weight": torch.full((32, 2), torch.nan)}, "lora_up.weight has values that are NaN"),
    (
        one() | {f"{LAYER}.lora_up.weight": torch.ones(32, 2, dtype=torch.int8)},
        "holds no floating-point numbers (int8)",
    ),
    (one() | {f"{LAYER}.lora.up.weight": torch.ones(32, 2)}, "are for the same layer; "),
    ({"emb_params": ONE}, "is not a LoRA: it has no pairs of tensors for layers; it looks like a textual inversion"),
    (
        {"model.diffusion_model.out.2.bias": ONE},
        "is not a LoRA: it has no pairs of tensors for layers; it looks like a checkpoint",
    ),
]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "get one that was trained for SD1.5"),
        ("transformer.x.lora_A.weight", "get one that was trained for SD1.5"),
        ("lora_controlnet", "a whole ControlNet is needed: name one with --controlnet"),
        (f"{LAYER}.hada_w1_a", "build the set from the merged model"),
    ],
)
def test_what_no_program_can_merge_is_not_told_to_be_merged(
    networks: Networks, tmp_path: Path, name: str, advice: str
) -> None:
    path = save({name: ONE}, tmp_path / "style.safetensors")
    with pytest.raises(ModelRefused) as refused:
        merged(networks, Lora(path))
    assert str(refused.value).endswith(advice)
    assert ("merge it" in str(refused.value)) == (advice == "build the set from the merged model")


@pytest.mark.parametrize(("tensors", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_what_is_no_plain_lora_is_refused_by_file_and_tensor(
    networks: Networks, tmp_path: Path, tensors: dict[str, Tensor], sentence: str
) -> None:
    path = save(tensors, tmp_path / "style.safetensors")
    with pytest.raises(ModelRefused) as refused:
        merged(networks, Lora(path))
    assert str(refused.value).startswith(f"{path} ")
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "metadata",
    [
        '{"unet.alpha_pattern": {"(": 1}}',
        '{"unet.alpha_pattern": {"(?i)to_q": 1}}',
        '{"unet.alpha_pattern": {"x{99999999999}": 1}}',
        "{",
        "[]",
        '{"unet.lora_alpha": "x"}',
        '{"unet.lora_alpha": NaN}',
        '{"unet.alpha_pattern": [1]}',
    ],
)
def test_metadata_that_is_not_pefts_is_refused(networks: Networks, tmp_path: Path, metadata: str) -> None:
    path = save(one(), tmp_path / "a.safetensors", {"lora_adapter_metadata": metadata})
    with pytest.raises(ModelRefused, match="its metadata lora_adapter_metadata is not peft's configuration"):
        merged(networks, Lora(path))


def named(tmp_path: Path) -> tuple[Path, Path]:
    """Two files, one of them with a colon in its name."""
    return save(one(), tmp_path / "style.safetensors"), save(one(), tmp_path / "a:2")


def test_a_lora_is_named_with_its_weight(tmp_path: Path) -> None:
    plain, odd = named(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    inside = save(one(), folder / "pytorch_lora_weights.safetensors")
    found = find_loras([f"{plain}", f"{plain}:-0.25", f"{odd}", f"{odd}:1e-1", f"{folder}:3"])
    assert found == (Lora(plain), Lora(plain, -0.25), Lora(odd), Lora(odd, 0.1), Lora(inside, 3.0))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("style.safetensors:strong", "'strong' is not a weight; write a number, such as FILE:0.8"),
        ("style.safetensors:", "'' is not a weight"),
        ("style.safetensors:nan", "'nan' is not a weight"),
        ("style.safetensors:1e999", "'1e999' is not a weight"),
        ("nowhere.safetensors:0.8", "nowhere.safetensors:0.8: no such file is here; write FILE or FILE:0.8"),
        (".", "is a folder without pytorch_lora_weights.safetensors or pytorch_lora_weights.bin; name the file itself"),
        ("page.safetensors", "is a web page that was saved under this name"),
    ],
)
def test_a_lora_that_is_named_wrongly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    named(tmp_path)
    (tmp_path / "page.safetensors").write_text("<!doctype html>")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelRefused) as refused:
        find_loras([name])
    assert sentence in str(refused.value)
