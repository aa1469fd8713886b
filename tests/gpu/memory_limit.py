"""A GPU whose memory runs out: torch raises its own error at a limit, far below what the card has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

GIB = 1 << 30


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Within the block, torch gets so many bytes more from the device than it needs now, and no more."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + size) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
