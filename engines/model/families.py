"""Folders of other families of models: told by their model_index.json, before a part is looked for. No torch here."""

from __future__ import annotations

import json
from pathlib import Path

from engines.errors import ModelRefused

WANTED = "name a model of Stable Diffusion 1.5, such as stable-diffusion-v1-5/stable-diffusion-v1-5"
_INDEX = "model_index.json"
# How a pipeline's class begins, and what it renders.
_FAMILIES = {
    "StableDiffusionXL": "SDXL",
    "StableDiffusion3": "Stable Diffusion 3",
    "Flux": "Flux",
    "LatentConsistency": "a latent consistency model (LCM)",
    "StableCascade": "Stable Cascade",
    "StableVideo": "a video model",
    "StableUnCLIP": "SD 2 unCLIP",
    "Kandinsky": "Kandinsky",
    "PixArt": "PixArt",
    "HunyuanDiT": "HunyuanDiT",
    "AuraFlow": "AuraFlow",
    "Sana": "Sana",
    "QwenImage": "Qwen-Image",
    "Lumina": "Lumina",
    "ZImage": "Z-Image",
    "Wan": "a video model",
    "AnimateDiff": "a video model",
}


# The width of the prompts that a U-Net takes, and the channels that it takes, where they tell the family.
_BY_PROMPTS = {1024: "Stable Diffusion 2", 2048: "SDXL", 1280: "the refiner of SDXL"}
_BY_CHANNELS = {
    9: "an inpainting model",
    8: "a model that edits pictures",
    7: "a model that enlarges pictures",
    5: "a model with depth as an input",
}


def refuse_other_families(model: Path) -> None:
    """Refuse a model's folder whose model_index.json, or whose U-Net's sizes, are those of another family.

    Raises:
        ModelRefused: saying which family it is.
    """
    name = _field(model / _INDEX, "_class_name")
    family = next((what for begin, what in _FAMILIES.items() if str(name).startswith(begin)), None)
    if family is not None:
        raise _refused(model, family, f"{_INDEX} names {name}")
    config = model / "unet" / "config.json"
    for field, families in (("cross_attention_dim", _BY_PROMPTS), ("in_channels", _BY_CHANNELS)):
        value = _field(config, field)
        if isinstance(value, int) and value in families:
            raise _refused(model, families[value], f"its U-Net's {field} is {value}")


def refuse_other_inputs(path: Path, name: str, channels: int) -> None:
    """Refuse a single file whose U-Net begins with a tensor `name` for so many channels.

    Raises:
        ModelRefused: saying which kind of model it is.
    """
    if channels in _BY_CHANNELS:
        raise _refused(path, _BY_CHANNELS[channels], f"{name} takes {channels} channels")


def _refused(path: Path, family: str, told: str) -> ModelRefused:
    return ModelRefused(f"{path} is {family} ({told}), which is not rendered here; {WANTED}")


def _field(path: Path, name: str) -> object:
    """A field of a JSON file, None if it is missing: the parts' own files are read with care later."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
