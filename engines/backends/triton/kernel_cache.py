"""Compiled kernels as files: one archive a component, with the contents of Triton's cache after a run at every size.

Triton finds a kernel by a digest of its source, its specialization, Triton's own version and the GPU. An archive serves
wherever these are the same; elsewhere Triton compiles, which takes a second per kernel.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath

from engines.files import archive

CACHE = "TRITON_CACHE_DIR"  # Triton reads it at each lookup
GROUP = "__grp__"  # prefix of the files that list the parts of one kernel


@contextmanager
def empty_cache() -> Iterator[Path]:
    """An empty cache for Triton inside the block; the folder is removed at the end, and the cache is the one before."""
    folder = Path(tempfile.mkdtemp(prefix="kernels-"))
    before = os.environ.get(CACHE)
    os.environ[CACHE] = str(folder)
    try:
        yield folder
    finally:
        del os.environ[CACHE]
        if before is not None:
            os.environ[CACHE] = before
        shutil.rmtree(folder, ignore_errors=True)


def archive_kernels(folder: Path, path: Path) -> None:
    """Write Triton's cache in `folder` into one zip file, whole or not at all."""
    archive(
        folder, path, content=lambda each: _moved(each, Path()) if each.name.startswith(GROUP) else each.read_bytes()
    )


def install_kernels(archives: Iterable[Path]) -> Path:
    """Unpack archives where Triton looks: into the one folder of this process, beside those of other sets.

    A file that is there already stays, since its folder's name is the kernel's key. Sets of one architecture have most
    kernels in common.
    """
    folder = _folder_of_this_process()
    for path in archives:
        with zipfile.ZipFile(path) as file:
            new = [name for name in file.namelist() if not (folder / name).exists()]
            file.extractall(folder, members=new)
        for group in (folder / name for name in new if PurePosixPath(name).name.startswith(GROUP)):
            group.write_bytes(_moved(group, group.parent))
    os.environ[CACHE] = str(folder)
    return folder


@cache
def _folder_of_this_process() -> Path:
    """A folder of its own, because Triton also writes there and a set must not change."""
    folder = Path(tempfile.mkdtemp(prefix="kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _moved(group: Path, folder: Path) -> bytes:
    """A group's file, with its members' paths changed to `folder`: Triton records absolute paths."""
    content = json.loads(group.read_text())
    members = {name: str(folder / name) for name in content["child_paths"]}
    return json.dumps(content | {"child_paths": members}, sort_keys=True).encode()


def has_c_compiler() -> bool:
    """Whether Triton can build a kernel's launcher here; it looks for the compiler in these places."""
    return bool(os.environ.get("CC")) or any(shutil.which(name) for name in ("gcc", "clang"))
