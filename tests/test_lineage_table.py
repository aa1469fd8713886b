"""The table in docs/engines.md of what came from ControlNet and its TensorRT ports: each file and test in it exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import NamedTuple

import pytest

from engines.backends import registry
from engines.spec import COMPONENTS
from jobs.job import RenderParameters
from tools import ROOT

PAGE = ROOT / "docs" / "engines.md"
# The signature of `process()` in ControlNet's gradio_canny2image.py.
PROCESS = (
    "input_image", "prompt", "a_prompt", "n_prompt", "num_samples", "image_resolution", "ddim_steps", "guess_mode",
    "strength", "scale", "seed", "eta", "low_threshold", "high_threshold",
)  # fmt: skip
ARGUMENTS, ENGINES, BEHAVIOURS, ADDED = HEADINGS = (
    "Arguments of `process()`",
    "Engines and scripts",
    "Behaviours",
    "What was added",
)


class Row(NamedTuple):
    """One line: what it is about, and the code words of its other two columns."""

    heading: str
    what: str
    files: tuple[str, ...]
    tests: tuple[str, ...]


def code(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


@cache
def rows() -> tuple[Row, ...]:
    (body,) = re.findall(r"<!-- table -->\n(.*?)<!-- /table -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found = []
    for part in re.split(r"^### ", body, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE)[1:]:
            what, where, test = line.split(" | ")
            found.append(Row(heading, what, code(where), code(test)))
    return tuple(found)


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def named(heading: str) -> str:
    return "\n".join(row.what for row in rows() if row.heading == heading)


def test_the_table_has_its_parts_and_no_row_is_there_twice() -> None:
    assert tuple(dict.fromkeys(row.heading for row in rows())) == HEADINGS
    whats = [row.what for row in rows()]
    assert len(whats) == len(set(whats))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.what[:40])
def test_every_file_and_every_test_of_a_row_exists(row: Row) -> None:
    assert row.files
    assert row.tests
    for file in row.files:
        assert (ROOT / file).is_file(), f"{row.what}: {file} is gone"
    for test in row.tests:
        path, _, name = test.partition("::")
        assert name.startswith("test_"), f"{row.what}: {test}"
        assert name in names_in(path), f"{row.what}: {path} has no {name}"


def test_every_argument_of_process_has_a_row_in_its_order() -> None:
    arguments = [code(row.what)[0] for row in rows() if row.heading == ARGUMENTS and code(row.what)]
    assert tuple(arguments) == PROCESS


def test_every_column_that_process_has_not_is_among_what_was_added() -> None:
    columns = set(RenderParameters.model_fields) - set(PROCESS) - {"image"}
    assert {column for column in columns if f"`{column}`" not in named(ADDED)} == set()


def test_every_component_and_every_exported_graph_is_named() -> None:
    for component in COMPONENTS:
        assert f"`{component}`" in named(ENGINES)
    for backend in ("tensorrt", "triton"):
        assert backend in registry.names()
        assert backend in named(ENGINES)
