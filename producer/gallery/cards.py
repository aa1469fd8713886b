"""What a page shows of one job: its pictures, its parameters and its end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

from jobs.job import PICTURES, RenderParameters, RenderResult
from jobs.uri import path_of, redacted
from producer.console import place
from producer.engine_sets import engine_set_name
from producer.gallery.thumbnails import Thumbnail
from producer.table.columns import COLUMNS

EMPTY_TEXT = "(empty)"  # for a prompt that is empty on purpose
NOT_SHOWN = (".heic", ".heif", ".tif", ".tiff")  # by browsers: such a picture opens as its small copy
HINT, GIVEN_HINT = "Edges", "Hint"  # what was found in a picture, and what was the picture itself


class Source(NamedTuple):
    """One picture of a job: what it is called, and where it is."""

    label: str
    uri: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a card: what is shown of it and, where a browser can open it, the picture itself."""

    label: str
    place: str
    thumbnail: str | None
    width: int
    height: int
    link: str | None
    problem: str | None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.place.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a job; defaults are shown dimmed."""

    name: str
    value: str
    is_default: bool


@dataclass(frozen=True)
class Card:
    """All that the page shows of one job."""

    result: RenderResult
    pictures: tuple[Picture, ...]
    parameters: tuple[Parameter, ...]

    @property
    def seconds(self) -> float | None:
        """What the job took, all stages together."""
        return sum(self.result.seconds.values()) if self.result.seconds else None

    @property
    def engine_set(self) -> str | None:
        """The engine set that drew the pictures, by name; None where nothing was drawn, or nothing is known of it."""
        digest = self.result.engine_set
        return engine_set_name(digest, self.result.model_name) if digest and self.result.state == "done" else None

    @property
    def ratio(self) -> float:
        """Width / height of the card's frames: that of the first picture, clamped."""
        shapes = [picture.width / picture.height for picture in self.pictures if picture.height]
        return round(min(2.0, max(0.6, shapes[0])), 3) if shapes else 1.6

    @property
    def preview(self) -> str | None:
        """The file that stands for the job in a list: its first result, or else whatever there is of it."""
        shown = {picture.label: picture.thumbnail for picture in self.pictures if picture.thumbnail}
        return shown.get("Result") or shown.get("Result 1") or next(iter(shown.values()), None)


def pictures_of(result: RenderResult) -> list[Source]:
    """Input, edges and results of a job, as far as there are any."""
    sources = [Source("Input", result.image)]
    if result.canny is not None:
        sources.append(Source(HINT, result.canny))
    several = len(result.samples) > 1
    return sources + [Source(f"Result {n}" if several else "Result", uri) for n, uri in enumerate(result.samples, 1)]


def card_of(
    result: RenderResult, thumbnails: Mapping[str, Thumbnail], *, values: Mapping[str, Any] | None, out: Path
) -> Card:
    """The card of a job in the folder `out`.

    `values` are the parameters of a job that is not done; those of a done job are read from its picture.
    """
    pictures = tuple(_picture(source, thumbnails[source.uri], out) for source in pictures_of(result))
    if result.samples:
        values = _from_text(thumbnails[result.samples[0]].text)
    if (values or {}).get("control") == "none":
        pictures = tuple(replace(one, label=GIVEN_HINT) if one.label == HINT else one for one in pictures)
    return Card(result, pictures, _parameters(values or {}, result.seed))


def _picture(source: Source, shown: Thumbnail, out: Path) -> Picture:
    file = None if shown.file is None else _relative(shown.file, out)
    link = None if shown.problem else _link(source.uri, out)
    return Picture(source.label, place(source.uri), file, shown.width, shown.height, link, shown.problem)


def _link(uri: str, out: Path) -> str | None:
    """What a browser can open; never an address that holds a password or a signature."""
    if uri.partition("?")[0].lower().endswith(NOT_SHOWN):
        return None
    if uri.startswith("file:"):
        return _relative(str(path_of(uri)), out)
    return uri if uri.startswith(("https://", "http://")) and redacted(uri) == uri else None


def _relative(file: str, out: Path) -> str:
    folder, name = os.path.split(file)
    return quote_from_bytes(os.fsencode(os.path.join(_way(folder, out), name).replace(os.sep, "/")))  # noqa: PTH118


@lru_cache(maxsize=1024)  # small copies are in 256 folders
def _way(folder: str, out: Path) -> str:
    """The relative path of a folder, or nothing where it is `out` itself."""
    way = os.path.relpath(folder, out)
    return "" if way == os.curdir else way


def _parameters(values: Mapping[str, Any], seed: int) -> tuple[Parameter, ...]:
    if not values:
        return ()
    values = {**values, "seed": seed}
    fields = RenderParameters.model_fields
    names = [name for name in COLUMNS if name in values and name not in ("image", "prompt")]
    return tuple(Parameter(name, _shown(name, values[name]), values[name] == fields[name].default) for name in names)


def _from_text(text: str | None) -> dict[str, Any]:
    try:
        values = json.loads(text or "{}")
    except ValueError:
        return {}  # the card is still worth showing without its parameters
    return values if isinstance(values, dict) else {}


def _shown(name: str, value: object) -> str:
    return place(str(value)) if name in PICTURES else _text(value)  # a URI may hold a password or a signature


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | float | int) else str(value) or EMPTY_TEXT
