"""What is done with every configuration field of the networks: used, must have one value, or changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def check_config(part: str, path: Path, config: Mapping[str, Any]) -> None:
    """Hold the configuration of "unet", "vae", "controlnet" or "text_encoder" against its rules; `path` is its file.

    Raises:
        ModelRefused: naming the first field that is not known, or whose value is not built here.
    """


def check_original(path: Path, config: Mapping[str, Any]) -> None:
    """Hold an original .yaml (its "model" entry) against its rules.

    Raises:
        ModelRefused: naming the first field that is not known, or whose value is not built here.
    """
