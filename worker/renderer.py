"""Renderer: everything that jobs are rendered with, which is an engine set, its tokenizer and the loop around them.

A worker may hold several engine sets. Each has a renderer, and one loop takes the requests of all.

The heavy imports (torch, the engines' libraries) happen inside `load_renderer`, when the health server already answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import structlog

from jobs.errors import EngineSetNotHeld, RenderError, ShapeNotBuilt, StepsNotTrained
from jobs.job import RenderJob
from jobs.settings import Settings
from worker.held_sets import DEFAULT, set_for
from worker.shutdown import Shutdown

if TYPE_CHECKING:
    import torch

    from engines.engine_set import EngineSet
    from engines.file_check import FileCheck
    from engines.manifest import Manifest
    from worker.image.decode_budget import DecodeBudget
    from worker.image.tokens import Tokenizer
    from worker.prepare import Prepared
    from worker.render.loop import RenderLoop

    Prepare = Callable[..., Prepared]  # of a job, its picture and, where it has one, `control_data`

log = structlog.get_logger(__name__)

FAKE_PREFIX = "fake:"


class RendererRefused(RenderError):
    """The engine set cannot be used; the sentence says what differs."""

    kind = "engines_refused"


@dataclass(frozen=True)
class Renderer:
    """One a set; `loop.run` belongs to one thread, and everything else is called by many at once.

    The process's own is that of its only set, or of the one called `default`, or of the first; `others` has all of them
    by name if there are several. Only that one has what belongs to the process (close, facts, memory).
    """

    loop: RenderLoop
    prepare: Prepare
    encode: Callable[[RenderJob, Prepared, int, np.ndarray], bytes]  # one sample, uint8 [H, W, 3], as a file
    digest: str  # of the engine set; every result names it
    model_name: str | None = None  # of the engine set, for people
    built_with: Mapping[str, Any] | None = None  # its quantization, LoRAs, VAE, embeddings, clip skip
    close: Callable[[], None] = lambda: None
    facts: Mapping[str, Any] = field(default_factory=dict)  # for the log
    built: Mapping[str, str] = field(default_factory=dict)  # backend, runtime, precision, architecture
    memory: Callable[[], Mapping[str, int]] = dict  # of the device, in bytes by kind; raises if the device is lost
    # The card and the libraries of each set whose batch sizes cost something, by digest (learnt_sizes.py).
    machines: Mapping[str, str] = field(default_factory=dict)
    name: str = DEFAULT  # by which rows ask for the set
    others: Mapping[str, Renderer] = field(default_factory=dict)

    @property
    def sets(self) -> Mapping[str, Renderer]:
        """The renderers of all sets that this worker holds, by name."""
        return self.others or {self.name: self}

    def for_job(self, job: RenderJob) -> Renderer:
        """The renderer of the set that draws a job.

        Raises:
            EngineSetNotHeld: this worker holds no such set; the sentence names those that it holds.
        """
        return set_for(self.sets, job)

    def holds(self, job: RenderJob) -> bool:
        """Whether this worker holds the set that draws a job."""
        try:
            self.for_job(job)
        except EngineSetNotHeld:
            return False
        return True


def load_renderer(settings: Settings, shutdown: Shutdown | None = None) -> Renderer:
    """Load what RENDER_ENGINE_DIR names. `shutdown` is the process's; without one the loop has its own.

    Raises:
        RendererRefused: the engine set is missing, damaged or built for something else.
    """
    if settings.engine_dir.startswith(FAKE_PREFIX):
        return _fake_renderer(settings, shutdown)
    return _engine_renderer(settings, shutdown)


def _engine_renderer(settings: Settings, shutdown: Shutdown | None) -> Renderer:
    from engines.errors import EngineError
    from worker.set_folders import set_folders

    try:
        folders = set_folders(Path(settings.engine_dir))
        checks = _checks(folders)  # they hash while torch is imported, which takes longer than anything else here
        from worker.engine_loop import device_of, loop_of, machines_of

        found = {folder: _opened(folder, check, settings) for folder, check in checks.items()}
        by_digest = {one.digest: one for one in found.values()}  # two names may lead to the same set
        opened = {name: by_digest[found[folder].digest] for name, folder in folders.items()}
        first = DEFAULT if DEFAULT in opened else next(iter(opened))
        loop = loop_of(by_digest, opened[first].digest, settings, shutdown)
    except EngineError as error:
        raise RendererRefused(f"RENDER_ENGINE_DIR={settings.engine_dir}: {error}") from error
    renderers = _renderers(opened, loop, settings, _decode_budget(shutdown))
    process = _of_process(renderers, first, by_digest, device_of(by_digest))
    return replace(process, machines={} if settings.low_vram else machines_of(by_digest))


def _checks(folders: Mapping[str, Path]) -> dict[Path, FileCheck]:
    from engines.file_check import FileCheck

    return {folder: FileCheck.of(folder) for folder in dict.fromkeys(folders.values())}


def _opened(folder: Path, check: FileCheck, settings: Settings) -> EngineSet:
    from engines.engine_set import load_engine_set
    from engines.errors import EngineError, EngineSetRefused

    try:
        cache = None if settings.cache_dir is None else Path(settings.cache_dir)
        return load_engine_set(folder, device=settings.device, threads=settings.threads, check=check, cache=cache)
    except EngineError as error:
        if str(folder) in str(error) or Path(settings.engine_dir).name == folder.name:
            raise
        raise EngineSetRefused(f"{folder}: {error}") from error  # one of several: say which


def _renderers(
    opened: Mapping[str, EngineSet], loop: RenderLoop, settings: Settings, budget: DecodeBudget
) -> dict[str, Renderer]:
    """By name, the renderer of each set."""
    from worker.image.tokens import Tokenizer
    from worker.infotext import ModelLabel, encode_sample
    from worker.prepare import prepare

    renderers = {}
    for name, engines in opened.items():
        geometry, source = engines.geometry, engines.manifest.source
        tokenizer = Tokenizer(
            engines.tokenizer_path,
            length=geometry.context_length,
            bos_token_id=geometry.bos_token_id,
            eos_token_id=geometry.eos_token_id,
            pad_token_id=geometry.pad_token_id,
        )
        label = ModelLabel.of(source, quantized=engines.manifest.precision == "fp8")
        prepared = partial(prepare, tokenizer=tokenizer, max_pixels=settings.max_pixels, budget=budget)
        renderers[name] = Renderer(
            loop,
            _of_set(engines.digest, _refusing_other_jobs(prepared, engines)),
            partial(encode_sample, label=label),
            digest=engines.digest,
            model_name=label.model or None,
            built_with=engines.manifest.built_with,
            built=_built(engines.manifest),
            name=name,
        )
    return renderers


def _of_process(
    renderers: Mapping[str, Renderer], first: str, sets: Mapping[str, EngineSet], device: torch.device
) -> Renderer:
    from worker.render.device import memory_of

    engines = sets[renderers[first].digest]
    facts: dict[str, Any] = {"device": str(device), "shapes": engines.shapes_text(), "max_batch": engines.max_batch}
    if len(renderers) > 1:
        facts = {"device": str(device), "sets": {name: one.digest for name, one in renderers.items()}}

    def close() -> None:
        for one in sets.values():
            one.close()

    return replace(
        renderers[first],
        close=close,
        facts=facts,
        memory=partial(memory_of, device),
        others=renderers if len(renderers) > 1 else {},
    )


def _built(manifest: Manifest) -> dict[str, str]:
    return {
        "backend": manifest.backend,
        "runtime": f"{manifest.runtime} {manifest.versions[manifest.runtime]}",
        "precision": manifest.precision,
        "architecture": manifest.architecture or "any",
    }


def _of_set(digest: str, prepare: Prepare) -> Prepare:
    """`prepare`, whose samples say which set draws them."""

    def prepare_for_set(job: RenderJob, picture: bytes, *, control_data: bytes | None = None) -> Prepared:
        prepared = prepare(job, picture, control_data=control_data)
        return replace(prepared, specs=tuple(replace(spec, engine_set=digest) for spec in prepared.specs))

    return prepare_for_set


def _refusing_other_jobs(prepare: Prepare, engines: EngineSet) -> Prepare:
    """`prepare`, which raises ShapeNotBuilt, StepsNotTrained or PromptTooLong for a job that the set cannot render."""
    from worker.prompt_pair import check_chunks
    from worker.render import ddim

    def prepare_if_built(job: RenderJob, picture: bytes, *, control_data: bytes | None = None) -> Prepared:
        try:
            # The loop takes the same one: it is computed once for all jobs that have these steps and eta.
            ddim.schedule(engines.noise_schedule, job.parameters.ddim_steps, job.parameters.eta)
        except ValueError as error:
            timesteps = engines.noise_schedule.num_train_timesteps
            raise StepsNotTrained(f"the engine set's model has {timesteps} training timesteps: {error}") from error
        prepared = prepare(job, picture, control_data=control_data)
        height, width = prepared.height, prepared.width
        if not engines.supports(height, width):
            raise ShapeNotBuilt(
                f"the picture is rendered at {height}x{width}, and the engine set was built for "
                f"{engines.shapes_text()}; change image_resolution, or build a set with --shape {height}x{width}"
            )
        check_chunks(prepared.specs[0].chunks, engines.manifest.context_chunks_at(height, width))
        return prepared

    return prepare_if_built


def _fake_renderer(settings: Settings, shutdown: Shutdown | None) -> Renderer:
    import torch

    from worker.fake import FakeTiming, FakeTokenizer, fake_loop
    from worker.infotext import ModelLabel, encode_sample
    from worker.prepare import prepare
    from worker.render.device import memory_of

    text = settings.engine_dir.removeprefix(FAKE_PREFIX)
    try:
        timing = FakeTiming.parse(text)
    except ValueError as error:
        raise RendererRefused(f"RENDER_ENGINE_DIR={settings.engine_dir}: {error}") from error
    log.warning("fake_engines", consequence="pictures show what no model has drawn", timing=text)
    # `prepare` calls nothing but `encode`, and a real tokenizer would need an engine set.
    tokenizer = cast("Tokenizer", FakeTokenizer())
    prepared = partial(prepare, tokenizer=tokenizer, max_pixels=settings.max_pixels, budget=_decode_budget(shutdown))
    loop = fake_loop(timing, settings, shutdown)
    built = {"backend": "fake", "runtime": "none", "precision": "fp32", "architecture": "any"}
    renderers = {
        name: Renderer(
            loop,
            _of_set(digest, prepared),
            partial(encode_sample, label=ModelLabel(digest, digest)),
            digest=digest,
            model_name=digest,
            built=built,
            name=name,
        )
        for name, digest in timing.names.items()
    }
    first = next(iter(renderers.values()))
    others = renderers if len(renderers) > 1 else {}
    return replace(first, memory=partial(memory_of, torch.device("cpu")), others=others)


def _decode_budget(shutdown: Shutdown | None) -> DecodeBudget:
    from worker.image.decode_budget import DecodeBudget

    return DecodeBudget() if shutdown is None else DecodeBudget(check=shutdown.check)
