"""The producer on a terminal of a given width, in a process of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from dataclasses import dataclass
from pathlib import Path

LINES = 40
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Shown:
    """A command's exit code, and what a person saw of it, without colours."""

    code: int
    text: str


def on_terminal(folder: Path, *arguments: str, columns: int = 100, typed: str = "") -> Shown:
    """Run `producer` with all three streams on one terminal, on whose keyboard `typed` was typed before."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    seen: list[bytes] = []
    reader = threading.Thread(target=_read, args=(master, seen))
    reader.start()
    os.write(master, typed.encode())
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    done = subprocess.run(
        [sys.executable, "-m", "producer", *arguments],
        cwd=folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment | {"TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
        check=False,
    )
    os.close(slave)
    reader.join()
    os.close(master)
    return Shown(done.returncode, _ESCAPES.sub("", b"".join(seen).decode()).replace("\r\n", "\n"))


def _read(terminal: int, seen: list[bytes]) -> None:
    while True:
        try:
            data = os.read(terminal, 2**16)
        except OSError:  # the other end is closed
            return
        if not data:
            return
        seen.append(data)
