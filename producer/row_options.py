"""The options of `producer submit` that fill the empty cells of a column. Only Typer is imported, as in cli.py."""

from __future__ import annotations

from typing import Annotated

import typer

Prompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="TEXT", help="The prompt of a folder's pictures, or what an empty cell means."),
]
APrompt = Annotated[
    str | None,
    typer.Option("--a-prompt", metavar="TEXT", help="What an empty a_prompt cell of this file means; '' for none."),
]
NPrompt = Annotated[
    str | None,
    typer.Option("--n-prompt", metavar="TEXT", help="What an empty n_prompt cell of this file means; '' for none."),
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="What an empty model cell of this file means.")
]
Control = Annotated[
    str | None,
    typer.Option("--control", metavar="KIND", help="What an empty control cell means: canny (default) or none."),
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="FORMAT", help="What an empty format cell means: png (default), jpeg, webp."),
]
Quality = Annotated[
    str | None,
    typer.Option("--quality", metavar="1..100", help="What an empty quality cell of a jpeg or webp row means."),
]
LongPrompts = Annotated[
    str | None,
    typer.Option("--long-prompts", metavar="HOW", help="Prompts of over 77 tokens: cut (default) or chunk."),
]
PromptSyntax = Annotated[
    str | None,
    typer.Option("--prompt-syntax", metavar="HOW", help="(word:1.3) is literal text (default) or weighted."),
]
