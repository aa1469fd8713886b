"""How a worker process may end. Supervisors tell by the number whether starting it again can help."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `celery -A worker worker`. 2 and 64 to 73 are Celery's own: usage, pid file."""

    OK = 0  # SIGTERM: drained and stopped. Also after SIGQUIT, with everything handed back.
    FAILED = 1  # an error that nothing else names, or Ctrl-C
    BAD_SETTINGS = 3  # a variable is wrong; starting again does not help
    ENGINES_REFUSED = 4  # the engine set is missing, damaged or built for something else; starting again does not help
    DEVICE_LOST = 5  # the device stopped working; its jobs were handed back, and a new process may work
