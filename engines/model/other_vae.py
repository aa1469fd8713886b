"""`--vae`: where another VAE lies, and its sizes as far as they are known without reading it. No torch here."""

from __future__ import annotations

import json
from pathlib import Path

from engines.errors import ModelRefused
from engines.model.paths import other_layout, path_of

_CONFIG = "config.json"


def vae_path(name: str) -> Path:
    """The folder of an AutoencoderKL, or a single file; of a whole model's folder, the VAE's folder in it.

    Raises:
        ModelRefused: there is no VAE.
    """
    path = path_of(name)
    inner = path / "vae"
    if path.is_dir() and not (path / _CONFIG).is_file() and (inner / _CONFIG).is_file():
        return inner
    if path.is_dir() and not (path / _CONFIG).is_file():
        raise ModelRefused(
            f"{path} holds no VAE (no config.json, and no vae folder with one): --vae takes the folder of an "
            f"AutoencoderKL, that of a whole model, or a single file{other_layout(path)}"
        )
    return path


def vae_sizes(path: Path, original_config: Path | None) -> object:
    """The sizes of a VAE's network: a folder's configuration says them, a single file's .yaml, or they are SD1.5's."""
    defaults: dict[str, object] = {
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
    }
    if path.is_file():
        return defaults if original_config is None else original_config.name
    try:
        config = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
        return {name: config.get(name, default) for name, default in defaults.items()}
    except (OSError, ValueError, AttributeError):
        return None  # reading the network says what is wrong
