"""Tensors by name from one file: safetensors, or a pickle that is read without running its code.

The file's contents decide which of the two it is, whatever its ending says.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engines.errors import ModelRefused
from engines.model.file_kinds import kind_of, strings_of
from engines.model.look_alikes import CHECKPOINT, look_of

# What torch.load raises for a damaged file, beside UnpicklingError.
_BROKEN = (EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError, OSError)
NESTED = 8  # state_dicts in one another are opened; a pickle may also be one that holds itself
_CUT = ("truncated", "invalid load key", "Ran out of input")


@dataclass(frozen=True)
class TensorFile:
    """An opened file: every name in it, not only those of tensors, and a function that reads wanted tensors."""

    path: Path
    names: tuple[str, ...]
    read: Callable[[Callable[[str], bool]], dict[str, Tensor]]


def read_tensors(path: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Tensor]:
    """The tensors of a file whose names are `wanted`, by name. A `state_dict` inside a pickle is opened.

    Raises:
        ModelRefused: the file cannot be read, or holds more than tensors.
    """
    return open_tensors(path).read(wanted)


def open_tensors(path: Path) -> TensorFile:
    """Open a file of either kind; nothing is read before it is asked for, as far as the format allows that.

    Raises:
        ModelRefused: as read_tensors.
    """
    if kind_of(path) == "safetensors":
        return TensorFile(path, _safetensors_names(path), lambda wanted: _read_safetensors(path, wanted))
    loaded = load_pickle(path)
    tensors = {str(name): tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}
    return TensorFile(
        path,
        tuple(map(str, loaded)),
        lambda wanted: {name: tensor for name, tensor in tensors.items() if wanted(name)},
    )


def metadata_of(path: Path) -> dict[str, str]:
    """What a safetensors file says beside its tensors; nothing for a pickle.

    Raises:
        ModelRefused: the file cannot be read.
    """
    if kind_of(path) != "safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _not_whole(path, error) from error


def _safetensors_names(path: Path) -> tuple[str, ...]:
    try:
        with safe_open(path, framework="pt") as file:
            return tuple(file.keys())
    except (SafetensorError, OSError) as error:
        raise _not_whole(path, error) from error


def _read_safetensors(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> ModelRefused:
    return ModelRefused(f"{path} is not a whole safetensors file: {error}")


def load_pickle(path: Path) -> Mapping[Any, Any]:
    """What a pickle holds by name, without running its code; a `state_dict` inside is opened.

    Raises:
        ModelRefused: it cannot be read, or holds more than tensors and plain values.
    """
    try:
        loaded = _torch_load(path)
    except pickle.UnpicklingError as error:
        if any(word in str(error) for word in _CUT):
            raise ModelRefused(f"{path} is not a whole checkpoint: {_first_line(error)}") from error
        look = look_of(strings_of(path))
        if look is not None and look.endswith(CHECKPOINT):
            look = None  # it was named as one
        raise ModelRefused(
            f"{path} holds more than tensors, and loading that could run any code; "
            "get it as .safetensors, or convert it on a machine where you trust it" + (f" ({look})" if look else "")
        ) from error
    except _BROKEN as error:
        raise ModelRefused(f"{path} is not a whole checkpoint: {_first_line(error)}") from error
    for _ in range(NESTED):
        if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
            loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise ModelRefused(f"{path} is not a checkpoint: it holds a {type(loaded).__name__}, no tensors by name")
    return loaded


def _torch_load(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":  # torch goes by the name, where it has one
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
