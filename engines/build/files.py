"""A folder as one zip file, the same for the same files: what a build keeps of a folder that it is done with."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

_ALWAYS = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip file knows


def archive(folder: Path, path: Path, *, content: Callable[[Path], bytes] = Path.read_bytes) -> None:
    """All files below `folder`, as one zip file, whole or not at all. `content`: of a file, what is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as file:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                entry = zipfile.ZipInfo(each.relative_to(folder).as_posix(), _ALWAYS)
                file.writestr(entry, content(each), zipfile.ZIP_DEFLATED)
    scratch.replace(path)
