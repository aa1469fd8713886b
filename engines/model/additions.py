"""What is added to a model before its set is built: LoRAs, another VAE, embeddings and clip skip. No torch here.

Each changes some of the components. Only those are built again for other additions, and compiled code, which holds no
weights, is compiled again only where an addition changes the network itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from engines.errors import ModelRefused, unreadable_is_refused
from engines.files import file_sha256
from engines.model.file_kinds import kind_of
from engines.model.listing import NETWORK, files_digest, lines_digest, listed
from engines.typed_path import from_home

TOKENIZER = "tokenizer"  # beside the components' names
# The names of files in a folder that libraries wrote.
_LORA_FILES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
_EMBEDDING_FILES = ("learned_embeds.safetensors", "learned_embeds.bin")


@dataclass(frozen=True)
class Lora:
    """A LoRA's file, and what its changes are multiplied with."""

    path: Path
    weight: float = 1.0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return file_sha256(self.path)


@dataclass(frozen=True)
class Embedding:
    """A textual inversion's file, and the word that stands for it in prompts."""

    path: Path
    word: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return file_sha256(self.path)


class _Line(NamedTuple):
    """One addition in a digest: what it is, the components it changes, and whether it changes their graph."""

    text: str
    components: tuple[str, ...]
    changes_graph: bool = False


@dataclass(frozen=True)
class Additions:
    """Additions on this machine's disk. `clip_skip` counts as web interfaces do: 1 is the text encoder's last layer."""

    loras: tuple[Lora, ...] = ()
    vae: Path | None = None
    embeddings: tuple[Embedding, ...] = ()
    clip_skip: int = 1

    @cached_property
    def vae_digest(self) -> str | None:
        """SHA-256 of the VAE's file, or over the files of its folder."""
        if self.vae is None:
            return None
        return file_sha256(self.vae) if self.vae.is_file() else files_digest(list(listed(self.vae, "vae", NETWORK)))

    def joined(self, digest: str, component: str | None = None) -> str:
        """The digest of the weights with what is added to a component (None: to any); itself where nothing is."""
        return _joined(digest, [line for line in self._lines if component is None or component in line.components])

    def joined_graph(self, digest: str, component: str) -> str:
        """The digest of the configurations with what changes a component's graph; itself where nothing does.

        A VAE of other sizes changes it too, which only Weights can tell.
        """
        return _joined(digest, [line for line in self._lines if line.changes_graph and component in line.components])

    @cached_property
    def _lines(self) -> list[_Line]:
        lines = [_Line(f"lora {lora.digest} {lora.weight!r}", ("clip", "unet")) for lora in self.loras]
        if self.vae is not None:
            lines.append(_Line(f"vae {self.vae_digest}", ("decoder",)))
        for each in self.embeddings:
            lines.append(_Line(f"embedding {each.digest} {each.word}", ("clip", TOKENIZER), changes_graph=True))
        if self.clip_skip != 1:
            lines.append(_Line(f"clip skip {self.clip_skip}", ("clip",), changes_graph=True))
        return lines


NOTHING = Additions()


def _joined(digest: str, lines: Sequence[_Line]) -> str:
    return lines_digest([digest, *(line.text for line in lines)]) if lines else digest


@unreadable_is_refused()
def find_loras(names: Sequence[str]) -> tuple[Lora, ...]:
    """Locate LoRAs, each named as FILE or FILE:weight.

    Raises:
        ModelRefused: a file is missing or does not hold weights, or its weight is not a number.
    """
    found = []
    for name in names:
        path, weight = _split(name, "--lora", "FILE:0.8")
        found.append(Lora(_file(path, _LORA_FILES, "--lora"), _weight(name, weight)))
    return tuple(found)


@unreadable_is_refused()
def find_embeddings(names: Sequence[str], own_word: Callable[[Path], str]) -> tuple[Embedding, ...]:
    """Locate embeddings, each named as FILE or FILE:word; `own_word` reads the word of a file.

    Raises:
        ModelRefused: a file is missing or does not hold weights, or two have the same word.
    """
    found: dict[str, Embedding] = {}
    for name in names:
        path, word = _split(name, "--embedding", "FILE:word")
        file = _file(path, _EMBEDDING_FILES, "--embedding")
        word = own_word(file) if word is None else word.strip()
        if not word or not word.isprintable():
            raise ModelRefused(f"--embedding {name}: {word!r} cannot be a word in prompts; write FILE:word")
        if word.lower() in found:
            raise ModelRefused(
                f"--embedding: {found[word.lower()].path} and {file} have the same word, {word!r}; give one of them "
                "another: FILE:word"
            )
        found[word.lower()] = Embedding(file, word)
    return tuple(found.values())


def _split(name: str, option: str, form: str) -> tuple[Path, str | None]:
    """The path at the beginning of a name, and what follows it after a colon. A path may have colons of its own."""
    ends = [len(name), *(i for i in reversed(range(len(name))) if name[i] == ":")]
    for end in ends:
        path = from_home(name[:end])
        if end and path.exists():
            return path, None if end == len(name) else name[end + 1 :]
    raise ModelRefused(f"{option} {name}: no such file is here; write FILE or {form}")


def _weight(name: str, text: str | None) -> float:
    try:
        weight = 1.0 if text is None else float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ModelRefused(f"--lora {name}: {text!r} is not a weight; write a number, such as FILE:0.8")
    return weight


def _file(path: Path, inside: Sequence[str], option: str) -> Path:
    if path.is_dir():
        file = next((path / name for name in inside if (path / name).is_file()), None)
        if file is None:
            raise ModelRefused(f"{option} {path} is a folder without {' or '.join(inside)}; name the file itself")
        path = file
    kind_of(path)  # a web page, a picture or an archive is refused before anything is built
    return path
