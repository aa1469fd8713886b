"""The one retry: backoff with jitter for calls that may succeed later."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from jobs.errors import TransientError

Value = TypeVar("Value")

MAX_PAUSE_SECONDS = 20.0


def with_backoff(
    call: Callable[[], Value],
    *,
    attempts: int,
    base_seconds: float,
    sleep: Callable[[float], object] = time.sleep,
    uniform: Callable[[float, float], float] = random.uniform,
) -> Value:
    """Call until it works, at most `attempts` times. The nth pause (from 0) is drawn from [0.5, 1.5) * base * 2**n.

    The jitter keeps a hundred workers from asking a throttling store again at the same moment. A pause is at least what
    the other side asks for.

    Raises:
        TransientError: the last one, after `attempts` of them; or at once one that asks for more than
            MAX_PAUSE_SECONDS, or whose call has waited for its turn at a host already (`blameless`). Other errors pass
            at once.
    """
    for attempt in range(attempts - 1):
        try:
            return call()
        except TransientError as error:
            asked = 0.0 if error.retry_after_seconds is None else error.retry_after_seconds
            if (error.blameless and error.fault == "host") or asked > MAX_PAUSE_SECONDS:
                raise
            sleep(max(asked, min(MAX_PAUSE_SECONDS, base_seconds * 2**attempt) * uniform(0.5, 1.5)))
    return call()
