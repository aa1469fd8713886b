"""What is told beside a ControlNet's or a VAE's single file: by diffusers' config.json, its .yaml, and its name.

No tensor tells ControlNet Shuffle from other ControlNets, and SDXL's VAE from SD1.5's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from engines.errors import ModelRefused
from engines.model.checkpoint import read_yaml
from engines.model.fields import check_fields
from engines.model.folder import CONFIG, read_folder_config
from engines.model.rules.original import MODEL_RULES

_DIFFUSERS = "diffusion_pytorch_model"  # how the files begin that diffusers describes in a config.json
# A ControlNet's .yaml describes a model as well, which another one is rendered with: only these fields are its own.
_CONTROLNETS = ("params.only_mid_control", "params.global_average_pooling")
_SHUFFLE = re.compile(r"_shuffle(_fp16)?$", re.IGNORECASE)  # the names by which other programs know it
_SDXL = re.compile("sdxl", re.IGNORECASE)  # as in sdxl_vae.safetensors


def folder_of(path: Path) -> Path | None:
    """The folder in diffusers' layout of which a file of weights was named; None for a file by itself."""
    described = path.name.startswith(_DIFFUSERS) and path.is_file() and (path.parent / CONFIG).is_file()
    return path.parent if described else None


def check_beside(part: str, path: Path) -> None:
    """Refuse the file of a "controlnet" or a "vae" that is of another kind by what lies beside it.

    Raises:
        ModelRefused: its config.json or .yaml has a value that is not built here, or it is ControlNet Shuffle or SDXL's
            VAE by name.
    """
    if (folder := folder_of(path)) is not None:
        read_folder_config(part, folder)
    if part == "controlnet":
        _refuse_pooling(path)
    elif _SDXL.search(path.stem):
        raise ModelRefused(
            f"{path} is SDXL's VAE by its name, whose latents have another scale than SD1.5's; give the file another "
            "name if it was made for SD1.5"
        )


def _refuse_pooling(path: Path) -> None:
    described = path.with_suffix(".yaml")
    if described.is_file() and (own := _controlnets_own(described)):
        check_fields(str(described), own, {name: MODEL_RULES[name] for name in _CONTROLNETS})
    elif _SHUFFLE.search(path.stem):
        raise ModelRefused(
            f"{path} is ControlNet Shuffle by its name, whose controls are averaged over the picture, which is not "
            "rendered here; give the file another name if it is another ControlNet"
        )


def _controlnets_own(path: Path) -> dict[str, Any]:
    """The fields of a .yaml that are the ControlNet's own; none if it describes no model."""
    try:
        params = read_yaml(path)["model"]["params"]
    except ModelRefused:
        return {}
    names = {name.removeprefix("params."): name for name in _CONTROLNETS}
    return {names[name]: value for name, value in params.items() if name in names} if isinstance(params, dict) else {}
