"""The C library's heap, bounded for a process that runs for weeks."""

from __future__ import annotations

import ctypes
import os

M_ARENA_MAX = -8  # malloc.h of glibc
ARENAS = 4


def bound_heap() -> bool:
    """Call once, before any thread starts. Returns whether the C library is glibc; others are left alone.

    A second line of defence; `worker.render.slab` is the first. glibc allows eight arenas a core, and each job has a
    new thread, which takes any of them. An arena keeps what it needed at its busiest, so a worker would come to hold as
    many times the memory of a job as there are arenas. The threads of a few arenas wait for each other hardly ever:
    each has a cache for small pieces, and the large ones take longer to fill than to allocate.

    The size from which an allocation gets pages of its own stays as it is, although a fixed one would bound the heap
    more tightly: fresh pages for every picture and tensor cost more than a third of a job's CPU time.
    """
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(M_ARENA_MAX, ARENAS))


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):  # musl and macOS do not know the name
        return False
