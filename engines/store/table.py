"""What `engines list` shows: a table for people, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

from rich.box import SIMPLE
from rich.console import Group
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from engines.store.bucket import Bucket
from engines.store.catalogue import Catalogue, LeftOut
from engines.store.choice import SHORT, Judged, judge

HEADINGS = ("set", "backend", "for", "precision", "shapes", "size", "built (UTC)", "fits")


@dataclass(frozen=True)
class Listing:
    """The sets below a root, the one that was built last first, and the incomplete sets."""

    bucket: Bucket
    judged: Sequence[Judged]
    left_out: Sequence[LeftOut]

    @classmethod
    def of(cls, catalogue: Catalogue, bucket: Bucket) -> Listing:
        """Judges every set, which imports torch where it is installed."""
        return cls(bucket, [judge(stored) for stored in reversed(catalogue.sets)], catalogue.left_out)

    def to_json(self) -> dict[str, object]:
        """The table as the command prints it to a program."""
        left_out = [{"uri": self.bucket.uri(each.place), "why": each.why} for each in self.left_out]
        return {"sets": [_to_json(each, self.bucket) for each in self.judged], "left_out": left_out}

    def to_table(self) -> Group:
        """The table as the command prints it to a person."""
        table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
        for heading in HEADINGS:
            table.add_column(heading, overflow="fold", no_wrap=heading == HEADINGS[0])
        for each in self.judged:
            table.add_row(*(Text(cell) for cell in _cells(each)))
        added = [Text(f"{each.stored.digest[:SHORT]}: with {_added(each)}") for each in self.judged if _added(each)]
        reasons = [Text(f"{each.stored.digest[:SHORT]}: {each.why_not}") for each in self.judged if each.why_not]
        notes = [Text(f"{self.bucket.place(each.place)} is not a complete set: {each.why}") for each in self.left_out]
        empty = Text(f"there is no engine set in {self.bucket.shown}")
        return Group(table if self.judged else empty, *added, *reasons, *notes)


def _to_json(judged: Judged, bucket: Bucket) -> dict[str, object]:
    stored, manifest = judged.stored, judged.stored.manifest
    return {
        "engine_set": stored.digest,
        "uri": bucket.uri(stored.place),
        "weights": manifest.source.weights,
        "built_with": manifest.source.built_with,
        "context_chunks": manifest.context_chunks,
        "backend": manifest.backend,
        "version": manifest.versions[manifest.runtime],
        "architecture": manifest.architecture,
        "precision": manifest.precision,
        "shapes": [profile.text for profile in manifest.profiles],
        "max_batch": manifest.max_batch,
        "bytes": stored.total_bytes,
        "built_at": None if stored.built_at is None else stored.built_at.isoformat(timespec="seconds"),
        "fits": judged.why_not is None,
        "why_not": None if judged.why_not is None else str(judged.why_not),
    }


def _added(judged: Judged) -> str:
    """What tells a set from another one of the same model: `ink.safetensors:0.8, clip skip 2, 2 context chunks`."""
    manifest = judged.stored.manifest
    made = manifest.source.built_with or {}
    words = [f"{each['file']}:{each['weight']:g}" for each in made.get("loras", ())]
    words += [made["vae"]["file"]] if "vae" in made else []
    words += [f"{each['file']}:{each['word']}" for each in made.get("embeddings", ())]
    words += [f"clip skip {made['clip_skip']}"] if "clip_skip" in made else []
    words += [f"{manifest.context_chunks} context chunks"] if manifest.context_chunks > 1 else []
    return ", ".join(words)


def _cells(judged: Judged) -> tuple[str, ...]:
    stored, manifest = judged.stored, judged.stored.manifest
    return (
        stored.digest[:SHORT],
        f"{manifest.backend} {manifest.versions[manifest.runtime]}",
        manifest.architecture or "any",
        manifest.precision,
        manifest.shapes_text,
        decimal(stored.total_bytes),
        "" if stored.built_at is None else f"{stored.built_at.astimezone(UTC):%Y-%m-%d %H:%M}",
        "yes" if judged.why_not is None else "no",
    )
