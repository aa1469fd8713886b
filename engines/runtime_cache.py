"""Where a worker keeps what it learns at run time: a folder below RENDER_CACHE_DIR for each set, card and versions.

A set is read-only. The results of one card and one version of a library are useless to another, so each
combination has a folder of its own, and a new version never reads what an old one wrote.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

LONGEST_NAME = 100  # characters of a folder's name: file systems take 255 bytes


def folder(root: Path, digest: str, *, card: str, versions: Mapping[str, str]) -> Path:
    """`root`/<set digest>/<card>/<package-version+...>; it is not made here.

    `card`: the GPU's name and architecture, such as 'NVIDIA GeForce RTX 4090 sm89'. `versions`: package -> version.
    """
    installed = "+".join(f"{package}-{version}" for package, version in sorted(versions.items()))
    return root / _name(digest) / _name(card) / _name(installed)


def _name(text: str) -> str:
    """A folder's name for any text. If letters were changed or cut, it ends with a digest, so names never clash."""
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip(".-")[:LONGEST_NAME]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("-")
