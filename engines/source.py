"""What a set was built from, as its manifest says it. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

_BETWEEN_FOLDERS = re.compile(r"[/\\]+")


@dataclass(frozen=True)
class AdditionNames:
    """Additions as a user names them: `FILE[:weight]`, a folder, file or hub id, `FILE[:word]`, and a number."""

    loras: tuple[str, ...] = ()
    vae: str | None = None
    embeddings: tuple[str, ...] = ()
    clip_skip: int = 1


NO_ADDITIONS = AdditionNames()


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AddedFile(_Record):
    """A file that was added to the model: its absolute path (or hub id), and its SHA-256."""

    file: str
    digest: str

    def named(self) -> dict[str, Any]:
        """The same without folders, which are the building machine's business."""
        name = next((part for part in reversed(_BETWEEN_FOLDERS.split(self.file)) if part), self.file)
        return {**self.model_dump(), "file": name}


class AddedLora(AddedFile):
    """A LoRA, and what its changes were multiplied with."""

    weight: float


class AddedEmbedding(AddedFile):
    """A textual inversion, and the word that stands for it in prompts."""

    word: str


class Source(_Record):
    """Which weights: absolute paths and hub ids as the user named them, and the digest of all their files.

    The fields from `loras` on are left out of the manifest where nothing was added.
    """

    model: str
    controlnet: str | None
    weights: str
    tokenizer: str | None = None
    original_config: str | None = None
    loras: tuple[AddedLora, ...] = ()
    vae: AddedFile | None = None
    embeddings: tuple[AddedEmbedding, ...] = ()
    clip_skip: int = 1

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A set without additions is written as before there were any: older versions read it."""
        fields: dict[str, Any] = serialize(self)
        for name in self._plain():
            fields.pop(name, None)
        return fields

    def _plain(self) -> list[str]:
        """The additions that were not made."""
        made = {"loras": self.loras, "vae": self.vae, "embeddings": self.embeddings, "clip_skip": self.clip_skip - 1}
        return [name for name, value in made.items() if not value]

    @property
    def additions(self) -> AdditionNames:
        """The additions as they are named to a build."""
        return AdditionNames(
            loras=tuple(f"{each.file}:{each.weight!r}" for each in self.loras),
            vae=None if self.vae is None else self.vae.file,
            embeddings=tuple(f"{each.file}:{each.word}" for each in self.embeddings),
            clip_skip=self.clip_skip,
        )

    @property
    def built_with(self) -> dict[str, Any] | None:
        """The additions for sidecars: file names without folders, digests, weights and words; None without any."""
        made: dict[str, Any] = {
            "loras": [each.named() for each in self.loras],
            "vae": None if self.vae is None else self.vae.named(),
            "embeddings": [each.named() for each in self.embeddings],
            "clip_skip": self.clip_skip,
        }
        return {name: value for name, value in made.items() if name not in self._plain()} or None

    def build_words(self) -> list[str]:
        """The words of `engines build` that name these weights."""
        named = self.additions
        options = [
            ("--model", self.model),
            ("--controlnet", self.controlnet),
            ("--tokenizer", self.tokenizer),
            ("--original-config", self.original_config),
            *(("--lora", each) for each in named.loras),
            ("--vae", named.vae),
            *(("--embedding", each) for each in named.embeddings),
            ("--clip-skip", None if named.clip_skip == 1 else str(named.clip_skip)),
        ]
        return [word for option, value in options if value is not None for word in (option, value)]
