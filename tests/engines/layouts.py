"""Layouts of models as people have them, made from the tiny model with random weights.

python -m tests.engines.layouts FOLDER makes them all, to try by hand.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.models import tiny_model

NETWORKS = ("unet", "vae", "text_encoder")
Make = Callable[[Path], object]


def copied(folder: Path) -> Path:
    """A copy of the tiny model's folder."""
    return Path(shutil.copytree(tiny_model() / "model", folder, dirs_exist_ok=True))


def weights_in(folder: Path) -> Path:
    """A network's one file of weights."""
    (path,) = folder.glob("*.safetensors")
    return path


def rewritten(model: Path, rename: Callable[[str], str], dtype: torch.dtype | None = None) -> None:
    """Each network's weights under another name, in another type."""
    for part in NETWORKS:
        path = weights_in(model / part)
        tensors = load_file(path)
        path.unlink()
        converted = {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in tensors.items()}
        to = path.with_name(rename(path.name))
        if to.suffix == ".bin":
            torch.save(converted, to)
        else:
            save_file(converted, to, metadata={"format": "pt"})


def fp16_variant(model: Path) -> None:
    """Only `*.fp16.safetensors`, as many repositories have them beside the plain ones."""
    rewritten(model, lambda name: name.replace(".safetensors", ".fp16.safetensors"), torch.float16)


def bf16_variant(model: Path) -> None:
    """Only `*.bf16.safetensors`."""
    rewritten(model, lambda name: name.replace(".safetensors", ".bf16.safetensors"), torch.bfloat16)


def bfloat16(model: Path) -> None:
    """Plain names, bfloat16 inside."""
    rewritten(model, lambda name: name, torch.bfloat16)


def bin_only(model: Path) -> None:
    """Pickles, as before safetensors."""

    def rename(name: str) -> str:
        return "pytorch_model.bin" if name.startswith("model") else name.replace(".safetensors", ".bin")

    rewritten(model, rename)


def safety_checker(model: Path) -> None:
    """A checker of gigabytes and its extractor, as SD1.5's repository has them."""
    (model / "safety_checker").mkdir()
    (model / "feature_extractor").mkdir()
    (model / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    (model / "safety_checker" / "config.json").write_text(
        json.dumps({"architectures": ["StableDiffusionSafetyChecker"]})
    )
    save_file({"concept_embeds": torch.ones(17, 768)}, model / "safety_checker" / "model.safetensors")
    index(
        model,
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        requires_safety_checker=True,
    )


def no_safety_checker(model: Path) -> None:
    """Entries that are null, as pipelines without one are saved."""
    index(model, safety_checker=[None, None], feature_extractor=[None, None], image_encoder=[None, None])


def non_ema_beside(model: Path) -> None:
    """The weights without averaging beside the averaged ones, which are the plain file in SD1.5's repository."""
    path = weights_in(model / "unet")
    others = {name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}
    save_file(others, path.with_name("diffusion_pytorch_model.non_ema.safetensors"))


def index(model: Path, **fields: Any) -> None:
    """Other fields in model_index.json."""
    path = model / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def config(model: Path, part: str, **fields: Any) -> None:
    """Other fields in one network's config.json."""
    path = model / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def without_vae(model: Path) -> None:
    """The VAE is published by itself."""
    shutil.rmtree(model / "vae")


def only_non_ema(model: Path) -> None:
    """The averaged weights were not copied."""
    path = weights_in(model / "unet")
    path.rename(path.with_name("diffusion_pytorch_model.non_ema.safetensors"))


def inpainting(model: Path) -> None:
    """Nine channels: latents, a mask and the masked picture's latents."""
    config(model, "unet", in_channels=9)
    path = weights_in(model / "unet")
    tensors = load_file(path)
    save_file(tensors | {"conv_in.weight": tensors["conv_in.weight"].repeat(1, 3, 1, 1)[:, :9].contiguous()}, path)
    index(model, _class_name="StableDiffusionInpaintPipeline")


def sd2(model: Path) -> None:
    """OpenCLIP's text encoder, 1024 wide, and linear projections."""
    config(model, "unet", cross_attention_dim=1024, use_linear_projection=True, attention_head_dim=[5, 10, 20, 20])
    config(model, "text_encoder", hidden_size=1024, hidden_act="gelu", num_hidden_layers=23)


def sdxl(model: Path) -> None:
    """Two text encoders and three levels."""
    for part in ("text_encoder_2", "tokenizer_2"):
        shutil.copytree(model / part.removesuffix("_2"), model / part)
    config(
        model,
        "unet",
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        block_out_channels=[320, 640, 1280],
        transformer_layers_per_block=[1, 2, 10],
    )
    index(model, _class_name="StableDiffusionXLPipeline")


def sdxl_without_index(model: Path) -> None:
    """The same, whose model_index.json was not copied."""
    sdxl(model)
    (model / "model_index.json").unlink()


def flux(model: Path) -> None:
    """A transformer in place of the U-Net."""
    (model / "unet").rename(model / "transformer")
    config(model, "transformer", _class_name="FluxTransformer2DModel")
    index(model, _class_name="FluxPipeline")


def sd3(model: Path) -> None:
    """The same, of another maker."""
    flux(model)
    index(model, _class_name="StableDiffusion3Pipeline")


def flax_only(model: Path) -> None:
    """JAX's weights."""
    path = weights_in(model / "unet")
    path.rename(path.with_name("diffusion_flax_model.msgpack"))


WORKING: dict[str, Make] = {
    "plain": lambda model: None,
    "fp16 variant": fp16_variant,
    "bf16 variant": bf16_variant,
    "bfloat16": bfloat16,
    ".bin only": bin_only,
    "safety checker": safety_checker,
    "safety checker of null": no_safety_checker,
    "EMA and non-EMA": non_ema_beside,
}
# What is refused, and the sentence about it: what it is, and what to do.
_SD15 = "which is not rendered here; name a model of Stable Diffusion 1.5"
REFUSED: dict[str, tuple[Make, str]] = {
    "VAE missing": (without_vae, "it has no vae; name one with --vae"),
    "non-EMA only": (only_non_ema, "it has diffusion_pytorch_model.non_ema.safetensors"),
    "Flax only": (flax_only, "it has diffusion_flax_model.msgpack"),
    "inpainting": (inpainting, f"is an inpainting model (its U-Net's in_channels is 9), {_SD15}"),
    "SD 2": (sd2, f"is Stable Diffusion 2 (its U-Net's cross_attention_dim is 1024), {_SD15}"),
    "SDXL": (sdxl, f"is SDXL (model_index.json names StableDiffusionXLPipeline), {_SD15}"),
    "SDXL without index": (sdxl_without_index, f"is SDXL (its U-Net's cross_attention_dim is 2048), {_SD15}"),
    "Flux": (flux, f"is Flux (model_index.json names FluxPipeline), {_SD15}"),
    "SD 3": (sd3, f"is Stable Diffusion 3 (model_index.json names StableDiffusion3Pipeline), {_SD15}"),
}


def made(name: str, folder: Path) -> Path:
    """A model's folder in one of these layouts."""
    make = WORKING[name] if name in WORKING else REFUSED[name][0]
    model = copied(folder)
    make(model)
    return model


if __name__ == "__main__":
    for each in (*WORKING, *REFUSED):
        made(each, Path(sys.argv[1]) / each.replace(" ", "-"))
