"""docs/engines.md shows the rules for configuration fields as they are."""

from __future__ import annotations

import re

import pytest

from engines.model.config_rules import PARTS, TABLES
from engines.model.fields import Ignored, MustBe, Rules, Used
from tools import ROOT
from tools.fields import table, tables, written

PAGE = ROOT / "docs" / "engines.md"


def test_the_page_shows_the_rules() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == written(text), "write the tables again: python -m tools.fields --write docs/engines.md"


def test_every_field_is_in_a_table() -> None:
    shown = set(re.findall(r"`([^`]+)`", tables()))
    for rules in TABLES.values():
        assert set(rules) <= shown
    for _, _, rules in PARTS.values():
        assert rules in list(TABLES.values())


def test_fields_with_one_rule_share_a_row() -> None:
    rules: Rules = {
        "a": Used("its size"),
        "b": MustBe((None, ("x",)), "another size"),
        "c": Ignored("old"),
        "d": Ignored("old"),
    }
    assert table(rules).splitlines()[2:] == [
        "| `a` | used: its size |",
        '| `b` | must be `null` or `["x"]` (another size) |',
        "| `c`, `d` | ignored: old |",
    ]


def test_a_page_without_a_place_for_the_tables_is_left_alone() -> None:
    with pytest.raises(ValueError, match="no place for the tables"):
        written("a page")
