"""What jobs are rendered with: one engine set (or the fake), its tokenizer, and the loop around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jobs.errors import RenderError
from jobs.job import RenderJob
from jobs.settings import Settings

FAKE_PREFIX = "fake:"


class RendererRefused(RenderError):
    """The engine set cannot be used; the sentence says what differs."""

    kind = "engines_refused"


@dataclass(frozen=True)
class Renderer:
    """One a process. All but the loop's GPU side is called by many threads at once."""

    loop: Any
    prepare: Callable[[RenderJob, bytes], Any]
    encode: Callable[[RenderJob, Any, int, np.ndarray], bytes]
    digest: str
    close: Callable[[], None] = lambda: None
    facts: Mapping[str, Any] = field(default_factory=dict)


Prepared = Any


def load_renderer(settings: Settings) -> Renderer:
    """Load what RENDER_ENGINE_DIR names."""
    raise RendererRefused(f"{settings.engine_dir} holds no engine set")
