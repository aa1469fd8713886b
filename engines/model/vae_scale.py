"""Whether another VAE has the scale of the latents that the model's U-Net was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engines.errors import ModelRefused
from engines.model.beside import folder_of
from engines.model.folder import CONFIG, read_folder_config
from engines.model.locate import Weights
from engines.model.single_file import Description, check_scale
from engines.model.tensor_files import open_tensors

_SCALING_FACTOR = 0.18215  # if a configuration does not name one
_WANTED = "--vae takes one that was made for Stable Diffusion 1.5"
_SDXL = "conditioner."


def check_vae_scale(weights: Weights) -> None:
    """Hold another VAE's scaling factor against the model's own.

    VAEs that were made for the same U-Net have the same factor. A single file names none: the config.json beside it
    does, if it is diffusers', or its .yaml; else it is SD1.5's, as that of a model without a VAE.

    Raises:
        ModelRefused: they differ, as SDXL's and SD1.5's do, or the VAE is that of an SDXL checkpoint.
    """
    other, own = weights.additions.vae, weights.own_path("vae")
    if other is None:
        return
    if other.is_file():
        _refuse_sdxl(other)
    its, wanted = (_scale(path, weights.original_config) for path in (other, own))
    if own.is_file():
        check_scale(open_tensors(own), wanted)
    if its != wanted:
        whose = "the model's own VAE" if own.exists() else "Stable Diffusion 1.5's VAE"
        raise ModelRefused(
            f"{other} is a VAE for another kind of model: its scaling_factor is {its}, that of {whose} is {wanted}; "
            f"{_WANTED}"
        )


def _refuse_sdxl(path: Path) -> None:
    """SDXL's VAE has the names and sizes of SD1.5's, so only what lies beside it tells."""
    name = next((name for name in open_tensors(path).names if name.startswith(_SDXL)), None)
    if name is not None:
        raise ModelRefused(f"{path} is a checkpoint of SDXL (it has {name}), whose VAE has another scale; {_WANTED}")


def _scale(path: Path, original_config: Path | None) -> float:
    config: Mapping[str, float]
    folder = folder_of(path) if path.is_file() else path
    if folder is None:
        config, name = Description(original_config).original()["model"]["params"], "scale_factor"
    else:
        config, name = read_folder_config("vae", folder) if (folder / CONFIG).is_file() else {}, "scaling_factor"
    return config.get(name, _SCALING_FACTOR)
