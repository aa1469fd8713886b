"""The attention kernel compiles for sm_90a, without a GPU; Python's numbers are the source's. It runs in tests/gpu."""

from __future__ import annotations

import re

import pytest
import torch

from engines.fused import hopper

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
