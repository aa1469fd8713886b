"""A file in RENDER_CACHE_DIR with the sizes that an engine set was used at, by card and versions of libraries.

    <RENDER_CACHE_DIR>/<digest of the set>/<digest of the machine>/sizes.json

Workers may share the folder: a file is written whole, over the one that another worker has written meanwhile, with the
larger weight of both. Whatever else is there is left alone and read as nothing. At most MOST_FILES files are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from engines.files import replacing
from jobs.ledger.sizes import StepSize, most_used

log = structlog.get_logger(__name__)

FORMAT = 1
NAME = "sizes.json"
LARGEST_BYTES = 100_000
MOST_FILES = 256


@dataclass(frozen=True)
class SizesFile:
    """`machine` names the card and the libraries; what was learnt with others is not read."""

    root: Path
    engine_set: str
    machine: str

    @property
    def path(self) -> Path:
        """Where it is, or will be."""
        return self.root / self.engine_set / hashlib.sha256(self.machine.encode()).hexdigest()[:16] / NAME

    def read(self) -> dict[StepSize, float]:
        """The sizes and their weights, the most used one first; none, with a line in the log, if it is not ours."""
        try:
            if not self.path.exists():
                return {}
            with self.path.open("rb") as file:
                data = file.read(LARGEST_BYTES + 1)
            return self._sizes(data)
        except (OSError, ValueError, RecursionError) as error:
            log.warning("sizes_ignored", file=str(self.path), error=str(error), consequence="it is written anew")
            return {}

    def write(self, weights: Mapping[StepSize, float]) -> None:
        """Write these and what the file holds already, whole or not at all.

        Raises:
            OSError: the folder cannot be written.
        """
        before = self.read()
        both = {size: max(weights.get(size, 0.0), before.get(size, 0.0)) for size in {**weights, **before}}
        sizes = {
            size.text: weight for size, weight in most_used((size.text, one) for size, one in both.items()).items()
        }
        content = {"format": FORMAT, "engine_set": self.engine_set, "machine": self.machine, "sizes": sizes}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path, shared=True) as scratch:
            scratch.write_text(json.dumps(content, indent=1), encoding="utf-8")
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        files = sorted(self.root.glob(f"*/*/{NAME}"), key=_written_at)
        for path in files[:-MOST_FILES]:
            path.unlink(missing_ok=True)

    def _sizes(self, data: bytes) -> dict[StepSize, float]:
        if len(data) > LARGEST_BYTES:
            raise ValueError(f"it has more than {LARGEST_BYTES} bytes")
        content: Any = json.loads(data)
        if not isinstance(content, dict) or not isinstance(content.get("sizes"), dict):
            raise ValueError("it holds no list of sizes")
        ours = {"format": FORMAT, "engine_set": self.engine_set, "machine": self.machine}
        wrong = [name for name, value in ours.items() if content.get(name) != value]
        if wrong:
            raise ValueError(f"its {wrong[0]} is {content.get(wrong[0])!r}, not {ours[wrong[0]]!r}")
        numbers = {text: number for text, number in content["sizes"].items() if _is_number(number)}
        return most_used((str(text), float(number)) for text, number in numbers.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e308


def _written_at(path: Path) -> float:
    """0 for a file that another worker has just removed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
