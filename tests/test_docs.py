"""The documentation names what exists: every command, variable and metric is documented, and nothing else is."""

from __future__ import annotations

import re

import pytest
import typer.main

from engines.errors import EXIT_CODES, INTERRUPTED, UNEXPECTED, EngineError
from jobs.errors import Cancelled
from jobs.job import RenderResult
from jobs.settings import Settings
from producer.exits import PIPE_CLOSED, Exit
from tests.pages import LANGUAGES, PAGES, blocks, commands, outside_blocks, text_of
from tools import ROOT
from worker.observe.metrics import FAILURE_KINDS

OPERATIONS = ROOT / "docs" / "operations.md"
ENGINES = ROOT / "docs" / "engines.md"
LIFECYCLE = ROOT / "docs" / "lifecycle.md"
README = ROOT / "README.md"
README_LINES = 150
PICTURE_BYTES = 150_000


def variables() -> set[str]:
    return {f"RENDER_{name.upper()}" for name in Settings.model_fields}


def test_every_variable_is_documented_in_operations() -> None:
    assert variables() - set(re.findall(r"RENDER_[A-Z_]+", OPERATIONS.read_text())) == set()


def test_no_page_names_a_variable_that_does_not_exist() -> None:
    assert set(re.findall(r"RENDER_[A-Z_]*[A-Z]", text_of(*PAGES))) - variables() == set()


@pytest.mark.parametrize("module", ["producer.cli", "engines.cli"])
def test_every_command_has_help_and_is_documented(module: str) -> None:
    app = __import__(module, fromlist=["app"]).app
    group = typer.main.get_group(app)
    program = module.split(".")[0]
    for name, command in group.commands.items():
        assert command.help, f"{program} {name} has no help"
        assert f"{program} {name}" in text_of(*PAGES), f"no page mentions {program} {name}"


@pytest.mark.parametrize("module", ["producer.cli", "engines.cli"])
def test_no_page_names_a_command_that_does_not_exist(module: str) -> None:
    app = __import__(module, fromlist=["app"]).app
    program = module.split(".")[0]
    shown = "\n".join(command.text for page in PAGES for command in commands(page))
    named = set(re.findall(rf"(?:^|[|;&] *){program} ([a-z]+)", shown, re.MULTILINE))
    # In the text, too: `producer submit`, as code.
    named |= set(re.findall(rf"`{program} ([a-z]+)", "\n".join(map(outside_blocks, PAGES))))
    assert named
    assert named - set(typer.main.get_group(app).commands) == set()


def test_every_metric_is_documented_and_no_other() -> None:
    sources = text_of(*ROOT.glob("worker/**/*.py"), *ROOT.glob("producer/keep/*.py"))
    known = set(re.findall(r'"(render_[a-z_]+)"', sources))
    documented = set(re.findall(r"`(render_[a-z_]+?)(?:_total)?`", OPERATIONS.read_text()))
    assert documented == known


def test_the_exit_codes_of_engines_are_those_in_the_table_and_in_help() -> None:
    (table,) = re.findall(r"^## Exit codes\n\n((?:\|.*\n)+)", ENGINES.read_text(), re.MULTILINE)
    documented = set(map(int, re.findall(r"^\| (\d+) \|", table, re.MULTILINE)))
    raised = {error.exit_code for error in EngineError.__subclasses__()}
    assert documented == {0, 1, 2, UNEXPECTED, INTERRUPTED} | raised
    assert set(map(int, re.findall(r"(?:^|[:;]\s)(\d+) ", EXIT_CODES))) == documented


def test_the_exit_codes_of_producer_are_those_in_the_table() -> None:
    (table,) = re.findall(r"^## Exit codes of producer\n\n((?:\|.*\n)+)", OPERATIONS.read_text(), re.MULTILINE)
    documented = list(map(int, re.findall(r"^\| (\d+) \|", table, re.MULTILINE)))
    assert documented == [*Exit, PIPE_CLOSED]


def test_the_kinds_of_error_are_those_in_the_table() -> None:
    (table,) = re.findall(r"^## Kinds of error\n\n.+\n\n((?:\|.*\n)+)", LIFECYCLE.read_text(), re.MULTILINE)
    documented = [name for row in table.splitlines() for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])]
    assert sorted(documented) == sorted([*FAILURE_KINDS, Cancelled.kind])


def test_the_fields_of_a_result_are_documented() -> None:
    (fields,) = re.findall(r"^A sidecar, like a line of .*?\n\n", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL)
    assert set(RenderResult.model_fields) - set(re.findall(r"`([a-z_]+)`", fields)) == set()


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_links_to_a_heading_find_it() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            other = (page.parent / target).resolve() if target else page
            titles = re.findall(r"^#+ (.+)$", outside_blocks(other), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{page.name} links to {target}#{anchor}"


def test_code_blocks_say_whether_they_hold_commands() -> None:
    """Otherwise a command in them would be neither run nor parsed."""
    for page in PAGES:
        for language, _ in blocks(page):
            assert language in LANGUAGES, f"{page.name}: a code block of {language!r}; there are {sorted(LANGUAGES)}"
        assert not re.search(r"^ {4}\S", outside_blocks(page), re.MULTILINE), f"{page.name}: an indented code block"


def test_readme_is_short_and_its_picture_small() -> None:
    assert len(README.read_text().splitlines()) < README_LINES
    assert (ROOT / "docs" / "demo.webp").stat().st_size < PICTURE_BYTES
