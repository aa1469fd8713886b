"""The producer on a terminal of a given width, in a process of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.forked import Template

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
    process = Template.running("programs").fork(
        "producer", arguments, environment | {"TERM": "xterm"}, folder=folder, streams=(slave, slave, slave)
    )
    os.close(slave)
    try:
        code = process.wait(60)
    finally:
        process.kill()
    reader.join()
    os.close(master)
    return Shown(code, _ESCAPES.sub("", b"".join(seen).decode()).replace("\r\n", "\n"))


def _read(terminal: int, seen: list[bytes]) -> None:
    while True:
        try:
            data = os.read(terminal, 2**16)
        except OSError:  # the other end is closed
            return
        if not data:
            return
        seen.append(data)
