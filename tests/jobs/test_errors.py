"""The tree of errors: what its drawing says is what the classes are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import get_args

import pytest

from jobs import errors
from jobs.errors import Fault, PermanentError, RenderError, TransientError

LINE = re.compile(r"^    (?P<indent>[│ ]*)[├└]── (?P<name>\w+) *(?P<fault>job|worker|store|host)?(?: |$)")

GROUPS = {TransientError, PermanentError}


def drawn() -> Iterator[tuple[str, str, str | None]]:
    """(name, its parent's name, fault) of every line of the drawing."""
    parents = ["RenderError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := LINE.match(line):
            depth = len(match["indent"]) // 4 + 1
            del parents[depth:]
            yield match["name"], parents[-1], match["fault"]
            parents.append(match["name"])


def all_errors(parent: type[RenderError] = RenderError) -> Iterator[type[RenderError]]:
    for child in parent.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from all_errors(child)


def test_the_drawing_has_every_error_with_its_parent_and_its_fault() -> None:
    actual = [
        (error.__name__, error.__bases__[0].__name__, None if error in GROUPS else error.fault)
        for error in all_errors()
    ]
    assert sorted(drawn()) == sorted(actual)


@pytest.mark.parametrize("error", [RenderError, *(error for error in all_errors() if error not in GROUPS)])
def test_every_error_has_a_word_of_its_own_and_says_where_its_fault_lies(error: type[RenderError]) -> None:
    assert "kind" in vars(error)
    assert "fault" in vars(error)
    assert error.fault in get_args(Fault)


def test_no_two_errors_share_a_word() -> None:
    kinds = [error.kind for error in all_errors()]
    assert len(kinds) == len(set(kinds))
