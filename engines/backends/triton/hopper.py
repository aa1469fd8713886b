"""Self-attention with heads of 40 on a Hopper GPU (a fifth of an SD1.5 step): attention_sm90.cu from Python.

NVRTC compiles it, Triton's cache keeps the machine code beside Triton's own kernels (kernel_cache.py), and the driver
launches it on torch's current stream, in a capture or not.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.device import cuda_value
from engines.errors import BackendUnavailable

SOURCE = Path(__file__).with_name("attention_sm90.cu")
OPTIONS = ("--gpu-architecture=sm_90a", "-default-device", "--std=c++17")
NAME, FILE = "attention_sm90", "attention_sm90.cubin"
CAPABILITY = (9, 0)  # the only one that runs sm_90a code
ARCHITECTURE = "sm{}{}".format(*CAPABILITY)  # as manifests write it

# These sizes are the source's (test_hopper.py compares them).
HEAD_DIM = 40
BLOCK_N, WARPGROUPS, STAGES, PADDING = 128, 3, 4, 80
ROWS = 64 * WARPGROUPS  # queries a block
THREADS = 128 * (WARPGROUPS + 1)
_CHUNKS = 6 + 6  # of 8 columns each, for K and V, padding included
SHARED_BYTES = 128 + STAGES * _CHUNKS * (16 * BLOCK_N + PADDING)

_ARGUMENTS = (ctypes.c_void_p,) * 4 + (ctypes.c_int,) * 6 + (ctypes.c_float,)


def takes(qkv: Tensor, heads: int) -> bool:
    """Whether `attention` can compute this: float16 on a Hopper GPU, heads of 40."""
    return (
        qkv.is_cuda
        and qkv.dtype == torch.float16
        and qkv.shape[2] == 3 * HEAD_DIM * heads
        and torch.cuda.get_device_capability(qkv.device) == CAPABILITY
    )


def check_installed(device: torch.device) -> None:
    """Raises BackendUnavailable if a Hopper GPU's kernel could not be launched: at start-up, not in each job."""
    if torch.cuda.get_device_capability(device) == CAPABILITY and find_spec("cuda") is None:
        raise BackendUnavailable("on a Hopper GPU triton sets need cuda-python; pip install 'batch-renderer[gpu]'")


def attention(qkv: Tensor, heads: int) -> Tensor:
    """qkv float16 [R,S,3C], contiguous, C = 40 * heads: queries, keys, values -> [R,S,C]. Scaled by 1 / sqrt(40).

    Raises:
        RuntimeError: the driver refused the launch.
    """
    assert qkv.is_contiguous(), qkv.stride()
    rows, length, width = qkv.shape
    channels = width // 3
    out = qkv.new_empty(rows, length, channels)
    kernel = _kernel(qkv.device.index)
    tiles = -(-length // ROWS)
    work = tiles * heads * rows
    scale = math.log2(math.e) / math.sqrt(HEAD_DIM)
    first, size = qkv.data_ptr(), channels * qkv.element_size()
    addresses = (first, first + size, first + 2 * size, out.data_ptr())
    values = (*addresses, length, heads, width, channels, tiles, work, scale)
    kernel.launch(min(work, kernel.processors), values, torch.cuda.current_stream(qkv.device).cuda_stream)
    return out


@dataclass(frozen=True)
class _Kernel:
    """The kernel as loaded into a device. `code` must live as long as the module."""

    driver: Any
    function: Any
    code: Any
    processors: int

    def launch(self, blocks: int, values: tuple[float, ...], stream: int) -> None:
        """`values` in the order of the source's arguments; at most one block (three query tiles) a multiprocessor."""
        shape = (blocks, 1, 1, THREADS, 1, 1, SHARED_BYTES)
        handle = self.driver.CUstream(stream)
        _value(self.driver.cuLaunchKernel(self.function, *shape, handle, (values, _ARGUMENTS), 0))


@lru_cache
def _kernel(device: int) -> _Kernel:
    """Load the kernel into the device's context, once a process."""
    from cuda.bindings import driver

    cubin = compiled()
    code = ctypes.create_string_buffer(cubin, len(cubin))
    with torch.cuda.device(device):
        torch.cuda.synchronize()  # makes torch's context the current one
        module = _value(driver.cuModuleLoadData(ctypes.addressof(code)))
        function = _value(driver.cuModuleGetFunction(module, NAME.encode()))
        shared = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _value(driver.cuFuncSetAttribute(function, shared, SHARED_BYTES))
    return _Kernel(driver, function, code, torch.cuda.get_device_properties(device).multi_processor_count)


def compiled() -> bytes:
    """The machine code: from Triton's cache, or compiled now and stored there.

    Raises:
        RuntimeError: NVRTC refuses the source, or is not installed.
    """
    from triton.runtime.cache import get_cache_manager

    cache = get_cache_manager(cache_key())
    cached = cache.get_file(FILE)
    if cached is not None:
        return Path(cached).read_bytes()
    cubin = compile_source(SOURCE.read_bytes())
    cache.put(cubin, FILE)
    return cubin


def cache_key() -> str:
    """The key of the machine code in Triton's cache: a digest of the options and the source."""
    return hashlib.sha256(" ".join(OPTIONS).encode() + SOURCE.read_bytes()).hexdigest()


def compile_source(source: bytes) -> bytes:
    """Compile CUDA C++ to a cubin for sm_90a. Needs no GPU and no headers.

    Raises:
        RuntimeError: with NVRTC's own message.
    """
    from cuda.bindings import nvrtc

    program = _value(nvrtc.nvrtcCreateProgram(source, SOURCE.name.encode(), 0, [], []))
    (error,) = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), [option.encode() for option in OPTIONS])
    if int(error) != 0:
        log = b" " * _value(nvrtc.nvrtcGetProgramLogSize(program))
        _value(nvrtc.nvrtcGetProgramLog(program, log))
        raise RuntimeError(f"{SOURCE.name} does not compile: {log.decode().strip(chr(0))}")
    cubin: bytes = b" " * _value(nvrtc.nvrtcGetCUBINSize(program))
    _value(nvrtc.nvrtcGetCUBIN(program, cubin))
    _value(nvrtc.nvrtcDestroyProgram(program))
    return cubin


def _value(result: tuple[Any, ...]) -> Any:
    return cuda_value(result, _describe)


def _describe(error: Any) -> str:
    """CUDA_ERROR_OUT_OF_MEMORY -> 'out of memory'. The driver's own descriptions need a driver."""
    name: str = error.name.removeprefix("CUDA_ERROR_").removeprefix("NVRTC_ERROR_")
    return name.lower().replace("_", " ")
