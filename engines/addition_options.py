"""The options of `engines build` and `engines verify` for what is added to a model, and for what other sets share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engines.source import AdditionNames
from engines.typed_path import typed_path

Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:WEIGHT]",
        help="A LoRA that is merged into the model, with this weight (1 without). Repeatable.",
    ),
]
Vae = Annotated[str | None, typer.Option(help="Another VAE: a folder, hub id or single file. Without: the model's.")]
Embeddings = Annotated[
    list[str] | None,
    typer.Option(
        "--embedding",
        metavar="FILE[:WORD]",
        help="A textual inversion, and its word in prompts. Without a word: the file's own, or its name. Repeatable.",
    ),
]
ClipSkip = Annotated[
    int, typer.Option(min=1, help="The text encoder's layer that prompts are taken from: 1 the last, 2 the one before.")
]
Reuse = Annotated[
    list[Path] | None,
    typer.Option(
        parser=typed_path,
        metavar="PATH",
        help="A finished set: what is the same in it is taken over, such as kernels. Repeatable.",
    ),
]


def added(loras: list[str] | None, vae: str | None, embeddings: list[str] | None, clip_skip: int) -> AdditionNames:
    """The additions that the options name."""
    return AdditionNames(tuple(loras or ()), vae, tuple(embeddings or ()), clip_skip)
