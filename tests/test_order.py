"""The order of the tests where several processes share them."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests import order
from tests.order import LONG, long_ones_first


def items(**tests: int) -> list[Any]:
    """So many tests of each file."""
    return [SimpleNamespace(nodeid=name, number=number) for name, count in tests.items() for number in range(count)]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_every_share_begins_with_long_files_and_no_test_is_lost(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "LONG", {"c": 9, "e": 5, "f": 4, "g": 1})
    before = items(a=20, b=7, c=3, d=20, e=2, f=1, g=4, h=23)
    after = long_ones_first(before, processes=processes)
    assert sorted(map(id, after)) == sorted(map(id, before))
    others = [each for each in after if each.nodeid in "abdh"]
    assert others == [each for each in before if each.nodeid in "abdh"]
    shares = [len(before) * number // processes for number in range(processes)]
    assert [cast(Any, after[first]).nodeid for first in shares][:4] == ["c", "e", "f", "g"][: len(shares)]


def test_files_with_more_tests_than_a_share_displace_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "LONG", {"long": 1})
    before = items(a=2, long=10)
    assert long_ones_first(before, processes=4) == [*before[2:], *before[:2]]


def test_the_files_of_the_list_exist() -> None:
    assert [name for name in LONG if find_spec(name) is None] == []
