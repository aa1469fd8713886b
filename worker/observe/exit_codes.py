"""How a worker process may end. The number tells a supervisor whether starting it again can help."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `celery -A worker worker`. 2 and 64 to 73 are Celery's own: usage, pid file."""

    OK = 0  # drained and stopped after SIGTERM, or everything requeued after SIGQUIT
    FAILED = 1  # any other error, or Ctrl-C
    BAD_SETTINGS = 3  # a variable is wrong; starting again does not help
    ENGINES_REFUSED = 4  # the engine set is missing, damaged or built for something else; starting again does not help
    DEVICE_LOST = 5  # the device stopped working; its jobs were requeued, and a new process may work
