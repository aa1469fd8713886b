"""Networks' folders that a test may spoil, and what the libraries' own way of loading gives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from engines.model.folder import CLASSES
from engines.model.libraries import quiet_libraries
from tests.engines.original import Original

PARTS = ("text_encoder", "unet", "vae", "controlnet")
# A tensor of each network, by the names of every version of the libraries.
TENSOR = {
    "text_encoder": "encoder.layers.1.mlp.fc1.weight",
    "unet": "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "vae": "decoder.mid_block.attentions.0.to_q.weight",
    "controlnet": "controlnet_down_blocks.3.weight",
}
Tensors = dict[str, Tensor]


def folder_of(original: Original, part: str) -> Path:
    return original.controlnet if part == "controlnet" else original.model / part


def weights_in(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def copied(original: Original, part: str, folder: Path) -> Path:
    return Path(shutil.copytree(folder_of(original, part), folder / part))


def changed(original: Original, part: str, folder: Path, change: Callable[[Tensors], object]) -> Path:
    """A copy of one network's folder, with other tensors."""
    copy = copied(original, part, folder)
    tensors = load_file(weights_in(copy))
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights_in(copy))
    return copy


def name_in(tensors: Tensors, part: str) -> str:
    """The part's tensor, as this file calls it."""
    return next(name for name in tensors if name.endswith(TENSOR[part]))


def put(part: str, value: Callable[[Tensor], Tensor]) -> Callable[[Tensors], object]:
    """Another value for the part's tensor."""

    def change(tensors: Tensors) -> None:
        name = name_in(tensors, part)
        tensors[name] = value(tensors[name])

    return change


def holding(value: float) -> Callable[[Tensor], Tensor]:
    """The same tensor with one other element."""

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[3] = value
        return tensor

    return change


def pretrained(part: str, folder: Path, **options: Any) -> Any:
    """What the libraries' own way of loading gives."""
    module: Any = transformers if part == "text_encoder" else diffusers
    with quiet_libraries():
        return getattr(module, CLASSES[part]).from_pretrained(folder, **options)


def assert_equal(mine: Any, theirs: Any) -> None:
    """Every parameter and buffer, by name, dtype and value."""
    tensors = dict(mine.named_parameters()) | dict(mine.named_buffers())
    expected = dict(theirs.named_parameters()) | dict(theirs.named_buffers())
    assert list(tensors) == list(expected)
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype, name
        assert torch.equal(tensors[name], tensor), name
