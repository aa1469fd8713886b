"""LoRAs, another VAE, embeddings and clip skip -> engine set -> job -> PNG, against diffusers with the same files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.build.builder import BuildRequest, build_set
from engines.check.score import psnr
from engines.source import AdditionNames
from engines.spec import Profile
from tests.engines.model.loras import UNET, kohya, peft, random_pairs, save, tiny_network
from tests.engines.required import required
from tests.integration.test_schedule_parity import APART_DB, ENOUGH_DB, ours, source_picture
from tests.models import tiny_model
from tests.reference import Reference

ROWS = ({"prompt": "a photo of a <cat-toy> on a table", "seed": "42", "ddim_steps": "4", "image_resolution": "64"},)


class Case(NamedTuple):
    """What a build is given, and how diffusers is given the same."""

    additions: AdditionNames
    give: Callable[[Reference], None]


def loras(folder: Path) -> Case:
    """One in kohya's names with alphas, one as diffusers writes them; both change the text encoder too.

    All layers have one alpha, as trainers write it: diffusers 0.42 loses alphas that differ from layer to layer.
    """
    networks = {part: tiny_network(part) for part in ("unet", "text_encoder")}
    first = save(kohya(random_pairs(networks, alphas=1.5, strength=2.0)), folder / "first.safetensors")
    layers = {"unet": UNET[:2], "text_encoder": ("encoder.layers.1.self_attn.out_proj",)}
    second = save(peft(random_pairs(networks, layers, seed=1, alphas=False)), folder / "second.safetensors")
    names = AdditionNames(loras=(f"{first}:0.8", f"{second}:-0.5"))
    return Case(names, lambda reference: reference.add_loras((first, 0.8), (second, -0.5)))


def vae(folder: Path) -> Case:
    other = Path(shutil.copytree(tiny_model() / "model" / "vae", folder / "vae"))
    (path,) = other.glob("*.safetensors")
    tensors = load_file(path)
    name = "decoder.conv_in.weight"
    save_file(tensors | {name: tensors[name].flip(0).contiguous()}, path, metadata={"format": "pt"})
    return Case(AdditionNames(vae=str(other)), lambda reference: reference.take_vae(other))


def embedding(folder: Path) -> Case:
    """Three vectors, which are three tokens of the prompt."""
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(3))
    path = save({"<cat-toy>": vectors}, folder / "learned_embeds.safetensors")
    return Case(AdditionNames(embeddings=(str(path),)), lambda reference: reference.add_embedding(path, "<cat-toy>"))


def clip_skip(_: Path) -> Case:
    """2 is the layer before the last one, which diffusers calls 1."""
    return Case(AdditionNames(clip_skip=2), lambda reference: reference.skip_layers(1))


def built(out: Path, additions: AdditionNames) -> Path:
    build_set(
        BuildRequest(
            model=str(tiny_model() / "model"),
            controlnet=str(tiny_model() / "controlnet"),
            out=out,
            backend="torch",
            precision="fp32",
            profiles=(Profile.parse("64x64", max_batch=1),),
            additions=additions,
        )
    )
    return out


@pytest.mark.parametrize("make", [loras, vae, embedding, clip_skip])
def test_each_addition_is_rendered_as_diffusers_renders_it(tmp_path: Path, make: Callable[[Path], Case]) -> None:
    if make is loras:
        required("peft")
    case = make(tmp_path)
    reference = Reference(tiny_model())
    (tmp_path / "picture.png").write_bytes(source_picture())
    without = reference.render(tmp_path / "picture.png", ROWS[0])[0]
    case.give(reference)
    expected = reference.render(tmp_path / "picture.png", ROWS[0])[0]
    (mine,) = ours(built(tmp_path / "set", case.additions), ROWS)
    assert psnr(without, expected) < APART_DB
    assert psnr(mine, expected) >= ENOUGH_DB
