"""The loop around the engine sets of a worker: which of them fit on the device together, and what they share there."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from engines.device import machine_of
from engines.engine_set import EngineSet
from jobs.settings import Settings
from worker.render.denoiser import EngineDenoiser, SharedDevice
from worker.render.denoisers import Denoisers
from worker.render.device import memory_of
from worker.render.loop import RenderLoop
from worker.render.residency import Residency
from worker.shutdown import Shutdown

# The share of the device's memory that sets may keep by themselves. The other half is for batches under way.
SETS_SHARE = 0.5


def loop_of(sets: Mapping[str, EngineSet], first: str, settings: Settings, shutdown: Shutdown | None) -> RenderLoop:
    """The loop of these sets (digest -> set). `first` is loaded now, the others when they are first needed.

    Raises:
        EngineSetRefused, BackendUnavailable: the first one cannot be loaded.
    """
    shared = {device: SharedDevice(device) for device in {one.device for one in sets.values()}}
    denoisers = Denoisers(
        {
            digest: EngineDenoiser(
                one,
                max_batch=settings.max_batch,
                low_vram=settings.low_vram,
                shared=shared[one.device],
                lazy=digest != first,
            )
            for digest, one in sets.items()
        },
        loaded=[first],
    )
    residency = residency_of(sets, settings, denoisers)
    residency.arrived(first)
    return RenderLoop(denoisers, shutdown, residency=residency)


def residency_of(sets: Mapping[str, EngineSet], settings: Settings, denoisers: Denoisers) -> Residency:
    """Which sets fit together: RENDER_SETS_RESIDENT, one with low_vram, or as many as fill half of the memory."""
    make = partial(Residency, reload_seconds=denoisers.reload_seconds)
    if len(sets) == 1:
        return make()
    if settings.low_vram:
        return make(limit=1)
    if settings.sets_resident is not None:
        return make(limit=settings.sets_resident) if settings.sets_resident < len(sets) else make()
    costs = {digest: one.size_bytes for digest, one in sets.items()}
    limit = int(memory_of(device_of(sets))["total"] * SETS_SHARE)
    return make(costs, limit=limit) if sum(costs.values()) > limit else make()


def machines_of(sets: Mapping[str, EngineSet]) -> dict[str, str]:
    """The card and the libraries of each set, by digest, that what is learnt of its sizes depends on; none on a CPU."""
    return {digest: machine_of(one.device) for digest, one in sets.items() if one.device.type == "cuda"}


def device_of(sets: Mapping[str, EngineSet]) -> torch.device:
    """The device that sets are loaded to: the GPU, where any of them needs one."""
    devices = [one.device for one in sets.values()]
    return next((device for device in devices if device.type == "cuda"), devices[0])
