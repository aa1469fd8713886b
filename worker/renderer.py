"""What jobs are rendered with: an engine set, its tokenizer, and the loop around them.

The heavy imports (torch, the engines' libraries) happen in `load_renderer`, when the health server already answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.errors import RenderError, ShapeNotBuilt
from jobs.job import RenderJob
from jobs.settings import Settings

if TYPE_CHECKING:
    from worker.prepare import Prepared
    from worker.render.denoiser import Denoiser
    from worker.render.loop import RenderLoop

FAKE_PREFIX = "fake:"


class RendererRefused(RenderError):
    """The engine set cannot be used; the sentence says what differs."""

    kind = "engines_refused"


@dataclass(frozen=True)
class Renderer:
    """One a process. `loop.run` belongs to one thread; everything else is called by many at once."""

    loop: RenderLoop
    prepare: Callable[[RenderJob, bytes], Prepared]
    encode: Callable[[RenderJob, Prepared, int, np.ndarray], bytes]  # one sample, uint8 [H, W, 3], as PNG
    digest: str  # of the engine set: what results say they were rendered with
    close: Callable[[], None] = lambda: None
    device_errors: tuple[type[Exception], ...] = ()  # from `loop.run`: only a new process helps
    facts: Mapping[str, Any] = field(default_factory=dict)  # for the log


def load_renderer(settings: Settings) -> Renderer:
    """Load what RENDER_ENGINE_DIR names.

    Raises:
        RendererRefused: it is missing, damaged or built for something else.
    """
    if settings.engine_dir.startswith(FAKE_PREFIX):
        from worker.fake import fake_renderer

        return fake_renderer(settings.engine_dir.removeprefix(FAKE_PREFIX), max_pixels=settings.max_pixels)
    return _engine_renderer(settings)


def _engine_renderer(settings: Settings) -> Renderer:
    from engines.errors import EngineError
    from engines.manifest import FileCheck

    folder = Path(settings.engine_dir).expanduser()
    try:
        check = FileCheck.of(folder)  # under way while torch is imported, which takes longer than all else here
        from engines.engine_set import load_engine_set
        from worker.image.tokens import Tokenizer
        from worker.prepare import prepare
        from worker.render.denoiser import EngineDenoiser

        engines = load_engine_set(folder, device=settings.device, threads=settings.threads, check=check)
        denoiser = EngineDenoiser(engines, max_batch=settings.max_batch, low_vram=settings.low_vram)
    except EngineError as error:
        raise RendererRefused(f"RENDER_ENGINE_DIR={settings.engine_dir}: {error}") from error
    geometry = engines.geometry
    tokenizer = Tokenizer(
        engines.tokenizer_path,
        length=geometry.context_length,
        bos_token_id=geometry.bos_token_id,
        eos_token_id=geometry.eos_token_id,
        pad_token_id=geometry.pad_token_id,
    )

    def check_shape(height: int, width: int) -> None:
        if not engines.supports(height, width):
            raise ShapeNotBuilt(
                f"the picture is rendered at {height}x{width}, and the engine set was built for "
                f"{engines.shapes_text()}; change image_resolution, or build a set with --shape {height}x{width}"
            )

    def prepared(job: RenderJob, picture: bytes) -> Prepared:
        found = prepare(job, picture, tokenizer=tokenizer, max_pixels=settings.max_pixels)
        check_shape(found.height, found.width)
        return found

    return assembled(
        denoiser,
        prepared,
        digest=engines.digest,
        close=engines.close,
        facts={"device": str(engines.device), "shapes": engines.shapes_text(), "max_batch": engines.max_batch},
    )


def assembled(
    denoiser: Denoiser, prepare: Callable[[RenderJob, bytes], Prepared], *, digest: str, **rest: Any
) -> Renderer:
    """A renderer around any denoiser."""
    from worker.prepare import encode_sample
    from worker.render.device import DeviceLost
    from worker.render.loop import RenderLoop

    return Renderer(
        loop=RenderLoop(denoiser),
        prepare=prepare,
        encode=encode_sample,
        digest=digest,
        device_errors=(DeviceLost,),
        **rest,
    )
