"""The number of malloc's arenas, where the C library is glibc."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tools import ROOT
from worker.heap import ARENAS, bound_heap

# Twenty threads at once that each allocate; malloc_info lists every arena as <heap nr=...>.
SCRIPT = """
import ctypes, threading
from worker.heap import bound_heap
assert bound_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(20)
def run():
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=run) for _ in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fopen.restype = ctypes.c_void_p
libc.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
stream = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, stream)
libc.fclose(stream)
"""


def on_glibc() -> bool:
    return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc") if sys.platform == "linux" else False


@pytest.mark.skipif(not on_glibc(), reason="the C library is not glibc")
def test_twenty_threads_share_a_few_arenas() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 1 <= done.stdout.count("<heap nr=") <= ARENAS


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    assert not bound_heap()
