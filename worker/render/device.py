"""The device as the loop sees it: its errors told apart, copies that do not make the host wait, and its memory."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager

import numpy as np
import torch

from worker.render.errors import DeviceLost, DeviceOutOfMemory
from worker.render.on_error import OnError

# In lower case. The last two: cuBLAS and cuDNN, CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED for one.
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "failed to allocate memory",
    "_status_alloc_failed",
    "_allocation_failed",
)
# torch tries cuDNN's plans one by one and tells only that none was left, be it that each ran out of memory or that
# there is none for such a call; of cuDNN's attention it tells no reason at all (pytorch#190321).
PERHAPS_OUT_OF_MEMORY = (
    "was unable to find an engine to execute this computation",
    "unable to find a valid cudnn algorithm",
    "mha_graph.execute",
    "mha_graph->execute",
)


def translated_errors() -> AbstractContextManager[None]:
    """Turn the errors of torch, CUDA and the engines that concern the device into DeviceOutOfMemory or DeviceLost."""
    return OnError(_translate)


def _translate(error: Exception) -> bool:
    if isinstance(error, (RuntimeError, MemoryError)):
        if is_out_of_memory(error):
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()
            # No name for it: this frame would hold it and be held by it, with the tensors of the call that failed.
            raise DeviceOutOfMemory(str(error), certain=_says_out_of_memory(error)) from error
        if is_lost(error):
            raise DeviceLost(str(error)) from error
    return False


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller call might have worked. torch, CUDA, cuBLAS, cuDNN and onnxruntime each say it differently."""
    return _says_out_of_memory(error) or any(sign in str(error).lower() for sign in PERHAPS_OUT_OF_MEMORY)


def _says_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        sign in str(error).lower() for sign in OUT_OF_MEMORY
    )


def is_lost(error: Exception) -> bool:
    """Whether an error leaves the CUDA context unusable: every later call of this process would fail too."""
    if type(error).__name__ == "AcceleratorError":  # torch 2.8 and later
        return True
    signs = ("CUDA error", "CUBLAS_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_INTERNAL_ERROR", "CUDNN_STATUS_EXECUTION")
    return any(sign in str(error) for sign in signs)


def to_device(data: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device, through pinned memory: from pageable memory CUDA would first wait for all queued work."""
    tensor = torch.from_numpy(data) if isinstance(data, np.ndarray) else data
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Pace:
    """Keeps the host one step ahead of the device and no more: a new job has to wait for everything already queued."""

    AHEAD = 1

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: deque[torch.cuda.Event] = deque()

    def keep(self) -> None:
        """Call after queueing each step; waits for the step before it."""
        if self._device.type != "cuda":
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)
        while len(self._events) > self.AHEAD:
            self._events.popleft().synchronize()


def memory_of(device: torch.device) -> dict[str, int]:
    """Bytes of memory: `total`, `used` by all processes, and `allocated` by this one. Any thread may call this.

    On a GPU, what torch has not allocated (TensorRT's engines, CUDA's own memory) counts as used only. On a CPU, the
    machine's memory is the device's, and this process's resident memory is what it has allocated.
    """
    if device.type != "cuda":
        import psutil  # type: ignore[import-untyped]  # needed by no GPU

        machine = psutil.virtual_memory()
        allocated = psutil.Process().memory_info().rss
        return {"used": machine.total - machine.available, "total": machine.total, "allocated": allocated}
    free, total = torch.cuda.mem_get_info(device)
    return {"used": total - free, "total": total, "allocated": torch.cuda.memory_allocated(device)}
