"""Compiled kernels as files: one archive a component, holding what Triton's cache held after it ran at every size.

Triton finds a kernel by a digest of its source, of how it is specialized, of its own version and of the GPU, so an
archive serves wherever these are the same; elsewhere Triton compiles, which takes a second a kernel.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from engines.build.files import archive
from engines.errors import BuildFailed
from engines.model.locate import Weights
from engines.quiet import quiet_libraries
from engines.spec import ComponentSpec, Profile

STAGE = "kernels"
CACHE = "TRITON_CACHE_DIR"  # Triton reads it at each lookup
GROUP = "__grp__"  # the names of files that list the parts of one kernel begin so


@dataclass(frozen=True)
class KernelJob:
    """One component's kernels to compile, as it is sent to another process: Triton keeps one cache a process."""

    component: str
    spec: ComponentSpec
    weights: Weights
    dtype: torch.dtype
    profiles: tuple[Profile, ...]
    path: Path
    stage: str = STAGE

    @property
    def effort(self) -> int:
        """For sorting: kernels follow the number of tensors, roughly."""
        return len(self.spec.inputs) + len(self.spec.outputs)

    def compile(self) -> float:
        """Run the component at every size and keep what Triton compiled; the seconds it took.

        Raises:
            BuildFailed: a kernel does not compile or run.
        """
        began = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="kernels-"))
        os.environ[CACHE] = str(folder)
        try:
            self._run()
            archive_kernels(folder, self.path)
        except Exception as error:  # Triton's own errors have no common root with torch's
            raise BuildFailed(f"{self.component}'s kernels could not be compiled: {error}") from error
        finally:
            del os.environ[CACHE]
            shutil.rmtree(folder, ignore_errors=True)
        return time.monotonic() - began

    def _run(self) -> None:
        from engines.backends.triton.parameters import parameters_of
        from engines.backends.triton.runtime import ENGINES
        from engines.model.networks import load_component

        with quiet_libraries(), torch.inference_mode():
            module = load_component(self.component, self.weights, self.dtype).to("cuda")
            engine = ENGINES[self.component](parameters_of(module))
            for batch, height, width in sizes(self.profiles):
                engine(
                    {
                        tensor.name: torch.zeros(
                            tensor.sized(batch, height=height, width=width),
                            dtype=torch.int64 if tensor.dtype == "int64" else self.dtype,
                            device="cuda",
                        )
                        for tensor in self.spec.inputs
                    }
                )
            torch.cuda.synchronize()


def sizes(profiles: Iterable[Profile]) -> list[tuple[int, int, int]]:
    """(images, height, width) that between them need every kernel of these profiles: the binaries differ with the
    picture's size, and with the batch only where one is too small to fill the GPU.
    """
    found = []
    for profile in profiles:
        for height in range(profile.min_height, profile.max_height + 1, 64):
            for width in range(profile.min_width, profile.max_width + 1, 64):
                powers = (1 << i for i in range(profile.max_batch.bit_length()))
                found += [(batch, height, width) for batch in {*powers, profile.max_batch}]
    return sorted(set(found))


def archive_kernels(folder: Path, path: Path) -> None:
    """What Triton left in `folder`, as one zip file, whole or not at all."""
    archive(
        folder, path, content=lambda each: _moved(each, Path()) if each.name.startswith(GROUP) else each.read_bytes()
    )


def install_kernels(archives: Iterable[Path]) -> Path:
    """Unpack archives where Triton will look: a folder of this process's own, since Triton also writes there."""
    folder = Path(tempfile.mkdtemp(prefix="kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path in archives:
        with zipfile.ZipFile(path) as file:
            file.extractall(folder)
    for group in folder.rglob(f"{GROUP}*"):
        group.write_bytes(_moved(group, group.parent))
    os.environ[CACHE] = str(folder)
    return folder


def _moved(group: Path, folder: Path) -> bytes:
    """A group's file, its members said to lie in `folder`: Triton writes down where they were."""
    content = json.loads(group.read_text())
    members = {name: str(folder / name) for name in content["child_paths"]}
    return json.dumps(content | {"child_paths": members}, sort_keys=True).encode()
