"""Book: writes a gallery's pages, each only if something that it shows has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from operator import itemgetter
from pathlib import Path

import jinja2

from jobs.job import RenderJob, RenderResult
from jobs.storage.file import write_whole
from producer.gallery.cards import Card, card_of, pictures_of
from producer.gallery.made import Made
from producer.gallery.page_numbers import Page, file_name, script_name
from producer.gallery.search import search_script
from producer.gallery.thumbnails import Thumbnail, Thumbnails

THREADS = 16  # for pictures that come over a network; decoding leaves Python's lock to the others
NEW_AT_ONCE, KNOWN_AT_ONCE = 8, 64  # pictures in one task of a thread: known ones are only looked at

Jobs = Callable[[Sequence[str]], Mapping[str, RenderJob]]


class Book:
    """Writes pages, one after the other.

    `shared` is what all pages show, and `jobs` finds the parameters of jobs that are not done. `written` counts the
    pages that had something new, and `shown_themselves` the pictures that have no small copy.
    """

    def __init__(
        self, out: Path, made: Made, thumbnails: Thumbnails, *, shared: Mapping[str, object], jobs: Jobs
    ) -> None:
        self._out = out
        self._made = made
        self._thumbnails = thumbnails
        self._shared = shared
        self._jobs = jobs
        self._pool = ThreadPoolExecutor(THREADS, "gallery")
        self.written = 0
        self.shown_themselves = 0

    def __enter__(self) -> Book:
        (self._out / script_name(1)).parent.mkdir(exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def write(self, page: Page, results: Sequence[RenderResult], tick: Callable[[int], None]) -> None:
        """Make what is new of a page's pictures, then the page if anything that it shows is new.

        `tick` is called with the number of jobs whose pictures are made.

        Raises:
            CommandFailed, OSError: something cannot be written.
        """
        shown = self._shown(results, tick)
        digest = self._digest(page, results, shown)
        html, script = file_name(page.number), script_name(page.number)
        if not (self._made.is_page(html, digest) and self._made.is_page(script, digest)):
            cards = self._cards(results, shown)
            self._write(html, self._template.render(page=page, cards=cards, **self._shared), digest)
            self._write(script, search_script(page.number, cards), digest)
            self.written += 1
        self._made.commit()

    def _write(self, name: str, text: str, digest: str) -> None:
        write_whole(self._out / name, text.encode("utf-8", "replace"), durable=False)
        self._made.note_page(name, digest)

    def _shown(self, results: Sequence[RenderResult], tick: Callable[[int], None]) -> dict[str, Thumbnail]:
        """What is shown of every picture of a page, by URI; each is read once, and noted in the index."""
        made_at: dict[str, float] = {}
        for result in results:
            for source in pictures_of(result):
                made_at[source.uri] = max(made_at.get(source.uri, 0.0), result.finished_at or 0.0)
        known = self._made.thumbnails(made_at)
        shown: dict[str, Thumbnail] = {}
        for future in self._started(list(made_at.items()), known):
            shown |= future.result()
            tick(len(results) * len(shown) // len(made_at))
        self._made.note_thumbnails({uri: new for uri, new in shown.items() if known.get(uri) is not new})
        self.shown_themselves += sum(one.file is not None and not one.bytes for one in shown.values())
        return shown

    def _started(
        self, pictures: Sequence[tuple[str, float]], known: Mapping[str, Thumbnail]
    ) -> list[Future[dict[str, Thumbnail]]]:
        tasks = []
        for is_known, size in ((False, NEW_AT_ONCE), (True, KNOWN_AT_ONCE)):
            some = [picture for picture in pictures if (picture[0] in known) is is_known]
            tasks += [some[at : at + size] for at in range(0, len(some), size)]
        return [self._pool.submit(self._made_of, task, known) for task in tasks]

    def _made_of(self, pictures: Sequence[tuple[str, float]], known: Mapping[str, Thumbnail]) -> dict[str, Thumbnail]:
        return {uri: self._thumbnails.of(uri, made_at=made_at, known=known.get(uri)) for uri, made_at in pictures}

    def _cards(self, results: Sequence[RenderResult], shown: Mapping[str, Thumbnail]) -> list[Card]:
        others = self._jobs([result.id for result in results if not result.samples])
        values = {id_: job.parameters.model_dump() for id_, job in others.items()}
        return [card_of(result, shown, values=values.get(result.id), out=self._out) for result in results]

    def _digest(self, page: Page, results: Sequence[RenderResult], shown: Mapping[str, Thumbnail]) -> str:
        """A digest of all that a page is made from."""
        digest = hashlib.sha256(self._program)
        digest.update(repr((page, sorted(self._shared.items()))).encode("utf-8", "replace"))
        for result in results:
            digest.update(result.model_dump_json().encode())
        for uri, thumbnail in sorted(shown.items(), key=itemgetter(0)):
            seen = (uri, thumbnail.file, thumbnail.width, thumbnail.height, thumbnail.problem, thumbnail.text)
            digest.update(repr(seen).encode("utf-8", "replace"))
        return digest.hexdigest()

    @cached_property
    def _program(self) -> bytes:
        """The files that say how a page looks: another version of them writes it again."""
        folder = Path(__file__).parent
        files = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".j2"))
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).digest()

    @cached_property
    def _template(self) -> jinja2.Template:
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("producer.gallery"),
            autoescape=True,  # prompts and error texts are untrusted
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("gallery.html.j2")
