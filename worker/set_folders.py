"""The folders of RENDER_ENGINE_DIR: one engine set, or several by the names of the sub-folders that they are in."""

from __future__ import annotations

from pathlib import Path

import structlog

from engines.build.staging import BUILDING
from engines.errors import EngineSetRefused
from engines.file_check import unreadable
from engines.files import without_links
from engines.manifest import MANIFEST
from jobs.job import MODEL_NAME
from worker.held_sets import DEFAULT

log = structlog.get_logger(__name__)

RULE = "letters, digits, '.', '_' and '-', at most 100, and a letter or digit first"


def set_folders(path: Path) -> dict[str, Path]:
    """Name -> folder, in order of the names. A sub-folder may be a link; each is followed once, when this is called.

    Hidden sub-folders, those that `engines build` writes in and those without a manifest are passed over. If there is
    no set at all, `path` itself is given under its name: loading it says what is missing.

    Raises:
        EngineSetRefused: a sub-folder whose name no row could have as its model; or one that cannot be read.
    """
    try:
        if (path / MANIFEST).is_file() or not path.is_dir():
            return {_own_name(path): without_links(path)}
        below = sorted(child for child in path.iterdir() if _may_be_set(child))
    except OSError as error:
        raise unreadable(error, path) from error
    found = [child for child in below if _is_set(child)]
    for child in below:
        leads_nowhere = not child.exists()
        if child not in found and (found or leads_nowhere):
            why = "it is a link that leads nowhere" if leads_nowhere else f"it has no readable {MANIFEST}"
            log.warning("folder_without_set", folder=str(child), consequence=f"{why}, so it is passed over")
    if not found:
        return {_own_name(path): without_links(path)}
    for child in found:
        if MODEL_NAME.fullmatch(child.name) is None:
            raise EngineSetRefused(
                f"the folder {child.name!r} of an engine set has a name that no row can have as its model; "
                f"rename it: {RULE}"
            )
    return {child.name: without_links(child) for child in found}


def _may_be_set(child: Path) -> bool:
    """Also true for a link that leads nowhere: to a file system that is not mounted, or a set that was removed."""
    is_folder = child.is_dir() or (child.is_symlink() and not child.exists())
    return is_folder and not child.name.startswith(".") and not child.name.endswith(BUILDING)


def _is_set(folder: Path) -> bool:
    """False also for a folder that this user may not enter, such as the lost+found of a file system."""
    try:
        return (folder / MANIFEST).is_file()
    except OSError:
        return False


def _own_name(path: Path) -> str:
    name = path.absolute().name
    return name if MODEL_NAME.fullmatch(name) else DEFAULT
