"""`engines pull`: the set that fits this machine, checked file by file, and whole or not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from engines.errors import EngineError, EngineSetRefused
from engines.manifest import load_manifest
from engines.store.bucket import Bucket, Progress
from engines.store.catalogue import StoredSet, read_catalogue
from engines.store.choice import SHORT, choose, placement_here
from engines.store.layout import Record, is_digest, wanted_files
from engines.store.link import check_link, switch
from engines.store.shelf import Shelf
from engines.store.transfer import for_each, metered


@dataclass(frozen=True)
class PullRequest:
    """What the user asked for. `pins` are the beginnings of digests, of which the set must have one."""

    into: Path
    link: Path | None = None
    pins: Sequence[str] = ()
    with_exports: bool = False
    verify: bool = False


@dataclass(frozen=True)
class Pulled:
    """The result of a pull."""

    digest: str
    folder: Path
    link: Path
    downloaded_bytes: int


def pull(bucket: Bucket, request: PullRequest, people: Console) -> Pulled:
    """Have the set that fits this machine in the folder, and the link point to it.

    Raises:
        NoSetFits: no set fits.
        EngineSetRefused: a file in the bucket is not the one that the manifest lists.
        DiskRefused, StoreRefused: as their names say.
    """
    shelf = Shelf(request.into)
    link = shelf.folder / "current" if request.link is None else request.link.absolute()
    digest, downloaded = _pinned(shelf, request), 0
    if digest is None:
        stored = choose(read_catalogue(bucket), request.pins, root=bucket.shown)
        digest = stored.digest
        check_link(link, shelf.path(digest))
        downloaded = _Pull(bucket, stored, shelf, request, people).run()
    switch(link, shelf.path(digest))
    return Pulled(digest, shelf.path(digest), link, downloaded)


def _pinned(shelf: Shelf, request: PullRequest) -> str | None:
    """The pin, where it is the whole digest of a set that is there and fits.

    Then the bucket is not asked, and need not be reachable.
    """
    if len(request.pins) != 1 or not is_digest(request.pins[0]):
        return None
    (digest,) = request.pins
    if not shelf.holds(digest, with_exports=request.with_exports, verify=request.verify):
        return None
    try:
        placement_here(load_manifest(shelf.path(digest)))
    except EngineError:
        return None  # choosing from the bucket will say why
    return digest


class _Pull:
    """One set on its way from a bucket to a shelf."""

    def __init__(self, bucket: Bucket, stored: StoredSet, shelf: Shelf, request: PullRequest, people: Console) -> None:
        self._bucket, self._stored, self._shelf, self._request, self._people = bucket, stored, shelf, request, people
        self._wanted = wanted_files(stored.manifest, with_exports=request.with_exports)

    def run(self) -> int:
        """The bytes that were downloaded."""
        digest = self._stored.digest
        if self._is_there():
            return 0
        self._shelf.make()
        with self._shelf.locked(digest, lambda: self._say(f"another process is pulling {digest[:SHORT]}; waiting")):
            return 0 if self._is_there() else self._fetch()

    def _is_there(self) -> bool:
        request = self._request
        return self._shelf.holds(
            self._stored.digest,
            with_exports=request.with_exports,
            verify=request.verify,
            as_in=self._stored.manifest,
        )

    def _fetch(self) -> int:
        stored, digest = self._stored, self._stored.digest
        unpushed = sorted(self._wanted.keys() - stored.sizes.keys())
        if unpushed:
            raise EngineSetRefused(
                f"{self._bucket.place(stored.place)} has no {unpushed[0]}: it was pushed without its exports; pull it "
                "without --with-exports, or push it with them"
            )
        part, kept = self._shelf.begin(digest, self._wanted)
        sizes = {name: stored.sizes[name] for name in self._wanted if name not in kept}
        self._shelf.check_space(sum(sizes.values()))
        with metered(self._people, "pull", sizes) as meter:
            for_each(meter, lambda name, progress: self._fetch_file(part, name, progress))
        lengths = {name: (part / name).stat().st_size for name in self._wanted}
        self._shelf.publish(digest, stored.manifest_data, Record(built_at=stored.built_at, sizes=lengths))
        return sum(sizes.values())

    def _fetch_file(self, part: Path, name: str, progress: Progress) -> None:
        source, largest = f"{self._stored.place}/{name}", self._stored.sizes[name]

        def bounded(done: int) -> None:
            if done > largest:  # check_space counted on no more
                shown = self._bucket.place(source)
                raise EngineSetRefused(f"{shown} is larger than the {largest:,} bytes that the store lists")
            progress(done)

        actual, expected = self._bucket.fetch(source, part / name, bounded), self._wanted[name]
        if actual != expected:
            (part / name).unlink(missing_ok=True)
            raise EngineSetRefused(
                f"{self._bucket.place(source)} is not the file that its manifest lists: its SHA-256 is "
                f"{actual[:SHORT]}..., the manifest says {expected[:SHORT]}...; push the set again with --verify"
            )

    def _say(self, text: str) -> None:
        self._people.print(text, markup=False)
