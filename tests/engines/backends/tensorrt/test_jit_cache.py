"""Kernels that TensorRT for RTX compiled, between processes. Its own cache needs a supported GPU: here another one
stands in for it, with both things that a second `deserialize` may do, since the documentation does not say which.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engines import runtime_cache
from engines.backends.tensorrt import jit_cache
from engines.backends.tensorrt.jit_cache import KernelFile, RuntimeCache
from tests.engines.required import required

KEY = {"set": "ab" * 32, "component": "unet", "card": "RTX 4090 sm89", "tensorrt_rtx": "1.7.1.116", "driver": "13000"}


class Kernels:
    """A set of names, as one line each. `adds`: what a second `deserialize` does to the first."""

    def __init__(self, *, adds: bool = True, takes: bool = True) -> None:
        self.names: set[str] = set()
        self._adds, self._takes = adds, takes

    def serialize(self) -> memoryview:
        return memoryview("\n".join(sorted(self.names)).encode())

    def deserialize(self, blob: bytes, /) -> bool:
        loaded = set(blob.decode().split())
        if self._takes:
            self.names = self.names | loaded if self._adds else loaded
        return self._takes


def opened(
    path: Path, key: dict[str, str] = KEY, make: Callable[[], RuntimeCache] = Kernels
) -> tuple[KernelFile, set[str]]:
    file = KernelFile(path, key, make)
    assert isinstance(file.cache, Kernels)
    return file, file.cache.names


def compiled(path: Path, *names: str, make: Callable[[], RuntimeCache] = Kernels) -> None:
    """One process: it opens the file, compiles, and saves."""
    file, _ = opened(path, make=make)
    assert isinstance(file.cache, Kernels)
    file.cache.names |= set(names)
    file.save()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = runtime_cache.folder(tmp_path, KEY["set"], card=KEY["card"], versions={"tensorrt_rtx": "1.7.1.116"})
    return folder / "unet.kernels"


def test_the_second_start_has_what_the_first_one_compiled(path: Path) -> None:
    compiled(path, "512x512")
    assert opened(path)[1] == {"512x512"}
    compiled(path, "512x768")
    assert opened(path)[1] == {"512x512", "512x768"}


def test_a_file_that_holds_everything_is_not_written_again(path: Path) -> None:
    compiled(path, "512x512")
    before = path.stat().st_ino, path.stat().st_mtime_ns
    file, _ = opened(path)
    file.save()
    file.save()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before


def test_kernels_that_tensorrt_cannot_put_together_are_written_alone(path: Path) -> None:
    class Failing(Kernels):
        """Its `serialize` fails once something was loaded into it, as for want of memory."""

        def serialize(self) -> memoryview | None:  # type: ignore[override]
            return None if "theirs" in self.names else super().serialize()

    file, _ = opened(path, make=Failing)
    assert isinstance(file.cache, Kernels)
    compiled(path, "theirs")
    file.cache.names.add("ours")
    file.save()
    assert opened(path)[1] == {"ours"}


@pytest.mark.parametrize("name", KEY)
def test_kernels_of_another_set_card_or_version_are_refused_with_both(
    name: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compiled(path, "512x512")
    other = KEY | {name: "another"}
    assert opened(path, other)[1] == set()
    assert f"was written for {name} {KEY[name]}, this is another; its kernels are compiled again" in caplog.text


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda data: data[:-1], "is damaged: its contents have another SHA-256"),
        (lambda data: data + b"x", "is damaged: its contents have another SHA-256"),
        (lambda data: data.replace(b"512x512", b"512x513"), "is damaged: its contents have another SHA-256"),
        (lambda data: data[: data.index(b"\n")], "is not a file of compiled kernels, or is damaged"),
        (lambda data: b"", "is not a file of compiled kernels, or is damaged"),
        (lambda data: b"\0" * 10_000, "is not a file of compiled kernels, or is damaged"),
        (lambda data: b"[]\n" + data, "is not a file of compiled kernels, or is damaged"),
        (lambda data: b'{"format": 1, "key": 5, "sha256": ""}\n', "is not a file of compiled kernels, or is damaged"),
        (lambda data: b"[" * 4000 + b"\n", "is not a file of compiled kernels, or is damaged"),
        (lambda data: data.replace(b'"format": 1', b'"format": 2'), "has format 2, this version reads 1"),
    ],
)
def test_a_damaged_file_is_refused_and_replaced(
    damage: Callable[[bytes], bytes], sentence: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compiled(path, "512x512")
    path.write_bytes(damage(path.read_bytes()))
    assert opened(path)[1] == set()
    assert f"{path} {sentence}" in caplog.text
    compiled(path, "512x768")
    assert opened(path)[1] == {"512x768"}


def test_what_tensorrt_itself_refuses_is_compiled_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It looks at the driver more closely than a key can."""
    compiled(path, "512x512")
    assert opened(path, make=lambda: Kernels(takes=False))[1] == set()
    assert f"{path} is of another driver or environment; its kernels are compiled again" in caplog.text


def test_workers_that_share_the_folder_add_to_one_file(path: Path) -> None:
    first, second = opened(path)[0], opened(path)[0]
    for file, name in ((first, "512x512"), (second, "512x768"), (first, "768x512")):
        assert isinstance(file.cache, Kernels)
        file.cache.names.add(name)
        file.save()
    assert opened(path)[1] == {"512x512", "512x768", "768x512"}


def test_where_tensorrt_replaces_instead_of_adding_the_last_writer_keeps_its_own(path: Path) -> None:
    def replacing() -> Kernels:
        return Kernels(adds=False)

    first, second = opened(path, make=replacing)[0], opened(path, make=replacing)[0]
    for file, name in ((first, "512x512"), (second, "512x768")):
        assert isinstance(file.cache, Kernels)
        file.cache.names.add(name)
        file.save()
    assert opened(path, make=replacing)[1] == {"512x768"}


WRITER = """
import sys
from pathlib import Path
from tests.engines.backends.tensorrt.test_jit_cache import compiled
for each in range(20):
    compiled(Path(sys.argv[1]), f"{sys.argv[2]}-{each}")
"""


def test_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name]) for name in ("one", "two")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    assert opened(path)[1] == {f"{name}-{each}" for name in ("one", "two") for each in range(20)}
    assert {each.name for each in path.parent.iterdir()} == {"unet.kernels", ".unet.kernels.lock"}


def test_a_writer_that_takes_too_long_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit_cache, "LONGEST_WAIT_SECONDS", 0)
    compiled(path, "512x512")
    file, _ = opened(path)
    assert isinstance(file.cache, Kernels)
    file.cache.names.add("512x768")
    with path.with_name(".unet.kernels.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        file.save()
        assert opened(path)[1] == {"512x512"}
    file.save()
    assert opened(path)[1] == {"512x512", "512x768"}


def test_a_folder_that_cannot_be_written_is_told_once_and_fails_no_render(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    file, _ = opened(tmp_path / "file" / "unet.kernels")
    assert isinstance(file.cache, Kernels)
    for name in ("512x512", "512x768"):
        file.cache.names.add(name)
        file.save()
    assert caplog.text.count("unet.kernels cannot be written (") == 1
    assert "kernels will be compiled again at the next start" in caplog.text


def test_the_header_can_be_read_by_people(path: Path) -> None:
    compiled(path, "512x512")
    header = json.loads(path.read_bytes().split(b"\n")[0])
    assert header["key"] == KEY


def test_a_folder_is_one_for_each_set_card_and_versions(tmp_path: Path) -> None:
    def at(digest: str = "ab" * 32, card: str = "NVIDIA GeForce RTX 4090 sm89", **versions: str) -> Path:
        return runtime_cache.folder(tmp_path, digest, card=card, versions=versions or {"tensorrt_rtx": "1.7.1.116"})

    assert at().relative_to(tmp_path).parts[0] == "ab" * 32
    assert at().name == "tensorrt_rtx-1.7.1.116"
    assert at().parent.name.startswith("NVIDIA-GeForce-RTX-4090-sm89-")
    cards = ("A/../../B", "A B", "A-B", "..", "", "名", "\n", "x" * 300, "x" * 301, "NVIDIA GeForce RTX 4090 sm89")
    folders = {at(card=card) for card in cards} | {at(digest="cd"), at(tensorrt_rtx="1.8"), at(a="1", b="2")}
    assert len(folders) == len(cards) + 3
    for folder in folders:
        assert os.path.normpath(folder) == str(folder)
        assert tmp_path in folder.parents
        assert max(map(len, folder.parts)) <= 255
    assert at(a="1", b="2") == at(b="2", a="1")


def test_what_is_called_exists_in_tensorrt_for_rtx() -> None:
    trt = required("tensorrt_rtx")
    for name in ("create_runtime_cache", "set_runtime_cache", "dynamic_shapes_kernel_specialization_strategy"):
        assert hasattr(trt.IRuntimeConfig, name)
    for name in ("serialize", "deserialize"):
        assert hasattr(trt.IRuntimeCache, name)
    assert hasattr(trt.ICudaEngine, "create_runtime_config")
    assert hasattr(trt.DynamicShapesKernelSpecializationStrategy, "EAGER")
    assert hasattr(required("cuda.bindings.runtime"), "cudaDriverGetVersion")
