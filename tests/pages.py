"""The pages of the documentation, and the shell commands that they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from tools import ROOT

PAGES = sorted(path for folder in ("", "docs/**/", "examples/**/", "deploy/**/") for path in ROOT.glob(f"{folder}*.md"))
# What a code block may be: `bash` holds commands alone, `console` commands after `$ ` and what they print.
# `yaml` is a file of the reader's.
LANGUAGES = {"bash", "console", "text", "yaml"}

_BLOCK = re.compile(r"^ *```(?P<language>\w*)\n(?P<body>(?s:.*?))^ *```$", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """One command of a page, on one line and without its comment; `output` is None where the page shows none."""

    page: Path
    text: str
    output: str | None = None


def text_of(*pages: Path) -> str:
    """The text of pages, one after the other."""
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, body) of every fenced code block; one in a list is moved to the margin."""
    return [(match["language"], dedent(match["body"])) for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))]


def outside_blocks(page: Path) -> str:
    """A page's text without its fenced code blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> Iterator[Command]:
    """Every command in the `bash` and `console` blocks of a page, in the order of the page."""
    for language, body in blocks(page):
        joined = re.sub(r" *\\\n *", " ", body)
        if language == "bash":
            yield from (Command(page, text) for line in joined.splitlines() if (text := _without_comment(line)))
        elif language == "console":
            yield from _with_output(page, joined)


def _with_output(page: Path, body: str) -> Iterator[Command]:
    for part in body.split("$ ")[1:]:
        line, _, output = part.partition("\n")
        yield Command(page, _without_comment(line), output)


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s+)# .*$", "", line).strip()
