"""The attention kernel compiles for sm_90a, without a GPU; Python's numbers are the source's. It runs in tests/gpu."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engines.backends.triton import hopper, ops
from engines.errors import BackendUnavailable

pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-python is not installed")


def constant(name: str) -> int:
    found = re.search(rf"^#define {name} (\d+)", hopper.SOURCE.read_text(), re.MULTILINE)
    assert found is not None, name
    return int(found[1])


def test_it_compiles_to_machine_code_for_hopper() -> None:
    cubin = hopper.compile_source(hopper.SOURCE.read_bytes())
    assert cubin.startswith(b"\x7fELF")
    assert hopper.NAME.encode() in cubin


def test_a_source_that_does_not_compile_is_refused_in_the_compilers_words() -> None:
    with pytest.raises(RuntimeError, match=r"attention_sm90.cu does not compile: .*error"):
        hopper.compile_source(b"__global__ void kernel() { undeclared(); }")


def test_sizes_are_those_of_the_source() -> None:
    names = ("HEAD_DIM", "BLOCK_N", "NWG", "STAGES", "CPAD")
    ours = (hopper.HEAD_DIM, hopper.BLOCK_N, hopper.WARPGROUPS, hopper.STAGES, hopper.PADDING)
    assert tuple(map(constant, names)) == ours


def test_tensors_elsewhere_are_not_its_business() -> None:
    assert not hopper.takes(torch.zeros(1, 64, 960, dtype=torch.float16), 8)


def test_the_drivers_errors_are_in_the_words_that_a_worker_looks_for() -> None:
    from cuda.bindings import driver

    from worker.render.device import is_lost, is_out_of_memory

    with pytest.raises(RuntimeError, match="CUDA error: out of memory") as caught:
        hopper._value((driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None))
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError, match="CUDA error: illegal address") as caught:
        hopper._value((driver.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,))
    assert is_lost(caught.value)


def test_a_hopper_gpu_without_cuda_python_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    hopper.check_installed(torch.device("cuda"))
    monkeypatch.setattr(hopper, "find_spec", lambda _name: None)
    with pytest.raises(BackendUnavailable, match="triton sets need cuda-python; pip install"):
        hopper.check_installed(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 0))
    hopper.check_installed(torch.device("cuda"))


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_attention_written_for_hopper_is_used_there_only(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    on_gpu: Any = SimpleNamespace(is_cuda=True, dtype=torch.float16, shape=(2, 64, 3 * 320), device="cuda:0")
    assert hopper.takes(on_gpu, 8) == (capability == (9, 0))


def test_without_it_attention_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hopper, "takes", lambda *_: False)
    monkeypatch.setattr(hopper, "attention", lambda *_: pytest.fail("it was launched"))
    qkv = torch.randn(2, 16, 3 * 80)
    heads = qkv.view(2, 16, 3, 2, 40).permute(2, 0, 3, 1, 4)
    expected = torch.softmax(heads[0] @ heads[1].transpose(-1, -2) / math.sqrt(40), dim=-1) @ heads[2]
    torch.testing.assert_close(ops.self_attention(qkv, 2), expected.transpose(1, 2).flatten(2))
