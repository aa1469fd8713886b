"""Which files of a folder in diffusers' layout hold a network's weights, and which files of a hub repository to fetch.

No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from engines.errors import ModelRefused

# Tried where the plain file is missing, in this order.
VARIANTS = ("fp16", "bf16")
_DIFFUSERS = "diffusion_pytorch_model"
# Part -> the names that its weights may have, the preferred one first: those that the part's library reads, in its
# order. diffusers prefers a file in pieces (with an index) to a whole one, transformers the other way round.
_DIFFUSERS_NAMES = (
    f"{_DIFFUSERS}.safetensors.index.json",
    f"{_DIFFUSERS}.safetensors",
    f"{_DIFFUSERS}.bin",
    f"{_DIFFUSERS}.bin.index.json",
)
_TRANSFORMERS_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_NAMES = {
    "unet": _DIFFUSERS_NAMES,
    "vae": _DIFFUSERS_NAMES,
    "controlnet": _DIFFUSERS_NAMES,
    "text_encoder": _TRANSFORMERS_NAMES,
}
_INDEX = ".index.json"
_WEIGHTS = (".safetensors", ".bin")
_TEXTS = (".json", ".txt")
_STEMS = (_DIFFUSERS, "model.", "model-", "pytorch_model")
# The folders of a repository with a whole model that are fetched; in other repositories (a ControlNet's), all are.
_FOLDERS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "controlnet")
_WHOLE_MODEL = "model_index.json"


def weight_files(part: str, folder: Path) -> list[Path]:
    """The files that hold one network's weights: one, or the pieces that an index names.

    Raises:
        ModelRefused: no weights exist, or the index is damaged or names a missing file.
    """
    try:
        present = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise ModelRefused(f"{folder} cannot be read: {error.strerror}") from error
    name = next((name for name in _candidates(part) if name in present), None)
    if name is None:
        weights = sorted(other for other in present if PurePosixPath(other).suffix not in _TEXTS)
        others = f"; it has {', '.join(weights)}" if weights else ""
        raise ModelRefused(f"it has no weights ({' or '.join(_whole(part))}, or their fp16 variants){others}")
    return [folder / name] if not _is_index(name) else _pieces(folder / name, present)


def _candidates(part: str) -> Iterator[str]:
    yield from _NAMES[part]
    for variant in VARIANTS:
        for name in _NAMES[part]:
            yield from _variants_of(name, variant)


def _variants_of(name: str, variant: str) -> tuple[str, ...]:
    """'a.bin' -> 'a.fp16.bin'. Of an index there are two spellings, by diffusers' version."""
    if not _is_index(name):
        stem, ending = name.rsplit(".", 1)
        return (f"{stem}.{variant}.{ending}",)
    whole = name.removesuffix(_INDEX)
    return (f"{whole}.index.{variant}.json", f"{whole}.{variant}.index.json")


def _whole(part: str) -> list[str]:
    return [name for name in _NAMES[part] if not _is_index(name)]


def _is_index(name: str) -> bool:
    return name.endswith(".json")


def _pieces(index: Path, present: Collection[str]) -> list[Path]:
    try:
        names = json.loads(index.read_text())["weight_map"].values()
        pieces = sorted(set(map(str, names)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelRefused(f"{index} is not an index of weights (JSON with a weight_map)") from error
    if not pieces:
        raise ModelRefused(f"{index} names no files")
    for name in pieces:
        if "/" in name or "\\" in name or not name.endswith(_WEIGHTS):
            raise ModelRefused(f"{index} names {name!r}, which is not a file of weights in its own folder")
        if name not in present:
            raise ModelRefused(f"{name} is missing: {index.name} names it")
    return [index.parent / name for name in pieces]


def files_to_fetch(names: Sequence[str]) -> list[str]:
    """The files of a hub repository that a model or a ControlNet is read from, by their paths in it.

    fp16 files are left out of a folder that has the plain weights. Those are fetched in every format that is there:
    a set's digest covers them all.
    """
    fetched = [name for name in names if _may_be_fetched(name, whole_model=_WHOLE_MODEL in names)]
    plain = {_folder(name) for name in fetched if _is_plain(name)}
    return [name for name in fetched if not (_is_half(name) and _folder(name) in plain)]


def _may_be_fetched(name: str, *, whole_model: bool) -> bool:
    path = PurePosixPath(name)
    if path.suffix not in (*_WEIGHTS, *_TEXTS) or "non_ema" in name or ".onnx" in name:
        return False
    if not whole_model:
        return path.parts[0] != "safety_checker"
    # Weights at the top of such a repository are the same model as a single file: gigabytes that are not needed.
    return path.suffix in _TEXTS if len(path.parts) == 1 else path.parts[0] in _FOLDERS


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()


def _is_half(name: str) -> bool:
    return ".fp16." in name or ".fp16-" in name


def _is_plain(name: str) -> bool:
    stem = PurePosixPath(name).name
    return stem.startswith(_STEMS) and stem.endswith(_WEIGHTS) and not any(f".{each}" in stem for each in VARIANTS)
