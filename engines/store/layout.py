"""Where a set is below its root: `<weights digest>/<backend>-<runtime version>/<architecture or any>/<set digest>/`.

All parts come from the manifest, and the set's digest covers its files: equal names below it have equal contents.
"""

from __future__ import annotations

import re

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from engines.errors import EngineSetRefused
from engines.manifest import Manifest

RECORD = "pushed.json"
ANY = "any"  # the architecture's part, for files that run anywhere
LEVELS = 4

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+!-]*")


class Record(BaseModel):
    """pushed.json: what the manifest does not say. Older versions of this program refuse a manifest with new fields.

    `built_at` is when the set was built. `sizes` has each file's bytes, by which a pulled set is checked quickly. In a
    bucket `sizes` is empty: a listing has them.
    """

    model_config = ConfigDict(frozen=True)

    built_at: AwareDatetime | None = None
    sizes: dict[str, int] = {}

    @property
    def data(self) -> bytes:
        """The record as it is written."""
        return self.model_dump_json().encode() + b"\n"

    @classmethod
    def of(cls, data: bytes | None) -> Record:
        """The record in `data`. It is empty where `data` is missing, torn or not ours: nothing depends on it alone."""
        try:
            return cls() if data is None else cls.model_validate_json(data)
        except ValidationError:
            return cls()


def is_digest(text: str) -> bool:
    """Whether this is a whole SHA-256 in hex, as sets and weights have it."""
    return _DIGEST.fullmatch(text) is not None


def is_part(text: str, level: int) -> bool:
    """Whether a folder's name may be the part of that level (0: the weights' digest ... 3: the set's)."""
    return is_digest(text) if level in (0, LEVELS - 1) else _NAME.fullmatch(text) is not None


def parts_of(manifest: Manifest) -> tuple[str, ...]:
    """The folders that a set is in, from the root down.

    Raises:
        EngineSetRefused: the manifest has a value that cannot be part of a name, or lists a file of a reserved name.
    """
    version = f"{manifest.backend}-{manifest.versions[manifest.runtime]}"
    parts = (manifest.source.weights, version, manifest.architecture or ANY, manifest.digest)
    for level, part in enumerate(parts):
        if not is_part(part, level):
            raise EngineSetRefused(f"the set's manifest says {part[:80]!r}, which cannot be part of a folder's name")
    for name in manifest.files | manifest.exports:
        if name.partition("/")[0] == RECORD:
            raise EngineSetRefused(f"the set has a file {name}, a name that is kept for `engines push`; build it again")
    return parts


def says_the_same(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests of one set's digest tell a worker the same; paths and times of their builds may differ."""
    return (one.kernels, one.schedule) == (other.kernels, other.schedule)


def wanted_files(manifest: Manifest, *, with_exports: bool) -> dict[str, str]:
    """The files of a set to copy, with their SHA-256: those that loading reads, and on request the exports."""
    return manifest.files | manifest.exports if with_exports else manifest.files
