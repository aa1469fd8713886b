"""Tensors in slots: what is kept, and how much room it takes."""

from __future__ import annotations

import pytest
import torch

from worker.render.slab import Slab, Slot


def full_of(value: float, *shape: int) -> torch.Tensor:
    return torch.full(shape, value)


def put(slab: Slab, tensor: torch.Tensor) -> Slot:
    slot = slab.put(tensor)
    assert slot is not None
    return slot


def test_a_slot_gives_back_a_copy_of_what_was_put() -> None:
    slab = Slab(limit_bytes=1000, block_slots=4)
    tensor = full_of(1.0, 2, 3)
    slot = put(slab, tensor)
    tensor.zero_()
    assert torch.equal(slot.read(), full_of(1.0, 2, 3))
    slot.read().zero_()
    assert torch.equal(slot.read(), full_of(1.0, 2, 3))


def test_tensors_of_one_kind_share_blocks_and_each_has_its_own_slot() -> None:
    slab = Slab(limit_bytes=10**6, block_slots=4)
    slots = [put(slab, full_of(float(number), 5)) for number in range(10)]
    assert len({id(slot.block) for slot in slots}) == 3
    assert [slot.read()[0].item() for slot in slots] == list(range(10))


@pytest.mark.parametrize("other", [full_of(2.0, 3, 2), full_of(2.0, 2, 3).half(), full_of(2.0, 7)])
def test_another_shape_or_type_has_blocks_of_its_own(other: torch.Tensor) -> None:
    slab = Slab(limit_bytes=10**6, block_slots=4)
    one, two = put(slab, full_of(1.0, 2, 3)), put(slab, other)
    assert one.block is not two.block
    assert (two.read().shape, two.read().dtype) == (other.shape, other.dtype)


def test_there_is_no_slot_beyond_the_limit_until_one_is_freed() -> None:
    slab = Slab(limit_bytes=32, block_slots=100)
    first, second = (put(slab, full_of(1.0, 4)) for _ in range(2))
    assert slab.put(full_of(2.0, 4)) is None
    slab.free(first)
    third = put(slab, full_of(3.0, 4))
    assert (second.read()[0].item(), third.read()[0].item()) == (1.0, 3.0)


def test_the_room_of_an_empty_block_goes_to_another_kind() -> None:
    slab = Slab(limit_bytes=32, block_slots=2)
    slots = [put(slab, full_of(1.0, 4)) for _ in range(2)]
    slab.free(slots[0])
    assert slab.put(full_of(2.0, 8)) is None  # the block still holds the other one
    slab.free(slots[1])
    assert put(slab, full_of(2.0, 8)).read()[0].item() == 2.0


def test_what_is_larger_than_the_limit_does_not_fit() -> None:
    slab = Slab(limit_bytes=16, block_slots=4)
    assert slab.fits(full_of(1.0, 4))
    assert not slab.fits(full_of(1.0, 5))
    assert slab.put(full_of(1.0, 5)) is None
