"""`engines bench`: milliseconds of each component and of a guided step, as one JSON line with hardware and versions."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.check.flops import guided_step_flops
from engines.check.verify import likely_inputs
from engines.cuda_graph import Graphed
from engines.device import cpu_name
from engines.engine_set import EngineSet
from engines.errors import EngineSetRefused
from engines.spec import COMPONENTS


@dataclass(frozen=True)
class Timing:
    """Percentiles of one call, in milliseconds."""

    p50_ms: float
    p95_ms: float

    def to_json(self) -> dict[str, float]:
        """Rounded to microseconds."""
        return {"p50_ms": round(self.p50_ms, 3), "p95_ms": round(self.p95_ms, 3)}


@dataclass(frozen=True)
class BenchRequest:
    """One size; `steps` timed calls after `warmups` that are not counted."""

    height: int
    width: int
    batch: int
    steps: int
    warmups: int


def bench(engines: EngineSet, request: BenchRequest) -> dict[str, object]:
    """Time every component, and controlnet + unet together: a guided step of `batch` images (2 x batch rows).

    On a GPU each is one captured graph, as in a worker's step, so the host's time for launching kernels is left out.

    Raises:
        EngineSetRefused: the set was not built for this size or batch.
    """
    if not engines.supports(request.height, request.width) or request.batch > engines.max_batch:
        raise EngineSetRefused(
            f"the set was built for {engines.shapes_text()} and batches up to {engines.max_batch}, "
            f"not for {request.height}x{request.width} and {request.batch}"
        )
    calls = {name: _call(engines, name, engines.engine(name), request) for name in COMPONENTS}
    calls["guided_step"] = _call(engines, "controlnet", engines.predict, request)
    timings = {name: timed(call, engines.device, request) for name, call in calls.items()}
    flops = request.batch * guided_step_flops(engines.geometry, request.height, request.width)
    tflops, peak = flops / timings["guided_step"].p50_ms / 1e9, matmul_tflops(engines.device, engines.io_dtype)
    return {
        "what": "engines bench",
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "hardware": hardware(engines.device),
        "backend": engines.manifest.backend,
        "precision": engines.manifest.precision,
        "versions": engines.manifest.versions,
        "engine_set": engines.digest,
        "height": request.height,
        "width": request.width,
        "batch": request.batch,
        "rows": 2 * request.batch,
        "steps": request.steps,
        "warmups": request.warmups,
        "timings": {name: timing.to_json() for name, timing in timings.items()},
        "guided_step_tflops": round(tflops, 3),
        "matmul_tflops": round(peak, 3),
        "share_of_matmul": round(tflops / peak, 3),
    }


def _call(
    engines: EngineSet,
    component: str,
    function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    request: BenchRequest,
) -> Callable[[], object]:
    """`function` on likely inputs of a component."""
    spec = engines.manifest.components[component].spec
    likely = likely_inputs(spec, request.batch, height=request.height, width=request.width)
    inputs = {
        key: tensor.to(engines.device, engines.io_dtype if tensor.is_floating_point() else None)
        for key, tensor in likely.items()
    }
    graphed = Graphed(function, engines.device)
    return lambda: graphed(inputs)


def matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product on random data, the median of ten: the practical ceiling."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    size = BenchRequest(side, side, 1, steps=10, warmups=3)
    return float(2 * side**3 / timed(lambda: left @ right, device, size).p50_ms / 1e9)


def timed(call: Callable[[], object], device: torch.device, request: BenchRequest) -> Timing:
    """Percentiles of calls that each wait for the device."""
    seconds = []
    for i in range(request.warmups + request.steps):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i >= request.warmups:
            seconds.append(time.perf_counter() - started)
    ordered = sorted(seconds)
    # Nearest rank: with few steps the 95th percentile is the slowest one.
    last = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return Timing(statistics.median(ordered) * 1000, last * 1000)


def hardware(device: torch.device) -> dict[str, object]:
    """The machine that was measured."""
    facts: dict[str, object] = {"cpu": cpu_name(), "cores": os.cpu_count(), "device": device.type}
    if device.type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "gpu_capability": torch.cuda.get_device_capability(device)}
    return facts
