"""When a batch is padded to a captured size, and when it gets a capture of its own."""

from __future__ import annotations

from worker.batchsizes import CAPTURE_PRICE, BatchSizes

SHAPE = (512, 512)


def sizes(*captured: int) -> BatchSizes:
    made = BatchSizes()
    for size in captured:
        made.captured(size, SHAPE)
    return made


def test_a_first_batch_has_its_own_size() -> None:
    assert sizes().choose(5, SHAPE, steps=20) == 5


def test_a_captured_size_is_taken_as_it_is() -> None:
    assert [sizes(5, 8).choose(5, SHAPE, steps=1000) for _ in range(3)] == [5, 5, 5]


def test_a_short_lived_size_is_padded_to_the_next_captured_one() -> None:
    assert sizes(6, 8).choose(5, SHAPE, steps=20) == 6


def test_a_larger_batch_than_any_captured_one_is_not_cut() -> None:
    assert sizes(4).choose(5, SHAPE, steps=20) == 5


def test_a_size_that_wasted_the_price_of_a_capture_gets_one() -> None:
    made = sizes(8)
    padded = [made.choose(5, SHAPE, steps=20) for _ in range(8)]  # three samples wasted a step: 60 a batch
    assert padded == [8] * int(CAPTURE_PRICE // 60) + [5] * (8 - int(CAPTURE_PRICE // 60))


def test_small_pictures_waste_less() -> None:
    small = (256, 256)
    made = BatchSizes()
    made.captured(8, small)
    assert [made.choose(5, small, steps=20) for _ in range(13)] == [8] * 13
    assert made.choose(5, small, steps=20) == 5


def test_shapes_have_sizes_of_their_own() -> None:
    assert sizes(8).choose(5, (512, 768), steps=20) == 5


def test_nothing_is_padded_to_a_size_that_did_not_fit_in_memory() -> None:
    made = sizes(2, 6, 8)
    made.too_large(6, SHAPE)
    assert made.choose(4, SHAPE, steps=20) == 4
    assert made.choose(1, SHAPE, steps=20) == 2


def test_after_all_captures_are_gone_nothing_is_padded() -> None:
    made = sizes(8)
    made.clear()
    assert made.choose(5, SHAPE, steps=20) == 5
