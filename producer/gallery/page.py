"""`producer gallery`: a page that shows input, edges and result of every job side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from jobs.errors import RenderError
from jobs.job import RenderParameters, RenderResult
from jobs.ledger.records import BatchInfo
from jobs.storage.file import write_whole
from jobs.storage.http import FetchLimits
from jobs.storage.store import read_bytes
from jobs.uri import path_of, redacted
from producer.console import count, place, row_progress, say, write_json
from producer.engine_sets import difference, engine_set_name, engine_sets_record, say_engine_sets
from producer.exits import Exit
from producer.gallery.thumbnails import Thumbnails, text_chunk
from producer.results import ended_results
from producer.session import Session, open_session
from producer.table.columns import COLUMNS

PAGE_JOBS = 500
THREADS = 8  # for pictures that come over a network
THUMBNAILS = "thumbnails"
EMPTY_TEXT = "(empty)"  # for a prompt that is empty on purpose


@dataclass(frozen=True)
class Picture:
    """One picture of a card: its small copy and, where a browser can open it, the picture itself."""

    label: str
    place: str
    thumbnail: str | None
    width: int
    height: int
    link: str | None
    problem: str | None


@dataclass(frozen=True)
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
    seconds: float | None

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


def gallery(batch: str, out: Path) -> Exit:
    """Write index.html, further pages where there are many jobs, and the small copies.

    Raises:
        CommandFailed: no such batch.
        OSError: the folder cannot be written.
    """
    session = open_session()
    info, counts = session.batch(batch), session.ledger.counts(batch)
    sets = session.ledger.engine_sets(batch, read_up_to=None)  # all results are read below anyway
    shared = {
        "info": info,
        "counts": counts,
        "output": place(info.output),
        "difference": difference(sets),
        "empty": EMPTY_TEXT,
    }
    out.mkdir(parents=True, exist_ok=True)
    cards = _Cards(session, info, out.absolute())
    template = _environment().get_template("gallery.html.j2")
    shown = pages = 0
    with row_progress("Pictures", counts.finished) as tick, ThreadPoolExecutor(THREADS) as pool:
        for pages, (results, more) in enumerate(_paged(ended_results(session, batch)), 1):
            page = _Page(pages, first=shown + 1, more=more)
            page_cards = list(pool.map(cards.card, results))
            text = template.render(page=page, cards=page_cards, **shared)
            write_whole(out / _file_name(pages), text.encode(), durable=False)
            shown += len(page_cards)
            tick(shown)
    index = (out / _file_name(1)).absolute()
    say(f"{count(shown, 'job')} on {count(pages, 'page')}: {index}", "good")
    say_engine_sets(sets)
    write_json({"batch": batch, "index": str(index), "jobs": shown, "pages": pages, **engine_sets_record(sets)})
    return Exit.OK


@dataclass(frozen=True)
class _Page:
    """A page's number, the place of its first job, and whether another page follows."""

    number: int
    first: int
    more: bool

    @property
    def before(self) -> str | None:
        return _file_name(self.number - 1) if self.number > 1 else None

    @property
    def after(self) -> str | None:
        return _file_name(self.number + 1) if self.more else None


class _Cards:
    """Makes cards: small copies, links and parameters of one job each. Safe from many threads."""

    def __init__(self, session: Session, info: BatchInfo, out: Path) -> None:
        settings = session.settings
        self._session = session
        self._out = out
        self._limits = FetchLimits(settings.fetch_timeout_seconds, settings.fetch_max_bytes, settings.allow_hosts)
        self._thumbnails = Thumbnails(out / THUMBNAILS / info.name, self._limits, settings.max_pixels)

    def card(self, result: RenderResult) -> Card:
        pictures = [("Input", "input", result.image)]
        if result.canny is not None:
            pictures.append(("Edges", "canny", result.canny))
        several = len(result.samples) > 1
        for number, uri in enumerate(result.samples):
            pictures.append((f"Result {number + 1}" if several else "Result", str(number), uri))
        return Card(
            result,
            tuple(self._picture(result, label, name, uri) for label, name, uri in pictures),
            self._parameters(result),
            sum(result.seconds.values()) if result.seconds else None,
        )

    def _picture(self, result: RenderResult, label: str, name: str, uri: str) -> Picture:
        made_at = result.finished_at if result.finished_at is not None else 0.0
        copy = self._thumbnails.of(uri, f"{result.id}_{name}", made_at=made_at)
        shown = None if copy.path is None else self._relative(copy.path)
        link = None if copy.problem else self._link(uri)
        return Picture(label, place(uri), shown, copy.width, copy.height, link, copy.problem)

    def _link(self, uri: str) -> str | None:
        """What a browser can open; never an address that holds a password or a signature."""
        if uri.startswith("file:"):
            return self._relative(path_of(uri))
        return uri if uri.startswith(("https://", "http://")) and redacted(uri) == uri else None

    def _relative(self, path: Path) -> str:
        return quote(os.fsencode(os.path.relpath(path, self._out).replace(os.sep, "/")))

    def _parameters(self, result: RenderResult) -> tuple[Parameter, ...]:
        """From the picture itself if the job is done, otherwise from the ledger."""
        values = self._from_picture(result.samples[0]) if result.samples else self._from_ledger(result)
        values = values | {"seed": result.seed} if values else {}
        fields = RenderParameters.model_fields
        names = [name for name in COLUMNS if name in values and name not in ("image", "prompt")]
        return tuple(Parameter(name, _text(values[name]), values[name] == fields[name].default) for name in names)

    def _from_picture(self, sample: str) -> dict[str, Any]:
        try:
            values = json.loads(text_chunk(read_bytes(sample, self._limits), "render") or "{}")
        except (RenderError, ValueError):
            return {}  # the card is still worth showing without its parameters
        return values if isinstance(values, dict) else {}

    def _from_ledger(self, result: RenderResult) -> dict[str, Any]:
        job = self._session.ledger.job(result.batch, result.id)
        return job.parameters.model_dump() if job else {}


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | float | int) else str(value) or EMPTY_TEXT


def _paged(results: Iterator[RenderResult]) -> Iterator[tuple[list[RenderResult], bool]]:
    """Pages of results, each with whether another one follows; one empty page if there are no results."""
    page = list(islice(results, PAGE_JOBS))
    while True:
        after = list(islice(results, PAGE_JOBS))
        yield page, bool(after)
        if not after:
            return
        page = after


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("producer.gallery"),
        autoescape=True,  # prompts and error texts are untrusted
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _file_name(number: int) -> str:
    return "index.html" if number == 1 else f"page-{number}.html"
