"""Slab: tensors that are kept for long, in slots of a few large blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

BLOCK_BYTES = 16 * 2**20

Kind = tuple[torch.Size, torch.dtype, torch.device]


@dataclass(frozen=True, eq=False)
class Block:
    """Slots for tensors of one kind, [slots, ...], and the numbers of those that are free."""

    slots: torch.Tensor
    free: list[int]

    @property
    def is_empty(self) -> bool:
        """Every slot is free."""
        return len(self.free) == len(self.slots)


@dataclass(frozen=True, eq=False)
class Slot:
    """The place of one tensor."""

    block: Block
    number: int

    def read(self) -> torch.Tensor:
        """A copy: the slot may be given to another tensor at any time."""
        return self.block.slots[self.number].clone()


class Slab:
    """At most `limit_bytes` of blocks, each with at most `block_slots` slots; for one thread.

    A tensor by itself would be several small allocations, and malloc puts those into what large buffers leave free. One
    that stays for long then keeps the whole hole from the next such buffer: with glibc before 2.38, each of torch's
    aligned buffers leaves a piece of its edges in a thread's cache of small pieces, for the next one to take. So each
    job left a hole of megabytes, and a worker grew by gigabytes in ten thousand jobs.
    """

    def __init__(self, *, limit_bytes: int, block_slots: int) -> None:
        self._limit_bytes = limit_bytes
        self._block_slots = block_slots
        self._blocks: dict[Kind, list[Block]] = {}
        self._bytes = 0

    def fits(self, tensor: torch.Tensor) -> bool:
        """Whether an empty slab has a slot for it."""
        return tensor.nbytes <= self._limit_bytes

    def put(self, tensor: torch.Tensor) -> Slot | None:
        """A slot with a copy of the tensor; None where one must be freed first, perhaps of another kind."""
        kind = (tensor.shape, tensor.dtype, tensor.device)
        block = next((block for block in self._blocks.get(kind, ()) if block.free), None)
        if block is None:
            block = self._new_block(tensor)
            if block is None:
                return None
            self._blocks.setdefault(kind, []).append(block)
        slot = Slot(block, block.free.pop())
        block.slots[slot.number].copy_(tensor)
        return slot

    def free(self, slot: Slot) -> None:
        """Give the slot back; a block that is empty leaves, for blocks of any kind to take its room."""
        block = slot.block
        block.free.append(slot.number)
        if block.is_empty:
            self._bytes -= block.slots.nbytes
            kind = (block.slots.shape[1:], block.slots.dtype, block.slots.device)
            self._blocks[kind].remove(block)
            if not self._blocks[kind]:
                del self._blocks[kind]

    def _new_block(self, tensor: torch.Tensor) -> Block | None:
        room = min(BLOCK_BYTES, self._limit_bytes) // max(1, tensor.nbytes)
        slots = max(1, min(self._block_slots, room))
        if self._bytes + slots * tensor.nbytes > self._limit_bytes:
            return None
        self._bytes += slots * tensor.nbytes
        return Block(tensor.new_empty((slots, *tensor.shape)), list(range(slots)))
