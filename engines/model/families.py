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


def refuse_other_families(model: Path) -> None:
    """Refuse a model's folder whose model_index.json names the pipeline of another family.

    Raises:
        ModelRefused: saying which family it is.
    """
    try:
        name = json.loads((model / _INDEX).read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # it is not needed: the parts' own files decide
    family = next((what for begin, what in _FAMILIES.items() if str(name).startswith(begin)), None)
    if family is not None:
        raise ModelRefused(f"{model} is {family} ({_INDEX} names {name}), which is not rendered here; {WANTED}")
