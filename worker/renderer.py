"""Renderer: everything that jobs are rendered with, which is an engine set, its tokenizer and the loop around them.

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

from jobs.errors import RenderError, ShapeNotBuilt, StepsNotTrained
from jobs.job import RenderJob
from jobs.settings import Settings
from worker.shutdown import Shutdown

if TYPE_CHECKING:
    from engines.engine_set import EngineSet
    from worker.image.decode_budget import DecodeBudget
    from worker.image.tokens import Tokenizer
    from worker.infotext import ModelLabel
    from worker.prepare import Prepared
    from worker.render.denoiser import Denoiser
    from worker.render.loop import RenderLoop

    Prepare = Callable[..., Prepared]  # of a job, its picture and, where it has one, `control_data`

log = structlog.get_logger(__name__)

FAKE_PREFIX = "fake:"


class RendererRefused(RenderError):
    """The engine set cannot be used; the sentence says what differs."""

    kind = "engines_refused"


@dataclass(frozen=True)
class Renderer:
    """One a process. `loop.run` belongs to one thread; everything else is called by many at once."""

    loop: RenderLoop
    prepare: Prepare
    encode: Callable[[RenderJob, Prepared, int, np.ndarray], bytes]  # one sample, uint8 [H, W, 3], as a file
    digest: str  # of the engine set; every result names it
    model_name: str | None = None  # of the engine set, for people
    built_with: Mapping[str, Any] | None = None  # what was added to its model: LoRAs, a VAE, embeddings, clip skip
    close: Callable[[], None] = lambda: None
    facts: Mapping[str, Any] = field(default_factory=dict)  # for the log
    built: Mapping[str, str] = field(default_factory=dict)  # backend, runtime, precision, architecture
    memory: Callable[[], Mapping[str, int]] = dict  # of the device, in bytes by kind; raises if the device is lost


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
    from engines.file_check import FileCheck
    from engines.files import without_links

    folder = without_links(Path(settings.engine_dir).expanduser())
    try:
        check = FileCheck.of(folder)  # hashes while torch is imported, which takes longer than anything else here
        from engines.engine_set import load_engine_set
        from worker.image.tokens import Tokenizer
        from worker.infotext import ModelLabel
        from worker.prepare import prepare
        from worker.render.denoiser import EngineDenoiser

        engines = load_engine_set(folder, device=settings.device, threads=settings.threads, check=check)
        denoiser = EngineDenoiser(engines, max_batch=settings.max_batch, low_vram=settings.low_vram)
    except EngineError as error:
        raise RendererRefused(f"RENDER_ENGINE_DIR={settings.engine_dir}: {error}") from error
    geometry, source = engines.geometry, engines.manifest.source
    tokenizer = Tokenizer(
        engines.tokenizer_path,
        length=geometry.context_length,
        bos_token_id=geometry.bos_token_id,
        eos_token_id=geometry.eos_token_id,
        pad_token_id=geometry.pad_token_id,
    )
    renderer = _assemble(
        denoiser,
        _refusing_other_jobs(
            partial(prepare, tokenizer=tokenizer, max_pixels=settings.max_pixels, budget=_decode_budget(shutdown)),
            engines,
        ),
        shutdown,
        digest=engines.digest,
        label=ModelLabel.of(source.model, source.controlnet, weights=source.weights),
    )
    return _with_facts(renderer, engines)


def _with_facts(renderer: Renderer, engines: EngineSet) -> Renderer:
    from worker.render.device import memory_of

    manifest = engines.manifest
    return replace(
        renderer,
        close=engines.close,
        built_with=manifest.source.built_with,
        facts={"device": str(engines.device), "shapes": engines.shapes_text(), "max_batch": engines.max_batch},
        built={
            "backend": manifest.backend,
            "runtime": f"{manifest.runtime} {manifest.versions[manifest.runtime]}",
            "precision": manifest.precision,
            "architecture": manifest.architecture or "any",
        },
        memory=partial(memory_of, engines.device),
    )


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

    from worker.fake import DIGEST, FakeDenoiser, FakeTiming, FakeTokenizer
    from worker.infotext import ModelLabel
    from worker.prepare import prepare
    from worker.render.device import memory_of

    text = settings.engine_dir.removeprefix(FAKE_PREFIX)
    try:
        timing = FakeTiming.parse(text)
    except ValueError as error:
        raise RendererRefused(f"RENDER_ENGINE_DIR={settings.engine_dir}: {error}") from error
    log.warning("fake_engines", consequence="pictures show what no model has drawn", timing=text)
    denoiser = FakeDenoiser(max_batch=timing.max_batch, seconds=timing.seconds)
    # `prepare` calls nothing but `encode`, and a real tokenizer would need an engine set.
    tokenizer = cast("Tokenizer", FakeTokenizer())
    renderer = _assemble(
        denoiser,
        partial(prepare, tokenizer=tokenizer, max_pixels=settings.max_pixels, budget=_decode_budget(shutdown)),
        shutdown,
        digest=DIGEST,
        label=ModelLabel(DIGEST, DIGEST),
    )
    built = {"backend": "fake", "runtime": "none", "precision": "fp32", "architecture": "any"}
    return replace(renderer, built=built, memory=partial(memory_of, torch.device("cpu")))


def _decode_budget(shutdown: Shutdown | None) -> DecodeBudget:
    from worker.image.decode_budget import DecodeBudget

    return DecodeBudget() if shutdown is None else DecodeBudget(check=shutdown.check)


def _assemble(
    denoiser: Denoiser,
    prepare: Prepare,
    shutdown: Shutdown | None,
    *,
    digest: str,
    label: ModelLabel,
) -> Renderer:
    from worker.infotext import encode_sample
    from worker.render.loop import RenderLoop

    return Renderer(
        RenderLoop(denoiser, shutdown),
        prepare,
        partial(encode_sample, label=label),
        digest=digest,
        model_name=label.model or None,
    )
