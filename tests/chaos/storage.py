"""Where the results of a chaos run go, and what breaks there: a folder, or a bucket behind a proxy."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal, Protocol

from jobs.uri import path_of
from tests.odd_s3_store import Refusal, odd_store
from tests.tcp_proxy import TcpProxy

BATCH = "chaos"
BUCKET = "renders"
GOOD_KEY, EXPIRED_KEY = "GOOD", "EXPIRED"

Trouble = Literal["block", "read_only", "full", "away", "throttle"]


class Storage(Protocol):
    """A context manager. `output` is RENDER_OUTPUT_URI; `environment` is what its users need besides."""

    output: str
    elsewhere: str  # an output that workers may write, though the batch's results do not go there
    environment: dict[str, str]
    troubles: tuple[Trouble, ...]

    def __enter__(self) -> Storage: ...

    def __exit__(self, *_: object) -> None: ...

    def read(self, uri: str) -> bytes | None:
        """What is stored; None: nothing."""

    def names(self) -> set[str]:
        """The names of all files of the batch, except hidden ones."""

    def trouble(self, kind: Trouble, rng: random.Random, *, away_seconds: float) -> None:
        """Let one kind of trouble happen; over when it returns."""


class FolderStorage:
    """A folder that is a symbolic link, so that another one or a file can take its place at once."""

    troubles: tuple[Trouble, ...] = ("block", "read_only", "full")

    def __init__(self, folder: Path) -> None:
        self._out = folder / "out"
        self._batch = self._out / BATCH
        self.output, self.elsewhere = str(self._out), str(folder / "elsewhere")
        self.environment: dict[str, str] = {}

    def __enter__(self) -> FolderStorage:
        (self._out / "real").mkdir(parents=True)
        (self._out / "blocked").write_bytes(b"")
        self._point_to("real")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, uri: str) -> bytes | None:
        """What the file holds."""
        path = path_of(uri)
        return path.read_bytes() if path.is_file() else None

    def names(self) -> set[str]:
        """The files of the batch."""
        return {path.name for path in self._batch.iterdir() if path.is_file() and path.name[0] != "."}

    def trouble(self, kind: Trouble, rng: random.Random, *, away_seconds: float) -> None:
        """A file where the folder was, or a small file system there that takes no data. The latter needs root."""
        options = {"read_only": "ro", "full": "size=4k"}.get(kind)
        if options is None or not self._on_another_disk(rng, options):
            self._elsewhere_for_a_while("blocked", rng)

    def _on_another_disk(self, rng: random.Random, options: str) -> bool:
        disk = self._out / "disk"
        disk.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return False  # mounting is not allowed here
        try:
            # Filled before results go there: a result that it took would be lost when it is unmounted.
            with suppress(OSError), (disk / "filler").open("wb") as file:
                file.write(bytes(2**20))
            self._elsewhere_for_a_while("disk", rng)
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
        return True

    def _elsewhere_for_a_while(self, name: str, rng: random.Random) -> None:
        self._point_to(name)
        time.sleep(rng.uniform(0.3, 1.5))
        self._point_to("real")

    def _point_to(self, name: str) -> None:
        """The link is replaced at once: if it were gone for a moment, a worker would make a new folder."""
        link = self._out / "link"
        link.symlink_to(name)
        link.replace(self._batch)


class BucketStorage:
    """A bucket in a store of our own (tests/odd_s3_store.py), which workers reach through a proxy."""

    troubles: tuple[Trouble, ...] = ("away", "throttle")

    def __init__(self) -> None:
        self.output, self.elsewhere = f"s3://{BUCKET}/out", f"s3://{BUCKET}/elsewhere"
        self.environment: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> BucketStorage:
        self._store = self._stack.enter_context(odd_store())
        self._store.refuse = self._expired
        host, _, port = self._store.url.rpartition("/")[2].rpartition(":")
        self._proxy = self._stack.enter_context(TcpProxy((host, int(port))))
        self.environment = {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self._proxy.port}",
            "AWS_ACCESS_KEY_ID": GOOD_KEY,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, uri: str) -> bytes | None:
        """What the object holds."""
        return self._store.objects.get("/" + uri.removeprefix("s3://"))

    def names(self) -> set[str]:
        """The objects of the batch."""
        folder = f"/{BUCKET}/out/{BATCH}/"
        names = {path.removeprefix(folder) for path in list(self._store.objects) if path.startswith(folder)}
        return {name for name in names if "/" not in name and name[0] != "."}

    def trouble(self, kind: Trouble, rng: random.Random, *, away_seconds: float) -> None:
        """No connection for as long as `away_seconds`, or an answer to each request that it is one too many."""
        if kind == "away":
            self._proxy.faults.cut_where = lambda _: True
            time.sleep(away_seconds)
            self._proxy.faults.cut_where = lambda _: False
        else:
            self._store.refuse = lambda method, path, key: Refusal(503, "SlowDown", "Please reduce your request rate.")
            time.sleep(rng.uniform(1.0, 5.0))
            self._store.refuse = self._expired

    @staticmethod
    def _expired(_method: str, _path: str, key: str) -> Refusal | None:
        return Refusal(403, "ExpiredToken", "The provided token has expired.") if key == EXPIRED_KEY else None
