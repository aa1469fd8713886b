"""Commands within the sentences of the pages: their subcommands, options, modules and targets exist.

They often are fragments (`producer submit --wait`) without what a command requires, so they are not parsed whole as
those in code blocks are (test_docs_commands.py).
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import typer

import engines.cli
import producer.cli
from tests.pages import PAGES, outside_blocks
from tools import ROOT

# Pages on versions of before may name what is gone.
OLD = {ROOT / "CHANGELOG.md", *(ROOT / "docs" / "notes").glob("*.md")}
PROGRAMS = {"producer": producer.cli.app, "engines": engines.cli.app}
SPAN = re.compile(r"`((?:producer|engines|python -m|make) [^`]+)`")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def spans() -> list[tuple[str, str]]:
    """(page, command) of every one."""
    return [
        (page.relative_to(ROOT).as_posix(), " ".join(match[1].split()))
        for page in PAGES
        if page not in OLD
        for match in SPAN.finditer(outside_blocks(page))
    ]


def wrong(command: str) -> str | None:
    """What does not exist of what a command names, or None."""
    first, *words = command.split()
    if first == "make":
        return None if words[0] in TARGETS else f"no target {words[0]}"
    if first == "python":
        return None if importlib.util.find_spec(words[1]) else f"no module {words[1]}"
    group: Any = typer.main.get_command(PROGRAMS[first])
    options = options_of(group)
    if not words[0].startswith("--"):
        if words[0] not in group.commands:
            return f"{first} has no {words[0]}"
        options |= options_of(group.commands[words[0]])
    named = {word.partition("=")[0].rstrip(".,:;)") for word in words if re.match(r"--?[a-z]", word)}
    unknown = {name for word in named for name in word.split("/")} - options
    return f"no {', '.join(sorted(unknown))}" if unknown else None


def options_of(command: Any) -> set[str]:
    return {"--help"} | {name for param in command.params for name in [*param.opts, *param.secondary_opts]}


@pytest.mark.parametrize(("page", "command"), spans())
def test_what_a_sentence_calls_exists(page: str, command: str) -> None:
    assert wrong(command) is None, f"{page}: {command}"


def test_there_are_many_and_mistakes_are_found() -> None:
    assert len(spans()) > 100
    assert wrong("producer submit jobs.csv --wiat") == "no --wiat"
    assert wrong("producer sumbit") == "producer has no sumbit"
    assert wrong("python -m benchmarks.none") == "no module benchmarks.none"
    assert wrong("make tset") == "no target tset"
    assert Path("README.md") in {Path(page) for page, _ in spans()}
