"""What every Python process in our images does first; container_start.pth in site-packages imports it.

1. It makes the folders that the image's variables name below /cache. A volume that is mounted there begins empty, and
   Python, CUDA and compilers expect their folders to exist.
2. As process 1 of a container it gives SIGTERM its usual meaning until the program sets a handler of its own. The
   kernel drops a signal that process 1 does not handle: without this, a container that is stopped while it still
   imports its libraries would run until it is killed.
"""

from __future__ import annotations

import os
import signal
import sys

FOLDERS = ("HOME", "XDG_CACHE_HOME", "TMPDIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")
STOPPED = 128 + signal.SIGTERM  # what a shell says of a process that SIGTERM ended


def make_folders() -> None:
    """Make the folders. Where that is not possible, one sentence says what to mount; the program goes on."""
    for name in FOLDERS:
        folder = os.environ.get(name, "")
        if not folder.startswith("/cache/"):
            continue
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103 (every start would import pathlib)
        except OSError as error:
            print(
                f"container: {folder} cannot be made ({error.strerror}): mount a volume on /cache that user "
                f"{os.getuid()} may write to",
                file=sys.stderr,
            )
            return


def end_on_sigterm() -> None:
    """As process 1, end at once on SIGTERM, as any other process would."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(STOPPED))


make_folders()
end_on_sigterm()
