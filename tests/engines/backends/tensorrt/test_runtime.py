"""What of the TensorRT runtime can be checked without a GPU; tests/gpu/test_tensorrt_runtime.py runs it on one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engines.backends.tensorrt.plan import LATEST, PlanLog
from engines.backends.tensorrt.runtime import (
    CapturedCall,
    Context,
    TensorRTEngine,
    TensorRTRuntime,
    check_plan,
    profile_for,
)
from engines.errors import EngineSetRefused
from engines.spec import COMPONENTS, ComponentSpec, Geometry, Profile, component_specs
from tests.engines.required import required
from worker.render.device import is_out_of_memory

SD15 = component_specs(Geometry())
PROFILES = (Profile.parse("256x256:512x512", max_batch=2), Profile.parse("512x768", max_batch=8))


def shapes(spec: ComponentSpec, batch: int, height: int, width: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tensor.sized(batch, height=height, width=width) for tensor in spec.inputs)


@pytest.mark.parametrize("name", ["hint", "controlnet", "unet", "decoder"])
def test_the_profile_that_covers_all_inputs_is_used(name: str) -> None:
    spec = SD15[name]
    assert profile_for(spec, PROFILES, shapes(spec, 2, 256, 512)) == 0
    assert profile_for(spec, PROFILES, shapes(spec, 8, 512, 768)) == 1
    assert profile_for(spec, PROFILES, shapes(spec, 1, 512, 768)) == 1


@pytest.mark.parametrize("name", ["hint", "controlnet", "unet", "decoder"])
def test_of_several_profiles_that_cover_a_size_the_one_that_was_tuned_nearest_to_it_is_used(name: str) -> None:
    spec = SD15[name]
    texts = ["256x256:1024x1024", "512x512", "512x512:512x1024", "512x512:1024x512"]
    profiles = tuple(Profile.parse(text, max_batch=8) for text in texts)
    sizes = {(512, 512): 1, (512, 768): 2, (768, 512): 3, (1024, 1024): 0, (256, 512): 0}
    for (height, width), number in sizes.items():
        assert profile_for(spec, profiles, shapes(spec, 1, height, width)) == number
    assert profile_for(SD15["clip"], profiles, ((1, 77),)) == 0


@pytest.mark.parametrize("texts", [("512x512:768x768", "768x768"), ("768x768", "512x512:768x768")])
def test_the_end_of_a_range_has_a_profile_of_its_own_if_one_was_built(texts: tuple[str, ...]) -> None:
    profiles = tuple(Profile.parse(text, max_batch=8) for text in texts)
    for name in ("hint", "controlnet", "unet", "decoder"):
        assert profile_for(SD15[name], profiles, shapes(SD15[name], 1, 768, 768)) == texts.index("768x768")


@pytest.mark.parametrize(("batch", "height", "width"), [(3, 256, 512), (9, 512, 768), (1, 768, 512), (1, 192, 256)])
def test_shapes_outside_every_profile_are_named(batch: int, height: int, width: int) -> None:
    spec = SD15["decoder"]
    with pytest.raises(ValueError, match=rf"no profile of decoder covers latent \({batch}, 4, {height // 8}, "):
        profile_for(spec, PROFILES, shapes(spec, batch, height, width))


def test_text_has_no_picture_size() -> None:
    assert profile_for(SD15["clip"], PROFILES, ((2, 77),)) == 0
    assert profile_for(SD15["clip"], PROFILES, ((5, 77),)) == 1


def test_what_is_called_exists_in_tensorrt_and_cuda_python() -> None:
    trt, cuda = required("tensorrt_rtx"), required("cuda.bindings.runtime")
    for name in ("execute_async_v3", "set_input_shape", "set_tensor_address", "set_optimization_profile_async"):
        assert hasattr(trt.IExecutionContext, name)
    for name in ("create_execution_context", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype"):
        assert hasattr(trt.ICudaEngine, name)
    for name in ("StreamBeginCapture", "StreamEndCapture", "GraphInstantiate", "GraphLaunch", "GraphExecDestroy"):
        assert hasattr(cuda, f"cuda{name}")


def test_an_error_does_not_speak_for_the_operations_after_it() -> None:
    """Once TensorRT has said that memory is short, every later error would be taken for that."""
    trt = required("tensorrt_rtx")
    log = PlanLog(trt)
    for number in range(100):
        log.logger.log(trt.ILogger.Severity.ERROR, f"out of memory {number}")
        log.logger.log(trt.ILogger.Severity.INFO, "all is well")
    assert log.text == "; ".join(f"out of memory {number}" for number in range(100 - LATEST, 100))
    log.clear()
    assert log.text == "it gave no reason"


class FailingContext:
    """An IExecutionContext: runs out of memory at the first shape, and does not take the second one."""

    active_optimization_profile = 0

    def __init__(self, log: PlanLog, trt: Any) -> None:
        self.fail = lambda text: log.logger.log(trt.ILogger.Severity.ERROR, text)

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        is_first = shape[0] == 1
        self.fail("Cuda Runtime (out of memory)" if is_first else "profile 0 does not allow these dimensions")
        return False

    def set_tensor_address(self, name: str, address: int) -> bool:
        return True


def test_what_an_engine_raises_is_about_its_own_call_and_buffers_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = required("tensorrt_rtx")
    log, spec = PlanLog(trt), SD15["hint"]
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    manifest: Any = SimpleNamespace(runtime="tensorrt_rtx", profiles=PROFILES, precision="fp16")
    context = Context(None, log, FailingContext(log, trt))
    engine = TensorRTEngine(context, spec, manifest, torch.device("cpu"))
    for batch, reason in ((1, "out of memory"), (2, "profile 0")):
        (shape,) = shapes(spec, batch, 512, 512)
        with pytest.raises(RuntimeError, match="hint does not take") as raised:
            engine({spec.inputs[0].name: torch.zeros(shape)})
        assert reason in str(raised.value)
        assert is_out_of_memory(raised.value) == (batch == 1)
    assert len(engine._known) == 2
    engine.forget_shapes()
    assert not engine._known


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA does not fail here")
def test_a_cuda_error_is_told_in_the_words_that_the_worker_looks_for() -> None:
    required("cuda.bindings.runtime")
    with pytest.raises(
        RuntimeError, match=r"^CUDA error: (CUDA driver version is insufficient|no CUDA-capable device)"
    ):
        CapturedCall(lambda: None, 0)


class Config:
    """What is asked of an IRuntimeConfig, which cannot be made without a GPU."""

    dynamic_shapes_kernel_specialization_strategy: object = None

    def __init__(self, *, takes: bool) -> None:
        self.takes, self.cache = takes, None

    def create_runtime_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"kernels", deserialize=lambda blob: blob == b"kernels")

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return self.takes


@pytest.mark.parametrize("takes", [True, False])
def test_tensorrt_for_rtx_gets_what_earlier_processes_compiled_for_the_set_and_the_card(
    takes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime: Any = object.__new__(TensorRTRuntime)  # opening one needs a GPU
    runtime._device, runtime._cache, runtime._log = torch.device("cuda:0"), tmp_path, SimpleNamespace(text="why")
    runtime._trt = required("tensorrt_rtx")
    runtime._manifest = SimpleNamespace(
        digest="ab" * 32, architecture="sm89", runtime="tensorrt_rtx", versions={"tensorrt_rtx": "1.7.1.116"}
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "RTX 4090")
    monkeypatch.setattr(torch.cuda, "device", lambda _device: nullcontext())
    cuda = SimpleNamespace(cudaDriverGetVersion=lambda: (0, 13000))
    monkeypatch.setattr("engines.backends.tensorrt.runtime.cuda_runtime", lambda: cuda)
    config = Config(takes=takes)
    plan = SimpleNamespace(create_runtime_config=lambda: config, create_execution_context=lambda config: config)
    context = runtime._context(plan, "unet")
    strategy = runtime._trt.DynamicShapesKernelSpecializationStrategy.EAGER
    assert (context.execution, config.dynamic_shapes_kernel_specialization_strategy) == (config, strategy)
    if not takes:
        assert context.kernels is None
        return
    assert context.kernels is not None
    assert context.kernels.cache is config.cache
    context.kernels.save()
    (written,) = tmp_path.rglob("unet.kernels")
    assert written.parent.name.startswith("driver-13000+tensorrt_rtx-1.7.1.116")
    assert written.read_bytes().endswith(b"\nkernels")
    runtime._cache = None
    assert runtime._context(plan, "unet").kernels is None


class Plan:
    """What check_plan asks of an ICudaEngine, which cannot be made without a GPU."""

    def __init__(self, tensors: list[tuple[str, Any, Any]]) -> None:
        self._tensors = {name: (mode, dtype) for name, mode, dtype in tensors}
        self.num_io_tensors = len(tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensors[name][1]


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_loaded_plan_must_have_the_specs_tensors(name: str) -> None:
    trt = required("tensorrt_rtx")
    spec, types = SD15[name], trt.DataType
    tensors = [
        (tensor.name, mode, types.INT64 if tensor.dtype == "int64" else types.HALF)
        for mode, side in ((trt.TensorIOMode.INPUT, spec.inputs), (trt.TensorIOMode.OUTPUT, spec.outputs))
        for tensor in side
    ]
    path = Path(f"{name}.plan")
    check_plan(trt, Plan(tensors[::-1]), path, spec, torch.float16)
    first = tensors[0]
    for wrong in (
        tensors[1:],
        [*tensors, ("surprise", *first[1:])],
        [(first[0], trt.TensorIOMode.OUTPUT, first[2]), *tensors[1:]],
        [(first[0], first[1], types.FLOAT), *tensors[1:]],
    ):
        with pytest.raises(EngineSetRefused, match=rf"{name}.plan has the tensors \[.*\], the spec \["):
            check_plan(trt, Plan(wrong), path, spec, torch.float16)
