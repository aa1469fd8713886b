"""A triton set from build to picture, on the demo model. python -m pytest -m gpu tests/gpu/test_triton_sets.py"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from engines.backends import registry
from engines.backends.tensorrt.package import is_best
from engines.backends.triton.components import ControlNetEngine
from engines.backends.triton.kernel_keys import check_kernels, current_keys, used_keys
from engines.build.builder import BuildRequest, build_set
from engines.check.score import psnr
from engines.check.verify import clipping, verify
from engines.engine_set import EngineSet, load_engine_set
from engines.errors import BackendUnavailable, EngineSetRefused
from engines.manifest import load_manifest
from engines.spec import COMPONENTS, Profile
from engines.store.bucket import Bucket
from engines.store.pull import PullRequest, pull
from engines.store.push import push
from tests.gpu.memory_limit import GIB, room_for
from tests.models import CACHE
from tests.worker.samples import sample_spec
from tools import ROOT
from worker.render.batch import StepBatch
from worker.render.decoding import Decoding
from worker.render.denoiser import EngineDenoiser
from worker.render.errors import DeviceOutOfMemory
from worker.render.loop import RenderLoop
from worker.render.request import ImageSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"),
]

WEIGHTS = ROOT / "examples" / "demo-model" / "weights"
SHAPE = (256, 256)


def request_for(out: Path, backend: str, precision: str) -> BuildRequest:
    return BuildRequest(
        model=str(WEIGHTS / "model"),
        controlnet=str(WEIGHTS / "controlnet"),
        out=out,
        backend=backend,
        precision=precision,  # type: ignore[arg-type]
        profiles=(Profile.parse("256x256", max_batch=4), Profile.parse("192x128", max_batch=4)),
    )


@pytest.fixture(scope="module")
def folder() -> Path:
    out = CACHE / "demo-triton"
    build_set(request_for(out, "triton", "fp16"))
    return out


@pytest.fixture(scope="module")
def engines(folder: Path) -> Iterator[EngineSet]:
    with load_engine_set(folder, device="cuda") as opened:
        yield opened


def sample(number: int, *, steps: int = 12) -> ImageSpec:
    """Edges of a disc and a box, which the demo model knows how to fill."""
    edges = np.zeros(SHAPE, np.uint8)
    cv2.circle(edges, (90 + 10 * number, 100), 50, 255)
    cv2.rectangle(edges, (120, 130), (220, 200 + 5 * number), 255)
    return sample_spec(number, edges=edges, steps=steps)


def drawn(denoiser: EngineDenoiser, requests: list[ImageSpec]) -> list[np.ndarray]:
    loop = RenderLoop(denoiser)
    futures = [loop.submit(request) for request in requests]
    while loop.step():
        pass
    return [future.result(60) for future in futures]


def test_auto_prefers_it_where_tensorrt_has_no_kernels_for_the_gpu() -> None:
    assert registry.choose("auto").name == ("tensorrt" if is_best() else "triton")


def test_every_component_is_within_a_hundredth_of_float32(folder: Path) -> None:
    for finding in verify(folder, within=1e-2):
        assert finding.ok, finding


@pytest.fixture(scope="module")
def for_long_prompts() -> Path:
    out = CACHE / "demo-triton-2-chunks"
    profile = Profile.parse("256x256", max_batch=2, context_chunks=2)
    build_set(replace(request_for(out, "triton", "fp16"), profiles=(profile,)))
    return out


def test_prompts_of_two_chunks_are_within_a_hundredth_of_float32(for_long_prompts: Path) -> None:
    findings = list(verify(for_long_prompts, within=1e-2))
    assert all(finding.ok for finding in findings), findings
    assert {one.component for one in findings if one.context_chunks == 2} == {"controlnet", "unet"}


def test_prompts_of_two_chunks_are_drawn_and_their_weights_seen(for_long_prompts: Path) -> None:
    ids = np.tile(sample(0).cond_ids, 2)
    long = replace(sample(0), cond_ids=ids, uncond_ids=ids, chunks=2)
    weights = np.linspace(0.5, 1.5, len(ids), dtype=np.float32)
    with load_engine_set(for_long_prompts, device="cuda") as engines:
        denoiser = EngineDenoiser(engines)
        plain, again, weighted = (
            drawn(denoiser, [one])[0] for one in (long, long, replace(long, cond_weights=weights))
        )
    assert np.array_equal(plain, again)
    assert not np.array_equal(plain, weighted)


def test_a_second_build_has_nothing_to_do(folder: Path) -> None:
    built = build_set(request_for(folder, "triton", "fp16"))
    assert built.steps == 0
    assert not built.changed


def test_the_manifest_records_the_keys_of_the_kernels_that_a_worker_asks_for(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = load_manifest(folder)
    assert manifest.kernels == used_keys(current_keys(manifest.architecture), "fp16")
    check_kernels(folder, manifest, can_compile=lambda: False)
    assert caplog.records == []


def test_kernels_of_other_code_are_warned_of_or_refused(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = load_manifest(folder).model_copy(update={"kernels": {}})
    check_kernels(folder, other, can_compile=lambda: True)
    assert "will be compiled at first use" in caplog.text
    with pytest.raises(EngineSetRefused, match="build the set again: engines build --model"):
        check_kernels(folder, other, can_compile=lambda: False)


def test_a_set_goes_to_a_folder_and_comes_back_ready_to_load(folder: Path, tmp_path: Path) -> None:
    people, root = Console(stderr=True), str(tmp_path / "root")
    push(Bucket(root), folder, people)
    pulled = pull(Bucket(root), PullRequest(tmp_path / "sets"), people)
    assert pulled.digest == load_manifest(folder).digest
    with load_engine_set(pulled.link) as opened:
        opened.load(COMPONENTS)
        assert opened.device.type == "cuda"


def test_float32_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="triton sets hold float16 or fp8"):
        build_set(request_for(tmp_path / "set", "triton", "fp32"))


def test_a_worker_compiles_nothing(folder: Path) -> None:
    """A fresh process takes its first step, with compilers that would raise."""
    code = f"""
from pathlib import Path
from benchmarks.first_step import first_step
from engines.backends.triton import hopper
from triton.backends.nvidia.compiler import CUDABackend

def compiled(*given, **options):
    raise AssertionError("a kernel was compiled")

CUDABackend.make_cubin = compiled
hopper.compile_source = compiled
first_step(Path({str(folder)!r}), "cuda", 0.0)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_worker_compiles_nothing_at_any_size_of_a_range() -> None:
    """The build ran a few of these sizes. A fresh process runs all of them, with a compiler that would raise."""
    out = CACHE / "demo-triton-range"
    profile = Profile.parse("128x128:256x320", max_batch=3)
    build_set(replace(request_for(out, "triton", "fp16"), profiles=(profile,)))
    code = f"""
from itertools import product
from pathlib import Path
from engines.check.verify import likely_inputs
from engines.engine_set import load_engine_set
from triton.backends.nvidia.compiler import CUDABackend

def compiled(*given, **options):
    raise AssertionError("a kernel was compiled")

CUDABackend.make_cubin = compiled
with load_engine_set(Path({str(out)!r}), device="cuda") as engines:
    for batch, height, width in product((1, 2, 3), range(128, 257, 64), range(128, 321, 64)):
        def inputs(name):
            made = likely_inputs(engines.manifest.components[name].spec, batch, height=height, width=width)
            return {{key: tensor.to("cuda", engines.io_dtype) for key, tensor in made.items()}}
        engines.predict(inputs("controlnet"))
        engines.engine("decoder")(inputs("decoder"))
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_pictures_are_those_of_the_float32_cpu_path(engines: EngineSet) -> None:
    out = CACHE / "demo-onnxruntime"
    build_set(request_for(out, "onnxruntime", "fp32"))
    requests = [sample(seed) for seed in range(3)]
    with load_engine_set(out) as reference:
        expected = drawn(EngineDenoiser(reference), requests)
    found = drawn(EngineDenoiser(engines), requests)
    assert min(psnr(one, two) for one, two in zip(found, expected, strict=True)) >= 35


def test_a_job_alone_is_the_job_in_a_full_batch_of_mixed_steps(engines: EngineSet) -> None:
    requests = [sample(seed, steps=8 + 3 * seed) for seed in range(4)]
    denoiser = EngineDenoiser(engines)
    together = drawn(denoiser, requests)
    single = EngineDenoiser(engines)  # which has no graph of a larger batch
    alone = [drawn(single, [request])[0] for request in requests]
    assert min(psnr(one, two) for one, two in zip(together, alone, strict=True)) >= 45


needs_e4m3 = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="this GPU does not compute in fp8"
)


@pytest.fixture(scope="module")
def quantized(folder: Path) -> Path:
    out = CACHE / "demo-triton-fp8"
    build_set(replace(request_for(out, "triton", "fp8"), reuse=(folder,)))
    return out


@needs_e4m3
def test_a_quantized_set_says_what_it_is(quantized: Path, folder: Path) -> None:
    manifest = load_manifest(quantized)
    assert manifest.precision == "fp8"
    assert manifest.calibration is not None
    assert manifest.calibration.source == "built-in"
    assert {name: len(each) for name, each in manifest.calibration.input_scales.items()} == {
        "controlnet": 69,
        "unet": 156,
    }
    assert manifest.built_with == {"precision": "fp8"}
    assert manifest.digest != load_manifest(folder).digest
    assert not build_set(request_for(quantized, "triton", "fp8")).changed


@needs_e4m3
def test_a_quantized_sets_components_and_what_they_clip(quantized: Path) -> None:
    findings = {finding.component: finding for finding in verify(quantized, within=0.15)}
    assert all(finding.ok for finding in findings.values()), findings
    assert all((findings[name].norm_error or 0) > 1e-3 for name in ("controlnet", "unet"))
    clipped = clipping(quantized)
    assert set(clipped) == {"controlnet", "unet"}
    for seen in clipped.values():
        assert seen.values > 1_000_000
        assert seen.clipped <= 1e-3 * seen.values


@needs_e4m3
def test_a_quantized_job_alone_is_nearer_to_itself_in_a_batch_than_to_float16(
    quantized: Path, engines: EngineSet
) -> None:
    """Our kernels give a row the same bits in any batch; cuBLAS and cuDNN need not (docs/engines.md)."""
    requests = [sample(seed, steps=8 + 3 * seed) for seed in range(4)]
    with load_engine_set(quantized, device="cuda") as opened:
        together = drawn(EngineDenoiser(opened), requests)
        alone = [drawn(EngineDenoiser(opened), [request])[0] for request in requests]
    half = drawn(EngineDenoiser(engines), requests)
    to_half = [psnr(one, two) for one, two in zip(together, half, strict=True)]
    to_alone = [min(psnr(one, two), 99.0) for one, two in zip(together, alone, strict=True)]
    assert min(to_half) >= 20
    assert sum(to_alone) >= sum(to_half)


@needs_e4m3
def test_a_worker_with_a_quantized_set_compiles_nothing(quantized: Path) -> None:
    test_a_worker_compiles_nothing(quantized)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_step_never_waits_for_the_device(engines: EngineSet) -> None:
    """Torch raises where a call would synchronize; the first step captures, which may."""
    loop = RenderLoop(EngineDenoiser(engines))
    futures = [loop.submit(sample(seed, steps=6)) for seed in range(2)]
    loop.step()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(4):
            loop.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    while loop.step():
        pass
    assert all(future.result(60).shape == (*SHAPE, 3) for future in futures)


def test_real_memory_running_out_halves_the_batch_and_every_picture_arrives(
    engines: EngineSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of more than one sample asks the device for more than it has: CUDA itself says no."""
    denoiser = EngineDenoiser(engines)
    step, refused = denoiser.step, []

    def greedy(batch: StepBatch) -> torch.Tensor:
        if batch.size > 1:
            from worker.render.device import translated_errors

            refused.append(batch.size)
            with translated_errors():
                torch.empty(1 << 42, dtype=torch.uint8, device="cuda")
        return step(batch)

    monkeypatch.setattr(denoiser, "step", greedy)
    requests = [sample(seed, steps=4) for seed in range(4)]
    pictures = drawn(denoiser, requests)
    monkeypatch.undo()
    assert refused[0] == 4
    assert [psnr(a, b) >= 45 for a, b in zip(pictures, drawn(denoiser, requests), strict=True)] == [True] * 4


def test_a_decoder_that_runs_out_of_memory_is_halved_and_no_graph_is_dropped(
    engines: EngineSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for three pictures' activations. Those of the call that failed must be free before its halves."""
    from worker.render.device import translated_errors

    denoiser = EngineDenoiser(engines)
    requests = [sample(seed, steps=4) for seed in range(4)]
    expected, graphs = drawn(denoiser, requests), denoiser.graphs(requests[0].bucket_key)
    decode, asked = denoiser.decode, []

    def greedy(latents: torch.Tensor) -> Decoding:
        asked.append(len(latents))
        activations: dict[int, torch.Tensor] = {}
        with translated_errors():
            for number in range(len(latents)):
                activations[number] = torch.empty(GIB, dtype=torch.uint8, device="cuda")
            return decode(latents)

    monkeypatch.setattr(denoiser, "decode", greedy)
    with room_for(3 * GIB + GIB // 2):
        pictures = drawn(denoiser, requests)
    assert asked == [4, 2, 2]
    assert denoiser.graphs(requests[0].bucket_key) == graphs != set()
    assert min(psnr(one, two) for one, two in zip(pictures, expected, strict=True)) >= 45


def test_memory_that_runs_out_in_a_capture_of_two_streams_is_told_so(
    engines: EngineSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the U-Net, ControlNet runs in a stream of its own, which a capture cannot end without."""
    from worker.render.device import translated_errors

    controls, captured = ControlNetEngine.controls, []

    def short(self: ControlNetEngine, inputs: Mapping[str, torch.Tensor]) -> Any:
        if torch.cuda.is_current_stream_capturing():
            captured.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return controls(self, inputs)

    denoiser = EngineDenoiser(engines)
    monkeypatch.setattr(ControlNetEngine, "controls", short)
    with pytest.raises(DeviceOutOfMemory), translated_errors():
        denoiser.warm(sample(0).bucket_key, 1)
    assert captured
    monkeypatch.undo()
    assert len(drawn(denoiser, [sample(0, steps=4)])) == 1  # the device still works


def test_low_vram_draws_the_same_with_less_memory(folder: Path) -> None:
    pictures, peaks = {}, {}
    for low in (False, True):
        with load_engine_set(folder, device="cuda") as opened:
            gc.collect()  # what earlier tests have left must not leave now
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            pictures[low] = drawn(EngineDenoiser(opened, low_vram=low), [sample(0, steps=4)])[0]
            peaks[low] = torch.cuda.max_memory_allocated() - before
    assert psnr(pictures[True], pictures[False]) >= 45
    assert peaks[True] < peaks[False]


def test_an_unusable_size_is_an_out_of_memory_of_ours() -> None:
    from worker.render.device import translated_errors

    with pytest.raises(DeviceOutOfMemory), translated_errors():
        torch.empty(1 << 42, dtype=torch.uint8, device="cuda")
