"""What an error's traceback holds."""

from __future__ import annotations

import inspect
import traceback


def generators_that_hold(error: BaseException) -> list[str]:
    """The generators that an error has passed through: from Python 3.12 on, each makes a cycle of it."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return [frame.f_code.co_name for frame in frames if frame.f_code.co_flags & inspect.CO_GENERATOR]
