"""The C library's heap, bounded for a process that runs for weeks."""

from __future__ import annotations

import ctypes
import os

# malloc.h of glibc.
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
LARGE_BYTES = 2**20
ARENAS = 4


def bound_heap() -> bool:
    """Call once, before any thread starts. Returns whether the C library is glibc; others are left alone.

    A second line of defence; `worker.render.encodings` has the first. Two defaults of glibc suit a worker badly:

    - The size from which an allocation gets pages of its own, which leave the process when it is freed, grows with
      what is freed, up to 32 MiB. So after the first pictures, those of megabytes lie between small things, and what
      outlives them keeps their room from the next ones. A fixed size keeps them apart.
    - There are eight arenas a core, and each job has a new thread, which takes any of them: an arena that once held
      a picture keeps what it needed then.
    """
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE_BYTES) and mallopt(M_ARENA_MAX, ARENAS))


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):  # musl and macOS do not know the name
        return False
