"""The documentation names what exists: every command, variable and metric is documented, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from jobs.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
OPERATIONS = ROOT / "docs" / "operations.md"


def text_of(*pages: Path) -> str:
    return "\n".join(page.read_text() for page in pages)


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
    named = set(re.findall(rf"^    {program} ([a-z]+)", text_of(*PAGES), re.MULTILINE))
    assert named - set(typer.main.get_group(app).commands) == set()


def test_every_metric_is_documented_and_no_other() -> None:
    sources = text_of(*ROOT.glob("worker/**/*.py"))
    known = set(re.findall(r'"(render_[a-z_]+)"', sources))
    documented = set(re.findall(r"`(render_[a-z_]+?)(?:_total)?`", OPERATIONS.read_text()))
    assert documented == known


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
