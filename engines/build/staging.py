"""The folder that a set is built in, `<out>.building`, and how it takes `<out>`'s place."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from engines.errors import BuildFailed, EngineError
from engines.manifest import MANIFEST

PROGRESS = "progress.json"
BUILDING = ".building"  # suffix of the folder in which a set is built
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how Rust ends the text of an error of the system


def check_target(out: Path) -> None:
    """Refuse a target that is not an engine set: it is replaced as a whole.

    Raises:
        BuildFailed: `out` is a file, or a folder with something else in it, or cannot be replaced or looked at.
    """
    try:
        check_replaceable(out)
        if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
            raise BuildFailed(f"{out} is not empty and is not an engine set; name another folder with --out")
        if out.exists() and not out.is_dir():
            raise BuildFailed(f"{out} is a file; name a folder with --out")
    except OSError as error:
        raise BuildFailed(f"{out}: {error.strerror}; name another folder with --out") from error


def check_replaceable(out: Path) -> None:
    """Refuse a target whose place another folder cannot take.

    Raises:
        BuildFailed: `out` is a link or a mount point, or has no name of its own.
        OSError: it cannot be looked at.
    """
    if out.name in ("", ".."):
        raise BuildFailed(f"{out} is replaced as a whole, so it needs a name; name another folder with --out")
    if out.is_symlink():
        raise BuildFailed(f"{out} is a link to {out.readlink()}; name that folder, or another one, with --out")
    if out.is_mount():
        raise BuildFailed(f"{out} is where a file system is mounted; name a folder in it with --out")


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """`<out>.building`, locked against a second build; removed at the end unless a later build can resume from it.

    The folders around it that were made for it go with it.

    Raises:
        BuildFailed: another build has it, or the disk refuses it.
    """
    folder = out.with_name(out.name + BUILDING)
    around = [parent for parent in folder.parents if not parent.exists()]
    lock = _locked(folder)
    succeeded = False
    try:
        _unlink_shared(folder)
        yield folder
        succeeded = True
    except OSError as error:
        raise BuildFailed(f"{error.filename or folder}: {error.strerror or error}") from error
    except Exception as error:
        if (reason := _systems_reason(error)) is None:
            raise
        raise BuildFailed(f"{folder}: {reason}") from error
    finally:
        if (succeeded or not (folder / PROGRESS).exists()) and _is_locked(folder, lock):
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(around)
        os.close(lock)


def _systems_reason(error: Exception) -> str | None:
    """What the system said to a library in Rust, such as safetensors, whose errors are not an OSError."""
    number = None if isinstance(error, EngineError) else _OS_ERROR.search(str(error))
    return None if number is None else os.strerror(int(number[1]))


def _is_locked(folder: Path, lock: int) -> bool:
    """Whether the locked folder is still at its place: another build may have made a new one, once ours had moved."""
    try:
        there, ours = folder.stat(), os.fstat(lock)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, as long as they are empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _locked(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise BuildFailed(f"{folder} cannot be made: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise BuildFailed(f"another build is writing {folder}; wait for it, or stop it") from error
    if _is_locked(folder, lock):
        return lock
    os.close(lock)  # the build that had it has ended meanwhile, and its folder with it
    return _locked(folder)


def _unlink_shared(folder: Path) -> None:
    """Drop what an interrupted build linked from the finished set: a stage that wrote there would change that set."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_nlink > 1:
            path.unlink()


def link(source: Path, target: Path) -> None:
    """Have `source`'s contents at `target` too, without copying them where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def publish(folder: Path, out: Path, listed: Collection[str]) -> None:
    """Keep only the files that the set lists, and put the folder in `out`'s place.

    Until it is there, the progress stays beside the files: if a rename fails, a later build need not make them again.
    """
    _sweep(folder, {*listed, MANIFEST, PROGRESS})
    _replace(out, folder)
    (out / PROGRESS).unlink(missing_ok=True)


def _sweep(folder: Path, kept: Collection[str]) -> None:
    """Remove what an interrupted build left behind, and make the rest readable for all users."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.relative_to(folder).as_posix() not in kept:
            path.unlink()
        elif path.stat().st_nlink == 1:
            path.chmod(0o644)  # libraries write some of them for their owner only; workers are other users


def _replace(out: Path, folder: Path) -> None:
    """Between the two renames there is no set; a worker that starts just then says so and is started again."""
    retired = out.with_name(out.name + ".retired")
    _remove(retired)
    has_old = out.exists()
    if has_old:
        out.rename(retired)
    try:
        folder.rename(out)
    except OSError:
        if has_old:
            retired.rename(out)
        raise
    _remove(retired)


def _remove(path: Path) -> None:
    if path.is_symlink():  # an earlier version replaced a link, and left it here
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)
