"""Locate a model's weights (folders, hub ids or single files) and compute their digest. No torch here."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.errors import ModelRefused, unreadable_is_refused
from engines.files import file_sha256
from engines.model.file_kinds import kind_of, strings_of
from engines.model.weight_files import files_to_fetch

log = logging.getLogger("engines")

MODEL_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# Component -> the network that it is made from.
PART_OF = {"clip": "text_encoder", "hint": "controlnet", "controlnet": "controlnet", "unet": "unet", "decoder": "vae"}
SINGLE_FILES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
# SD1.5's single files carry no tokenizer; the original code takes this one for all of them.
USUAL_TOKENIZER = "openai/clip-vit-large-patch14"
_OWN_HINT = "controlnet_cond_embedding."
_PATTERNS = ("*.json", "*.txt", "*.safetensors", "*.bin")
# The hub's client finds a cached repository complete if it has these, of those that the repository has.
_MARKS = ("model_index.json", "config.json", "unet/config.json", "vae/config.json", "text_encoder/config.json")
_TEXTS = ("*.json", "*.txt")
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer*.json", "special_tokens_map.json", "tokenizer/*")


@dataclass(frozen=True)
class Weights:
    """A model and its ControlNet on this machine's disk: each a folder in diffusers' layout, or a single file.

    `tokenizer` is a folder, None means the model's own; `original_config` describes single files, None means SD1.5.
    A .yaml that lies beside a model's file under the same name, as web interfaces have it, describes that file.
    """

    model: Path
    controlnet: Path
    tokenizer: Path | None = None
    original_config: Path | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over the names and contents of every file that the networks are made from."""
        return files_digest(list(self._files()))

    @property
    def config_digest(self) -> str:
        """SHA-256 over the networks' configurations: the same for every checkpoint of the same widths."""
        configs = ("config.json", self.original_config.name if self.original_config else "")
        own = self.controlnet if self._has_own_hint() else None
        return files_digest([(name, path) for name, path in self._files() if path.name in configs or path == own])

    def _has_own_hint(self) -> bool:
        """Whether the ControlNet is a file with diffusers' names: its tensors alone say the widths of its hint."""
        if not self.controlnet.is_file():
            return False
        names = strings_of(self.controlnet)
        return not names or any(name.startswith(_OWN_HINT) for name in names)

    @property
    def tokenizer_folder(self) -> Path:
        """The folder with the tokenizer's files."""
        return self.model / "tokenizer" if self.tokenizer is None else self.tokenizer

    def path_of(self, part: str) -> Path:
        """The folder that holds one network, or the single file that it is a part of."""
        if part == "controlnet":
            return self.controlnet
        return self.model if self.model.is_file() else self.model / part

    def _files(self) -> Iterator[tuple[str, Path]]:
        if self.model.is_file():
            yield "model", self.model
        else:
            for part in MODEL_PARTS:
                if part != "tokenizer":
                    yield from _listed(self.model / part, part, _PATTERNS)
        yield from _listed(self.tokenizer_folder, "tokenizer", _TEXTS)
        if not self.controlnet.is_file():
            yield from _listed(self.controlnet, "controlnet", _PATTERNS)
        elif self.controlnet != self.model:
            yield "controlnet", self.controlnet
        if self.original_config is not None:
            yield "original_config", self.original_config


@unreadable_is_refused()
def find_weights(
    model: str,
    controlnet: str | None = None,
    *,
    tokenizer: str | None = None,
    original_config: str | None = None,
    take_beside: bool = True,
) -> Weights:
    """Locate weights; without `controlnet`, the model's own `controlnet` folder, or the single file that has both.

    `take_beside`: without `original_config`, a .yaml of the model's name beside its file is taken.

    Raises:
        ModelRefused: the weights are not there, have another layout, are no weights, or the hub does not answer.
    """
    path = _path_of(model)
    tokens = None if tokenizer is None else _tokenizer(_path_of(tokenizer, _TOKENIZER_FILES))
    if path.is_dir():
        missing = [part for part in MODEL_PARTS if not (path / part).is_dir() and (part != "tokenizer" or not tokens)]
        if missing:
            raise ModelRefused(
                f"{path} is not in diffusers' layout: it has no {', '.join(missing)}{_other_layout(path)}"
            )
    elif tokens is None:
        tokens = _usual_tokenizer(path)
    control = _controlnet(path, controlnet)
    return Weights(path, control, tokens, _config(original_config, path, control, take_beside=take_beside))


def _other_layout(folder: Path) -> str:
    """The end of a sentence: what the folder is instead."""
    if (folder / "config.json").is_file():
        return "; it is the folder of one network: name that of the whole model"
    files = sorted(each.name for each in folder.iterdir() if each.suffix.lower() in SINGLE_FILES)
    return f"; it holds {files[0]}, which may be named itself" if files else ""


def _controlnet(model: Path, name: str | None) -> Path:
    if name is None and model.is_file():
        return model
    control = model / "controlnet" if name is None else _path_of(name)
    if not control.is_file() and not (control / "config.json").is_file():
        hint = "; name one with --controlnet" if name is None else ""
        raise ModelRefused(f"{control} holds no ControlNet (no config.json){hint}")
    return control


def _tokenizer(folder: Path) -> Path:
    inner = folder / "tokenizer"
    path = inner if inner.is_dir() else folder
    if not any((path / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise ModelRefused(f"{folder} holds no CLIP tokenizer (no vocab.json, no tokenizer.json)")
    return path


def _usual_tokenizer(model: Path) -> Path:
    try:
        return _tokenizer(_snapshot(USUAL_TOKENIZER, _TOKENIZER_FILES))
    except ModelRefused as error:
        raise ModelRefused(f"{model} has no tokenizer in it; name a folder with --tokenizer ({error})") from error


def _config(name: str | None, *weights: Path, take_beside: bool) -> Path | None:
    if name is None:
        beside = weights[0].with_suffix(".yaml")
        if not take_beside or not weights[0].is_file() or not beside.is_file():
            return None
        log.warning("%s, beside the model, describes it; --original-config names another .yaml", beside)
        return beside
    path = Path(name).expanduser()
    if not path.is_file():
        raise ModelRefused(f"{name} is not a file; --original-config takes a .yaml such as cldm_v15.yaml")
    if all(path.is_dir() for path in weights):
        raise ModelRefused(f"--original-config describes single-file checkpoints; {weights[0]} is a folder")
    return path


def _path_of(name: str, patterns: Sequence[str] | None = None) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix.lower() not in SINGLE_FILES:
            raise ModelRefused(f"{name} is a file of a kind that is not read; known are {', '.join(SINGLE_FILES)}")
        kind_of(path)  # a web page is refused before anything is fetched for it
        return path
    is_path = path.suffix in SINGLE_FILES or name.startswith((".", "/", "~")) or name.endswith("/")
    if is_path or name.count("/") > 1:
        raise ModelRefused(f"{name} is neither a folder, nor a file, nor a hub id")
    return _snapshot(name, patterns)


def _snapshot(hub_id: str, patterns: Sequence[str] | None = None) -> Path:
    """A repository's folder in the hub's cache, with the files that are needed; `patterns` names others.

    Where the hub does not answer, what the cache has is taken.
    """
    from huggingface_hub import HfApi, snapshot_download

    unanswered: Exception | None = None
    try:
        if patterns is None:
            files = HfApi().model_info(hub_id).siblings or []
            patterns = [_literal(name) for name in files_to_fetch([file.rfilename for file in files])]
    except Exception as error:  # noqa: BLE001 (the client's errors differ from version to version)
        unanswered, patterns = error, _MARKS
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns), local_files_only=unanswered is not None))
    except Exception as error:
        reason = " ".join(str(unanswered or error).split())
        raise ModelRefused(f"{hub_id} is no folder here, and the hub did not give it: {reason}") from error


def _literal(name: str) -> str:
    """A pattern that only this name fits."""
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in name)


def _listed(folder: Path, label: str, patterns: Sequence[str]) -> Iterator[tuple[str, Path]]:
    if folder.is_dir():
        with unreadable_is_refused():
            os.scandir(folder).close()  # `glob` finds nothing in a folder that may not be listed
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        yield f"{label}/{path.name}", path


@unreadable_is_refused()
def files_digest(files: list[tuple[str, Path]]) -> str:
    """SHA-256 over names and contents."""
    lines = [f"{name} {file_sha256(path)}" for name, path in sorted(files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
