"""The symbolic link that says which set a worker loads: it changes in one step."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

from engines.errors import DiskRefused
from engines.store.shelf import disk_errors


def check_link(link: Path, folder: Path) -> None:
    """Refuse a path that cannot become a link, before anything is downloaded; `folder` is where the set will be.

    Raises:
        DiskRefused: a file or a folder is there, or the link would be in the set's own folder.
    """
    if link == folder or folder in link.parents:
        raise DiskRefused(f"{link} is in the set's own folder; name another place with --link")
    with disk_errors(link):
        if link.exists() and not link.is_symlink():
            kind = "folder" if link.is_dir() else "file"
            raise DiskRefused(f"{link} is a {kind} and no link; remove it, or name another place with --link")


def switch(link: Path, folder: Path) -> None:
    """Make `link` point to `folder`. If the link already does, nothing is written.

    A link beside the set is relative, so that it holds wherever the folder of sets is mounted.

    Raises:
        DiskRefused: the link cannot be made.
    """
    check_link(link, folder)
    target = folder.name if link.parent == folder.parent else str(folder)
    with disk_errors(link):
        if link.is_symlink() and str(link.readlink()) == target:
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        scratch = link.with_name(f".{link.name[:50]}.{secrets.token_hex(8)}.new")
        try:
            scratch.symlink_to(target, target_is_directory=True)
            scratch.replace(link)
        except OSError as error:  # which names the set, or the scratch link
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise DiskRefused(f"{link} cannot be made: {error.strerror}; name another place with --link") from error
