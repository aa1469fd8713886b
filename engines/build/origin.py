"""What a manifest says of the weights: the names that the user gave, as `verify` finds them from another folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from engines.model.additions import Additions
from engines.model.locate import Weights
from engines.source import AddedEmbedding, AddedFile, AddedLora, AdditionNames, Source
from engines.typed_path import from_home


class Names(Protocol):
    """What the user named: a BuildRequest has it."""

    @property
    def model(self) -> str: ...
    @property
    def controlnet(self) -> str | None: ...
    @property
    def tokenizer(self) -> str | None: ...
    @property
    def additions(self) -> AdditionNames: ...


def source_of(request: Names, weights: Weights, digest: str) -> Source:
    """The source of a set that is built as `request` asks; `digest` is that of `weights`."""
    found = weights.original_config
    named = (request.model, request.controlnet, request.tokenizer, None if found is None else str(found))
    model, controlnet, tokenizer, config = (None if name is None else _absolute(name) for name in named)
    assert model is not None
    return Source(
        model=model,
        controlnet=controlnet,
        weights=digest,
        tokenizer=tokenizer,
        original_config=config,
        **_added(request.additions, weights.additions),
    )


def _added(names: AdditionNames, found: Additions) -> dict[str, Any]:
    """The additions as the manifest's source has them."""
    vae = None
    if names.vae is not None and found.vae_digest is not None:
        path = from_home(names.vae)
        vae = AddedFile(file=_named(path) if path.exists() else names.vae, digest=found.vae_digest)
    return {
        "loras": tuple(
            AddedLora(file=_named(each.path), digest=each.digest, weight=each.weight) for each in found.loras
        ),
        "vae": vae,
        "embeddings": tuple(
            AddedEmbedding(file=_named(each.path), digest=each.digest, word=each.word) for each in found.embeddings
        ),
        "clip_skip": found.clip_skip,
    }


def _named(path: Path) -> str:
    """Links are not followed: the hub's cache has files without names behind them."""
    return str(path.absolute())


def _absolute(name: str) -> str:
    """A path that `verify` finds from another folder; a hub id stays as it is."""
    path = from_home(name)
    return str(path.resolve()) if path.exists() else name
