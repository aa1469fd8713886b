"""Batches of hints and pictures are cut into sizes that ran before, or padded to one, until a new size pays."""

from __future__ import annotations

import pytest

from worker.render.known_sizes import PATIENCE, KnownSizes


def known(*sizes: int) -> KnownSizes:
    one = KnownSizes()
    for size in sizes:
        one.ran("decode", size)
    return one


@pytest.mark.parametrize(
    ("sizes", "samples", "parts"),
    [
        ((), 5, [5]),
        ((5,), 5, [5]),
        ((8,), 3, [8]),
        ((1,), 3, [1, 1, 1]),
        ((1, 4), 7, [4, 1, 1, 1]),
        ((5,), 7, [5, 5]),
        ((2, 8), 7, [2, 2, 2, 2]),
    ],
)
def test_full_parts_of_the_largest_size_come_first_and_the_rest_is_padded(
    sizes: tuple[int, ...], samples: int, parts: list[int]
) -> None:
    assert known(*sizes).parts("decode", samples) == parts


def test_a_size_that_is_asked_for_often_is_run_as_it_is() -> None:
    one = known(8)
    answers = [one.parts("decode", 3) for _ in range(PATIENCE + 1)]
    assert answers == [[8]] * PATIENCE + [[3]]
    one.ran("decode", 3)
    assert one.parts("decode", 3) == [3]


def test_each_kind_has_its_own_and_can_be_forgotten() -> None:
    one = known(8)
    assert one.parts("hint", 3) == [3]
    one.forget("decode")
    assert one.parts("decode", 3) == [3]
