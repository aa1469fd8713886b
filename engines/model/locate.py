"""Locate a model's weights (folders, hub ids or single files) and compute their digest. No torch here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from engines.errors import ModelRefused, unreadable_is_refused
from engines.model.additions import NOTHING, Additions, find_embeddings, find_loras
from engines.model.families import refuse_other_families
from engines.model.file_kinds import strings_of
from engines.model.listing import NETWORK, TEXTS, files_digest, lines_digest, listed
from engines.model.other_vae import vae_path, vae_sizes
from engines.model.paths import other_layout, path_of, snapshot
from engines.source import NO_ADDITIONS, AdditionNames
from engines.typed_path import from_home

log = logging.getLogger("engines")

MODEL_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# Component -> the network that it is made from.
PART_OF = {"clip": "text_encoder", "hint": "controlnet", "controlnet": "controlnet", "unet": "unet", "decoder": "vae"}
# SD1.5's single files carry no tokenizer; the original code takes this one for all of them.
USUAL_TOKENIZER = "openai/clip-vit-large-patch14"
_OWN_HINT = "controlnet_cond_embedding."
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer*.json", "special_tokens_map.json", "tokenizer/*")


@dataclass(frozen=True)
class Weights:
    """A model and its ControlNet on this machine's disk: each a folder in diffusers' layout, or a single file.

    `tokenizer` is a folder, None means the model's own; `original_config` describes single files, None means SD1.5.
    A .yaml that lies beside a model's file under the same name, as web interfaces have it, describes that file.
    `additions` are what changes the networks after they are read.
    """

    model: Path
    controlnet: Path
    tokenizer: Path | None = None
    original_config: Path | None = None
    additions: Additions = NOTHING

    @property
    def digest(self) -> str:
        """SHA-256 over the names and contents of every file that the networks are made from, and of all additions."""
        return self.additions.joined(self.model_digest)

    @cached_property
    def model_digest(self) -> str:
        """SHA-256 over the names and contents of the model's and the ControlNet's files, without additions."""
        return files_digest(list(self._files()))

    def digest_of(self, component: str) -> str:
        """The digest of the files of one component, or of the tokenizer: others' additions do not change it."""
        return self.additions.joined(self.model_digest, component)

    def graph_digest(self, component: str) -> str:
        """The digest of what a component's compiled code depends on: no weights, so no LoRA and no VAE of its sizes."""
        digest = self.additions.joined_graph(self.config_digest, component)
        vae = self.additions.vae
        if component != "decoder" or vae is None:
            return digest
        sizes, own = (vae_sizes(path, self.original_config) for path in (vae, self.own_path("vae")))
        return digest if sizes == own else lines_digest([digest, f"vae {sizes}"])

    @cached_property
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
        return self.additions.vae if part == "vae" and self.additions.vae is not None else self.own_path(part)

    def own_path(self, part: str) -> Path:
        """The same without additions: where the model's own VAE would lie."""
        return self.model if self.model.is_file() else self.model / part

    def _files(self) -> Iterator[tuple[str, Path]]:
        if self.model.is_file():
            yield "model", self.model
        else:
            for part in MODEL_PARTS:
                if part != "tokenizer":
                    yield from listed(self.model / part, part, NETWORK)
        yield from listed(self.tokenizer_folder, "tokenizer", TEXTS)
        if not self.controlnet.is_file():
            yield from listed(self.controlnet, "controlnet", NETWORK)
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
    additions: AdditionNames = NO_ADDITIONS,
) -> Weights:
    """Locate weights; without `controlnet`, the model's own `controlnet` folder, or the single file that has both.

    `take_beside`: without `original_config`, a .yaml of the model's name beside its file is taken.

    Raises:
        ModelRefused: the weights are not there, have another layout, do not hold weights, or the hub does not answer.
    """
    path = path_of(model)
    tokens = None if tokenizer is None else _tokenizer(path_of(tokenizer, _TOKENIZER_FILES))
    vae = None if additions.vae is None else vae_path(additions.vae)
    if path.is_dir():
        _check_layout(path, {"tokenizer": tokens, "vae": vae})
    elif tokens is None:
        tokens = _usual_tokenizer(path)
    control = _controlnet(path, controlnet)
    config = _config(original_config, path, control, *([] if vae is None else [vae]), take_beside=take_beside)
    return Weights(path, control, tokens, config, _additions(additions, vae))


def _check_layout(model: Path, given: Mapping[str, Path | None]) -> None:
    """`given`: parts that may be missing, because they were named themselves."""
    refuse_other_families(model)
    missing = [part for part in MODEL_PARTS if not (model / part).is_dir() and given.get(part) is None]
    if missing:
        only_vae = "; name one with --vae" if missing == ["vae"] else ""
        raise ModelRefused(
            f"{model} is not in diffusers' layout: it has no {', '.join(missing)}{only_vae or other_layout(model)}"
        )


def _additions(names: AdditionNames, vae: Path | None) -> Additions:
    if names.clip_skip < 1:
        raise ModelRefused(f"--clip-skip {names.clip_skip}: the text encoder's last layer is 1, the one before it 2")
    return Additions(find_loras(names.loras), vae, find_embeddings(names.embeddings, _own_word), names.clip_skip)


def _own_word(path: Path) -> str:
    from engines.model.embedding import own_word  # it needs torch

    return own_word(path)


def _controlnet(model: Path, name: str | None) -> Path:
    if name is None and model.is_file():
        return model
    if name is None and (model / "controlnet_1").is_dir():
        raise ModelRefused(f"{model} has several ControlNets (controlnet, controlnet_1): name one with --controlnet")
    control = model / "controlnet" if name is None else path_of(name)
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
        return _tokenizer(snapshot(USUAL_TOKENIZER, _TOKENIZER_FILES))
    except ModelRefused as error:
        raise ModelRefused(f"{model} has no tokenizer in it; name a folder with --tokenizer ({error})") from error


def _config(name: str | None, *weights: Path, take_beside: bool) -> Path | None:
    if name is None:
        beside = weights[0].with_suffix(".yaml")
        if not take_beside or not weights[0].is_file() or not beside.is_file():
            return None
        log.warning("%s, beside the model, describes it; --original-config names another .yaml", beside)
        return beside
    path = from_home(name)
    if not path.is_file():
        raise ModelRefused(f"{name} is not a file; --original-config takes a .yaml such as cldm_v15.yaml")
    if all(path.is_dir() for path in weights):
        raise ModelRefused(f"--original-config describes single-file checkpoints; {weights[0]} is a folder")
    return path
