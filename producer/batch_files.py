"""The files of one batch in its output, and their deletion.

A batch's folder may hold what other people put there, so a file is deleted only if its name is that of a job of the
batch: `<id>.json`, `<id>_canny.png`, or `<id>_<sample>` and a format's ending, directly in `<output>/<batch>/`. The
ledger and the manifest say which ids these are; of any other id, its own sidecar does. The manifest goes last: without
it, a deletion that was killed could not be repeated where Redis knows nothing of the batch.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from jobs.errors import InvalidJob, OutputUnavailable, SourceForbidden, SourceNotFound
from jobs.job import SAMPLE_ENDINGS, RenderResult
from jobs.ledger.chunks import chunks
from jobs.ledger.idset import IdSet
from jobs.storage.retry import with_backoff
from jobs.storage.store import Store
from jobs.submission import Part, ids_of, part_uris, read_head, submission_folder
from jobs.uri import redacted

AT_ONCE = 32  # requests; one takes about 10 ms, nearly all of it waiting
CHUNK = 1000  # files between two checks whether the deletion is to go on
TRIES = 4
ROUNDS = 100  # some stores and file servers leave names out of a listing while others are deleted
SIDECAR = ".json"
_ENDINGS = "|".join(map(re.escape, SAMPLE_ENDINGS.values()))
_OF_A_JOB = re.compile(rf"([0-9a-f]{{20}})(\.json|_canny\.png|_\d{{1,2}}(?:{_ENDINGS}))", re.ASCII)
_OF_THE_MANIFEST = re.compile(r"[0-9a-f]{20}\.(?:jsonl\.gz|prompts\.json)", re.ASCII)
_FOLDERS = ("manifest/", ".part/")  # which a batch's folder has

Tick = Callable[[int], object]
Value = TypeVar("Value")


@dataclass
class BatchFiles:
    """Deletes the files of `batch` in `output`.

    `known` are the ids of the batch's jobs as the ledger has them. `check` is called between chunks of files, and
    raises to stop. `jobs_gone` is called once, after all files of the jobs are deleted and before the manifest is.
    After `delete`, `foreign` is the number of files in the batch's folder that are not of its jobs, and `damaged` are
    the parts of the manifest that could not be read.
    """

    store: Store
    output: str
    batch: str
    known: Iterable[str]
    check: Callable[[], object] = lambda: None
    jobs_gone: Callable[[], object] = lambda: None
    deleted: int = 0
    foreign: int = 0
    damaged: list[str] = field(default_factory=list)
    _others: set[str] = field(default_factory=set)  # manifests of other batches that were put here
    _proven: dict[str, bool] = field(default_factory=dict)  # ids that neither ledger nor manifest knows
    _tick: Tick = lambda _: None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folder(self) -> str:
        """`<output>/<batch>`."""
        return f"{self.output.rstrip('/')}/{self.batch}"

    @property
    def manifest(self) -> str:
        """`<output>/<batch>/manifest`."""
        return submission_folder(self.output, self.batch)

    def any(self) -> bool:
        """Whether there is a file that `delete` may delete.

        Raises:
            OutputForbidden, OutputUnavailable: storage does not say.
        """
        return any(map(_OF_A_JOB.fullmatch, self.store.names(self.folder))) or any(
            map(_OF_THE_MANIFEST.fullmatch, self.store.names(self.manifest))
        )

    def delete(self, tick: Tick = lambda _: None) -> None:
        """Delete all of them; `tick` is called with how many are gone so far. Safe to repeat.

        Raises:
            OutputForbidden, OutputUnavailable, SourceForbidden, SourceUnavailable: storage refuses, or does not answer.
                What is deleted stays so.
        """
        self._tick = tick
        ids = IdSet(id_ for some in (self.known, self._ids_of_the_manifest()) for id_ in some)
        with ThreadPoolExecutor(AT_ONCE, "delete") as pool:
            # A sidecar says that its pictures are there, so it goes first; but not where it alone says whose they are.
            self._delete_jobs(pool, lambda id_, end: end == SIDECAR and id_ in ids)
            self._delete_jobs(pool, lambda id_, end: end != SIDECAR and (id_ in ids or self._proves(id_)))
            self._delete_jobs(pool, lambda id_, _: id_ in ids or self._proves(id_))
            self.jobs_gone()
            names = list(filter(_OF_THE_MANIFEST.fullmatch, self.store.names(self.manifest)))
            self._delete(pool, {f"{self.manifest}/{name}" for name in names} - self._others)
        for folder in (self.manifest, self.folder):
            self.store.delete_empty(folder)
        self.foreign = sum(name not in _FOLDERS for name in self.store.names(self.folder))

    def _delete_jobs(self, pool: ThreadPoolExecutor, is_meant: Callable[[str, str], bool]) -> None:
        """Delete the files that are meant, by id and end, until a listing has none.

        Some stores still list files that are gone. They are taken for that where two listings are the same.

        Raises:
            OutputUnavailable: there is no end to them, or one that was deleted is still there.
        """
        before = None
        for _ in range(ROUNDS):
            listed = _Listed()
            matches = filter(None, map(_OF_A_JOB.fullmatch, self.store.names(self.folder)))
            uris = (f"{self.folder}/{match[0]}" for match in matches if is_meant(match[1], match[2]))
            self._delete(pool, listed.noting(uris))
            if not listed.number or (listed == before and not _tried(partial(self.store.exists, listed.last))):
                return
            if listed == before:
                break
            before = listed
        raise OutputUnavailable(f"{redacted(listed.last)} was deleted and is still there")

    def _delete(self, pool: ThreadPoolExecutor, uris: Iterable[str]) -> None:
        for some in chunks(uris, CHUNK):
            self.check()
            for _ in pool.map(self._delete_one, some):
                self._tick(self.deleted)

    def _delete_one(self, uri: str) -> None:
        _tried(partial(self.store.delete, uri))
        with self._lock:  # counted here, so that nothing is missed where another file's deletion fails
            self.deleted += 1

    def _proves(self, id_: str) -> bool:
        """Whether the sidecar of an id says that it is a job of this batch."""
        if id_ not in self._proven:
            self._proven[id_] = False
            with suppress(SourceNotFound, SourceForbidden, ValueError):
                data = _tried(partial(self.store.read, f"{self.folder}/{id_}{SIDECAR}"))
                result = RenderResult.model_validate_json(data)
                self._proven[id_] = (result.id, result.batch) == (id_, self.batch)
        return self._proven[id_]

    def _ids_of_the_manifest(self) -> Iterator[str]:
        for uri in part_uris(self.store, self.output, self.batch):
            try:
                part = _tried(partial(read_head, self.store, uri))
                if part.head.batch == self.batch:
                    yield from _tried(partial(_ids_of, self.store, part))
                else:
                    self._others.add(uri)
            except InvalidJob:
                self.damaged.append(uri)


@dataclass
class _Listed:
    """What a listing had: how many names, and a sum that tells it from others, in whatever order it has them."""

    number: int = 0
    total: int = 0
    last: str = field(default="", compare=False)

    def noting(self, uris: Iterable[str]) -> Iterator[str]:
        """The same URIs, noted on the way."""
        for uri in uris:
            self.number, self.total, self.last = self.number + 1, self.total + hash(uri), uri
            yield uri


def _ids_of(store: Store, part: Part) -> list[str]:
    return list(ids_of(store, part))


def _tried(call: Callable[[], Value]) -> Value:
    return with_backoff(call, attempts=TRIES, base_seconds=0.5)
