"""The sets below a root. A folder whose manifest is missing, torn or another set's is left out, with a reason."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from engines.errors import EngineSetRefused
from engines.manifest import MANIFEST, Manifest, parse_manifest
from engines.store.bucket import Bucket
from engines.store.layout import LEVELS, RECORD, Record, is_part, parts_of

REQUESTS = 16  # at the same time: listings and manifests are small
LARGEST_MANIFEST, LARGEST_RECORD = 64 * 2**20, 2**20  # bytes
LONG_AGO = datetime.min.replace(tzinfo=UTC)  # stands in where the record is gone: such a set counts as the oldest


@dataclass(frozen=True)
class StoredSet:
    """A whole set in a bucket. `place` is its folder, and `sizes` has the bytes of every file in it.

    `manifest_data` is the manifest as it is written there.
    """

    place: str
    manifest: Manifest
    manifest_data: bytes
    sizes: dict[str, int]
    built_at: datetime | None

    @property
    def digest(self) -> str:
        """The set's digest."""
        return self.manifest.digest

    @property
    def total_bytes(self) -> int:
        """Bytes of the files that the manifest lists, exports only if they were pushed."""
        listed = self.manifest.files | self.manifest.exports
        return sum(self.sizes.get(name, 0) for name in listed)


@dataclass(frozen=True)
class LeftOut:
    """A folder with the name of a set's that holds no whole set; `why` is a sentence."""

    place: str
    why: str


@dataclass(frozen=True)
class Catalogue:
    """What is below a root, the oldest set first."""

    sets: tuple[StoredSet, ...]
    left_out: tuple[LeftOut, ...]


def read_catalogue(bucket: Bucket) -> Catalogue:
    """Look at every set below the root.

    Raises:
        StoreRefused: the bucket cannot be reached or refuses.
    """
    with ThreadPoolExecutor(REQUESTS, thread_name_prefix="list") as pool:
        read = list(pool.map(lambda place: _read(bucket, place), _places(bucket, pool)))
    sets = [each for each in read if isinstance(each, StoredSet)]
    sets.sort(key=lambda each: (each.built_at or LONG_AGO, each.place))
    return Catalogue(tuple(sets), tuple(each for each in read if isinstance(each, LeftOut)))


def stored_manifest(bucket: Bucket, place: str, size: int | None) -> Manifest | None:
    """The manifest in a folder; None unless it is whole and that folder's own.

    `size`: the bytes of the manifest in a listing, None if it is not there.
    """
    try:
        return None if size is None else _manifest(bucket, place, size)[0]
    except EngineSetRefused:
        return None


def _places(bucket: Bucket, pool: ThreadPoolExecutor) -> list[str]:
    """The folders whose names are those of sets."""
    found = _below(bucket, pool, [""], 0)
    if bucket.weights is not None:
        found += _below(bucket, pool, [""], 1)
    return found


def _below(bucket: Bucket, pool: ThreadPoolExecutor, folders: list[str], level: int) -> list[str]:
    for each in range(level, LEVELS):
        listed: Iterable[tuple[str, list[str]]] = zip(folders, pool.map(bucket.folders, folders), strict=True)
        folders = [f"{above}/{name}".lstrip("/") for above, names in listed for name in names if is_part(name, each)]
    return folders


def _read(bucket: Bucket, place: str) -> StoredSet | LeftOut:
    sizes = bucket.sizes(place)
    if MANIFEST not in sizes:
        return LeftOut(place, f"it has no {MANIFEST}: a push was interrupted; push the set again")
    try:
        manifest, data = _manifest(bucket, place, sizes[MANIFEST])
    except EngineSetRefused as error:
        return LeftOut(place, str(error))
    missing = [name for name in manifest.files if name not in sizes]
    if missing:
        return LeftOut(place, f"{missing[0]} is missing: the manifest lists it; push the set again")
    small = sizes.get(RECORD, LARGEST_RECORD + 1) <= LARGEST_RECORD
    record = Record.of(bucket.read(f"{place}/{RECORD}") if small else None)
    return StoredSet(place, manifest, data, sizes, record.built_at)


def _manifest(bucket: Bucket, place: str, size: int) -> tuple[Manifest, bytes]:
    shown = bucket.place(f"{place}/{MANIFEST}")
    if size > LARGEST_MANIFEST:
        raise EngineSetRefused(f"{shown} is not an engine set's manifest: it has {size:,} bytes")
    data = bucket.read(f"{place}/{MANIFEST}")
    if data is None:
        raise EngineSetRefused(f"{shown} is missing: it was removed meanwhile")
    manifest = parse_manifest(data, shown)
    belongs = "/".join(parts_of(manifest))
    weights, _, below = belongs.partition("/")
    if place != (below if bucket.weights == weights and not place.startswith(weights) else belongs):
        raise EngineSetRefused(f"{shown} is the manifest of another set, {manifest.digest[:12]}...: it was changed")
    return manifest, data
