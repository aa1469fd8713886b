"""Tensors by name from one file: safetensors, or a pickle that is read without running its code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engines.errors import ModelRefused


def read_tensors(path: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Tensor]:
    """The tensors of a file whose names are `wanted`, by name. A `state_dict` inside a pickle is opened.

    Raises:
        ModelRefused: the file cannot be read, or holds more than tensors.
    """
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path, wanted)
    return {name: tensor for name, tensor in _read_pickle(path).items() if wanted(name)}


def _read_safetensors(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names if wanted(name)}
    except SafetensorError as error:
        raise ModelRefused(f"{path} is not a whole safetensors file: {error}") from error


def _read_pickle(path: Path) -> Mapping[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except pickle.UnpicklingError as error:
        raise ModelRefused(
            f"{path} holds more than tensors, and loading that could run anybody's code; "
            "get it as .safetensors, or convert it on a machine where you trust it"
        ) from error
    except (EOFError, RuntimeError, ValueError) as error:
        raise ModelRefused(f"{path} is not a whole checkpoint: {error}") from error
    while isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise ModelRefused(f"{path} is not a checkpoint: it holds a {type(loaded).__name__}, no tensors by name")
    return {str(name): tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}
