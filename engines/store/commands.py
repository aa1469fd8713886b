"""The commands `engines push`, `engines pull` and `engines list`."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.filesize import decimal

from engines.console import people, print_json
from engines.typed_path import Set, typed_path

_PIN = re.compile(r"[0-9a-f]{4,64}")


def _known_root(text: str) -> str:
    from engines.store.bucket import why_no_root

    problem = why_no_root(text)
    if problem is not None:
        raise typer.BadParameter(problem)
    return text


def _known_digests(values: list[str] | None) -> list[str]:
    """One text may hold several, since a container may pass them in one variable. An empty text pins nothing."""
    pins = [pin for value in values or [] for pin in re.split(r"[,\s]+", value) if pin]
    for pin in pins:
        if not _PIN.fullmatch(pin):
            raise typer.BadParameter(f"{pin!r} is not the beginning of a digest: those have 4 to 64 digits 0-9 and a-f")
    return pins


Root = Annotated[
    str,
    typer.Argument(
        help="s3://bucket/prefix or a folder below which all sets are kept. The weights' digest may follow.",
        metavar="ROOT",
        callback=_known_root,
    ),
]
Exports = Annotated[
    bool, typer.Option("--with-exports", help="Also the exports that only another build would read (.onnx for plans).")
]


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: as PID 1 of a container, Python would not see it."""

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def push(
    path: Set,
    root: Root,
    with_exports: Exports = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read and hash the files that are there, instead of trusting their sizes.")
    ] = False,
) -> None:
    """Copy a set to a bucket or folder that `engines pull` takes it from.

    engines push engine-set s3://bucket/sets
    """
    from engines.store.bucket import Bucket
    from engines.store.push import push as pushed_to

    bucket = Bucket(root)
    with _ended_by_sigterm():
        pushed = pushed_to(bucket, path, people, with_exports=with_exports, verify=verify)
    sent = f"{pushed.files} files pushed, {decimal(pushed.uploaded_bytes)}" if pushed.files else "the set is there"
    people.print(f"{bucket.place(pushed.place)}: {sent}", markup=False)
    print_json(
        {
            "engine_set": pushed.digest,
            "uri": bucket.uri(pushed.place),
            "files": pushed.files,
            "uploaded_bytes": pushed.uploaded_bytes,
        }
    )


def pull(
    root: Root,
    into: Annotated[
        Path, typer.Option(parser=typed_path, help="Folder that gets the set, as DIR/<digest>.", metavar="DIR")
    ],
    link: Annotated[
        Path | None,
        typer.Option(parser=typed_path, help="Symbolic link to the set. Without: DIR/current.", metavar="PATH"),
    ] = None,
    digest: Annotated[
        list[str] | None,
        typer.Option(
            help="Take only a set whose digest begins with this. Repeatable: one for each architecture.",
            metavar="PREFIX",
            callback=_known_digests,
        ),
    ] = None,
    with_exports: Exports = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash the files of a set that is there, instead of trusting their sizes.")
    ] = False,
) -> None:
    """Fetch the set that fits this machine, the last one built of several. Exit code 8 if none fits.

    engines pull s3://bucket/sets --into /sets
    """
    from engines.store.bucket import Bucket
    from engines.store.pull import PullRequest
    from engines.store.pull import pull as pulled_from

    request = PullRequest(into, link, tuple(digest or ()), with_exports, verify)
    with _ended_by_sigterm():
        pulled = pulled_from(Bucket(root), request, people)
    done = f"pulled, {decimal(pulled.downloaded_bytes)}" if pulled.downloaded_bytes else "the set is there"
    people.print(f"{pulled.folder}: {done}; {pulled.link} points to it", markup=False)
    print_json(
        {
            "engine_set": pulled.digest,
            "folder": str(pulled.folder),
            "link": str(pulled.link),
            "downloaded_bytes": pulled.downloaded_bytes,
        }
    )


def list_sets(root: Root) -> None:
    """List the sets in a bucket or folder, and say which fit this machine.

    engines list s3://bucket/sets | jq -r '.sets[] | select(.fits) | .engine_set'
    """
    from engines.store.bucket import Bucket
    from engines.store.catalogue import read_catalogue
    from engines.store.table import Listing

    bucket = Bucket(root)
    listing = Listing.of(read_catalogue(bucket), bucket)
    people.print(listing.to_table())
    print_json(listing.to_json())
