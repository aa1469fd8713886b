"""`producer gallery`: pages that show input, edges and result of every job side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from jobs.job import RenderResult
from jobs.ledger.records import BatchInfo
from jobs.storage.http import FetchLimits
from producer.console import count, place, row_progress, say, write_json
from producer.engine_sets import difference, engine_sets_record, say_engine_sets
from producer.exits import Exit
from producer.gallery.book import Book
from producer.gallery.cards import EMPTY_TEXT
from producer.gallery.made import Made
from producer.gallery.page_numbers import Page, file_name, script_name
from producer.gallery.thumbnails import Thumbnails
from producer.results import OrderedResults, ended_results, ordered_results
from producer.session import Session, open_session

PAGE_JOBS = 500
# With more jobs, small pictures on this machine are shown themselves: decoding a result takes a hundredth of a second.
COPIES_UP_TO = 10_000
THUMBNAILS = "thumbnails"
INDEX = "made.sqlite"


def gallery(batch: str, out: Path, *, copies: bool | None = None) -> Exit:
    """Write index.html, further pages where there are many jobs, and the small copies; only what is new.

    `copies` says whether every picture gets a small copy; None leaves that to the number of jobs.

    Raises:
        CommandFailed: no such batch, or an index that cannot be written.
        OSError: the folder cannot be written.
    """
    session = open_session()
    info = session.batch(batch)
    counts, sets = session.ledger.counts(batch), session.ledger.engine_sets(batch, read_up_to=None)
    shared = {
        "info": info,
        "counts": counts,
        "output": place(info.output),
        "difference": difference(sets),
        "empty": EMPTY_TEXT,
    }
    out.mkdir(parents=True, exist_ok=True)
    copy_all = counts.finished <= COPIES_UP_TO if copies is None else copies
    stored = ended_results(session, batch)
    with ordered_results(stored, batch=batch) as results, row_progress("Gallery", len(results)) as tick:
        made = _made(out.absolute(), info)
        with closing(made), _book(session, made, out.absolute(), info, shared=shared, copy_all=copy_all) as book:
            pages = _write_pages(book, results, tick)
            _remove_old(out, made, pages)
    _report(len(results), pages, book, (out / file_name(1)).absolute(), copy_all=copy_all)
    say_engine_sets(sets)
    index = str((out / file_name(1)).absolute())
    write_json({"batch": batch, "index": index, "jobs": len(results), "pages": pages, **engine_sets_record(sets)})
    return Exit.OK


def _made(out: Path, info: BatchInfo) -> Made:
    folder = out / THUMBNAILS / info.name
    folder.mkdir(parents=True, exist_ok=True)
    return Made(folder / INDEX, root=out)


def _book(
    session: Session, made: Made, out: Path, info: BatchInfo, *, shared: dict[str, object], copy_all: bool
) -> Book:
    settings = session.settings
    limits = FetchLimits.of(settings)
    thumbnails = Thumbnails(out / THUMBNAILS / info.name, limits, settings.max_pixels, copy_all=copy_all)
    return Book(out, made, thumbnails, shared=shared, jobs=lambda ids: session.ledger.jobs(info.name, ids))


def _write_pages(book: Book, results: OrderedResults, tick: Callable[[int], None]) -> int:
    """Write all pages; one empty page if there are no results. Returns how many there are."""
    pages = max(1, -(-len(results) // PAGE_JOBS))
    remaining: Iterator[RenderResult] = iter(results)
    try:
        for number in range(1, pages + 1):
            begin = (number - 1) * PAGE_JOBS
            of_page = list(islice(remaining, PAGE_JOBS))
            page = Page(number, pages, first=begin + 1, last=begin + len(of_page))
            book.write(page, of_page, lambda part, begin=begin: tick(begin + part))  # type: ignore[misc]
    except KeyboardInterrupt:
        say("Stopped. The pages that are made stay; the same command goes on from there.", "warning")
        raise
    return pages


def _remove_old(out: Path, made: Made, pages: int) -> None:
    """Remove the pages that an earlier, longer gallery had after the last one."""
    names = (name(number) for number in range(1, pages + 1) for name in (file_name, script_name))
    for name in made.forget_pages(but=names):
        (out / name).unlink(missing_ok=True)


def _report(jobs: int, pages: int, book: Book, index: Path, *, copy_all: bool) -> None:
    written = "" if book.written == pages else f", {book.written:,} of them written anew"
    say(f"{count(jobs, 'job')} on {count(pages, 'page')}{written}: {index}", "good")
    if book.shown_themselves and not copy_all:
        say(
            "Small pictures on this machine are shown themselves, so the gallery needs them where they are; "
            "with --copies every picture gets a small copy, which takes longer."
        )
