"""Textual inversion: the vectors of a word, from the files of its trainers.

- AUTOMATIC1111's: a pickle with `string_to_param`, or safetensors with `emb_params`. The word is the file's name.
- diffusers': one tensor by the word itself, such as `<cat-toy>`.

Each holds one vector [C] or several [n,C], and the word then stands for n tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engines.errors import ModelRefused
from engines.model.additions import Embedding
from engines.model.file_kinds import kind_of
from engines.model.look_alikes import WORD, look_of
from engines.model.tensor_files import load_pickle, read_tensors

_BY_FILE_NAME = ("emb_params", "clip_l", "*")
_SDXL = "clip_g"


class _Read(NamedTuple):
    """The word that the file has itself (None: its name), and its vectors, float32 [n, C]."""

    word: str | None
    vectors: Tensor


def own_word(path: Path) -> str:
    """The word of an embedding that the user gave none: the file's own, or its name without its ending.

    Raises:
        ModelRefused: as vectors_of.
    """
    return _read(path).word or path.stem


def vectors_of(embedding: Embedding, room: int) -> Tensor:
    """An embedding's vectors, float32 [n, C]; `room` is the number of tokens that a prompt has.

    Raises:
        ModelRefused: the file cannot be read, is not a textual inversion, is SDXL's, or has more vectors than fit in a
            prompt.
    """
    vectors = _read(embedding.path).vectors
    if len(vectors) > room:
        raise ModelRefused(
            f"{embedding.path} has {len(vectors)} vectors, and a prompt has room for {room} tokens: it could never be "
            "used as a whole"
        )
    return vectors


def _read(path: Path) -> _Read:
    tensors = _tensors(path)
    if _SDXL in tensors:
        raise ModelRefused(f"{path} is an embedding for SDXL (it has {_SDXL}), which is not rendered here; get SD1.5's")
    if len(tensors) != 1:
        look = look_of(tensors)
        if look is not None and look.endswith(WORD):
            look = None  # it was named as one
        raise ModelRefused(
            f"{path} is not a textual inversion: it holds {len(tensors)} tensors, not one"
            + (f"; {look}" if look else "; --embedding takes a file with one word's vectors")
        )
    ((name, tensor),) = tensors.items()
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.dim() not in (1, 2):
        raise ModelRefused(f"{path} is not a textual inversion: {name} holds no vectors of floating-point numbers")
    vectors = tensor.detach().to(torch.float32).reshape(-1, tensor.shape[-1])
    if not vectors.numel() or not torch.isfinite(vectors).all():
        raise ModelRefused(f"{path} cannot be used: {name} is empty, or has values that are NaN or infinite")
    return _Read(None if name in _BY_FILE_NAME else name, vectors)


def _tensors(path: Path) -> Mapping[str, Any]:
    if kind_of(path) == "safetensors":
        return read_tensors(path)
    # The first trainer wrote a torch container, which is as harmless as the tensors in it.
    with torch.serialization.safe_globals([nn.ParameterDict]):
        loaded = load_pickle(path)
    if "string_to_param" not in loaded:
        return {str(name): value for name, value in loaded.items()}
    given = loaded["string_to_param"]
    params = getattr(given, "_parameters", given)
    if not isinstance(params, Mapping) or len(params) != 1:
        raise ModelRefused(
            f"{path} is a textual inversion of several words, or of no word: give each a file of its own"
        )
    return {"*": next(iter(params.values()))}
