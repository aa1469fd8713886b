"""Pictures on their way from the device: decoded there, copied while the loop goes on, delivered on arrival."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
from einops import rearrange

from worker.render.device import translated_errors
from worker.render.request import ImageRequest


class Decoding:
    """A decoder's output while it is copied to the host. On a CPU there is nothing to copy."""

    def __init__(self, images: torch.Tensor) -> None:
        """Queue the copy. `images` is float [N, 3, H, W], about -1..1."""
        # Rounded as diffusers does; canny2image truncates, which darkens the picture by half a level.
        pixels = (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        self._finite = _to_host(torch.isfinite(images).flatten(1).all(dim=1))
        self._pixels = _to_host(rearrange(pixels, "n c h w -> n h w c").contiguous())
        self._copied: torch.cuda.Event | None = None
        if images.is_cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(images.device))

    @property
    def arrived(self) -> bool:
        """Whether `pictures` will return without waiting."""
        with translated_errors():
            return self._copied is None or bool(self._copied.query())  # type: ignore[no-untyped-call]

    def pictures(self) -> list[np.ndarray | None]:
        """Wait for N pictures: each is RGB uint8 [H, W, 3], or None where the values are not numbers.

        Raises:
            DeviceLost: the device failed before the pictures arrived.
        """
        with translated_errors():
            if self._copied is not None:
                self._copied.synchronize()
        array: np.ndarray = self._pixels.numpy()
        return [picture if ok else None for picture, ok in zip(array, self._finite.tolist(), strict=True)]


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


class Deliveries:
    """Waits for decodings in a thread of its own. Those that have arrived are delivered at once, by the caller."""

    def __init__(self, deliver: Callable[[Sequence[ImageRequest], Decoding], None]) -> None:
        """`deliver` ends the requests; it raises nothing."""
        self._deliver = deliver
        self._queue: queue.SimpleQueue[tuple[Sequence[ImageRequest], Decoding] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, requests: Sequence[ImageRequest], decoding: Decoding) -> None:
        """Deliver these when they arrive."""
        if decoding.arrived:
            self._deliver(requests, decoding)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)
            self._thread.start()
        self._queue.put((requests, decoding))

    def close(self) -> None:
        """Deliver the pictures that are still on their way, and end the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            self._deliver(*item)
