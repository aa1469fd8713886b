"""The two errors of a device are told apart from all others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.models import tiny_engine_set
from tests.worker.render.tracebacks import generators_that_hold
from worker.render.device import translated_errors
from worker.render.errors import DeviceLost, DeviceOutOfMemory

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 268435456"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
]
PERHAPS_OUT_OF_MEMORY = [
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError(
        "Expected mha_graph.execute(handle, variant_pack, workspace_ptr.get()).is_good() to be true, but got false."
    ),
]
LOST = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]
NEITHER = [ValueError("no profile covers it"), RuntimeError("shapes do not match")]

# In a process of its own: a limit that is set cannot be lifted again.
LITTLE_MEMORY = """
import resource, sys
import torch
from engines.engine_set import load_engine_set
from worker.render.denoiser import EngineDenoiser
from worker.render.errors import DeviceOutOfMemory

denoiser = EngineDenoiser(load_engine_set(sys.argv[1], device="cpu", threads=1))
denoiser.decode(torch.zeros(1, 4, 8, 8))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
try:
    denoiser.decode(torch.zeros(4, 4, 64, 64))
except DeviceOutOfMemory:
    print("a smaller call may fit")
denoiser.decode(torch.zeros(1, 4, 8, 8))
print("and does")
"""


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_memory_that_ran_out_is_not_a_lost_device(error: Exception) -> None:
    with pytest.raises(DeviceOutOfMemory) as caught, translated_errors():
        raise error
    assert caught.value.certain


@pytest.mark.parametrize("error", PERHAPS_OUT_OF_MEMORY, ids=str)
def test_what_cudnn_says_where_memory_is_short_is_perhaps_memory_that_ran_out(error: Exception) -> None:
    with pytest.raises(DeviceOutOfMemory) as caught, translated_errors():
        raise error
    assert not caught.value.certain
    assert str(caught.value) == str(error)


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_broken_context_is_a_lost_device(error: Exception) -> None:
    with pytest.raises(DeviceLost), translated_errors():
        raise error


@pytest.mark.parametrize("error", NEITHER, ids=str)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), translated_errors():
        raise error


def test_no_generator_stands_between_an_error_and_what_it_becomes() -> None:
    """From Python 3.12 on, one would hold the error, and so the tensors of the call, until the collector runs."""
    error = RuntimeError("CUDA out of memory")
    with pytest.raises(DeviceOutOfMemory) as caught, translated_errors():
        raise error
    assert caught.value.__cause__ is error
    assert generators_that_hold(error) == generators_that_hold(caught.value) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_memory_that_really_runs_out_on_a_cpu_is_told_so() -> None:
    command = [sys.executable, "-c", LITTLE_MEMORY, str(tiny_engine_set())]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.stdout.split("\n")[:2] == ["a smaller call may fit", "and does"], done.stderr
