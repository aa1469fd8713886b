"""`engines push`: a set's files, then its record, then its manifest. Until the manifest is there, there is no set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from engines.backends.registry import backend_of
from engines.errors import EngineSetRefused
from engines.file_check import changed, check_present
from engines.files import file_sha256
from engines.manifest import MANIFEST, Manifest, parse_manifest, read_manifest
from engines.store.bucket import Bucket, Progress
from engines.store.catalogue import stored_manifest
from engines.store.layout import RECORD, Record, parts_of, says_the_same, wanted_files
from engines.store.transfer import for_each, metered


@dataclass(frozen=True)
class Pushed:
    """What was done; no file was sent if the whole set was there."""

    digest: str
    place: str
    files: int
    uploaded_bytes: int


def push(bucket: Bucket, folder: Path, people: Console, *, with_exports: bool = False, verify: bool = False) -> Pushed:
    """Copy a set into the bucket; what is there already is not sent again. `verify` reads and hashes what is there.

    Raises:
        EngineSetRefused: it is not a set, or one of its files was changed.
        StoreRefused: the bucket cannot be reached or refuses.
    """
    data = read_manifest(folder)
    manifest = parse_manifest(data, folder / MANIFEST)
    backend_of(folder, manifest)
    place = place_below(bucket, manifest)
    return _Push(bucket, folder, manifest, place, people).run(data, with_exports=with_exports, verify=verify)


def place_below(bucket: Bucket, manifest: Manifest) -> str:
    """The folder that a set is pushed to. Where the root is named for the set's weights, the folder leaves them out.

    Raises:
        EngineSetRefused: the root is named for other weights.
    """
    weights, *rest = parts_of(manifest)
    if bucket.weights is None:
        return "/".join([weights, *rest])
    if bucket.weights != weights:
        raise EngineSetRefused(
            f"{bucket.shown} is the folder of other weights than the set's, {weights[:12]}...; leave the digest out"
        )
    return "/".join(rest)


class _Push:
    """One set on its way into a bucket."""

    def __init__(self, bucket: Bucket, folder: Path, manifest: Manifest, place: str, people: Console) -> None:
        self._bucket, self._folder, self._manifest, self._place, self._people = bucket, folder, manifest, place, people

    def run(self, data: bytes, *, with_exports: bool, verify: bool) -> Pushed:
        """Send what is missing; `data` is the manifest as it is written."""
        wanted = wanted_files(self._manifest, with_exports=with_exports)
        sizes = _sizes(self._folder, wanted)
        stored = self._bucket.sizes(self._place)
        theirs = stored_manifest(self._bucket, self._place, stored.get(MANIFEST))
        there = {name for name in wanted if stored.get(name) == sizes[name] and self._is_same(name, theirs)}
        if verify:
            there = self._verified({name: sizes[name] for name in there}, wanted)
        missing = {name: sizes[name] for name in wanted if name not in there}
        if missing or theirs is None or not says_the_same(self._manifest, theirs):
            self._send(missing, wanted)
            self._bucket.write(f"{self._place}/{RECORD}", Record(built_at=_built_at(self._folder)).data)
            self._bucket.write(f"{self._place}/{MANIFEST}", data)
        return Pushed(self._manifest.digest, self._place, len(missing), sum(missing.values()))

    def _is_same(self, name: str, theirs: Manifest | None) -> bool:
        """Whether an object of this name and size is our file: the digest covers all files but exports.

        Without a manifest, an export is taken for one that an interrupted push of this set left.
        """
        mine = self._manifest
        return name in mine.files or theirs is None or theirs.exports.get(name) == mine.exports[name]

    def _verified(self, sizes: Mapping[str, int], wanted: Mapping[str, str]) -> set[str]:
        with metered(self._people, "check", sizes) as meter:
            place = self._place
            hashes = for_each(meter, lambda name, progress: self._bucket.sha256(f"{place}/{name}", progress))
        return {name for name, sha in hashes.items() if sha == wanted[name]}

    def _send(self, sizes: Mapping[str, int], wanted: Mapping[str, str]) -> None:
        with metered(self._people, "push", sizes) as meter:
            for_each(meter, lambda name, progress: self._send_file(name, wanted[name], progress))

    def _send_file(self, name: str, expected: str, progress: Progress) -> None:
        """Hash, send, and compare what was sent: a changed file under the right name would spoil later pushes too."""
        path = self._folder / name
        actual = _sha256(path)
        if actual == expected:
            actual = self._bucket.send(f"{self._place}/{name}", path, progress)
            if actual != expected:
                self._bucket.delete(f"{self._place}/{name}")
        if actual != expected:
            raise changed(path, actual, expected)


def _sizes(folder: Path, wanted: Mapping[str, str]) -> dict[str, int]:
    check_present(folder, wanted)
    return {name: (folder / name).stat().st_size for name in wanted}


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise EngineSetRefused(f"{path} cannot be read: {error.strerror}") from error


def _built_at(folder: Path) -> datetime:
    """When the manifest was written, which ends a build; `engines pull` keeps this time."""
    return datetime.fromtimestamp((folder / MANIFEST).stat().st_mtime, UTC)
