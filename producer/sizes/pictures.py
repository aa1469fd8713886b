"""Pictures: the size of a row's picture, read from wherever it is under the limits that a worker has."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from urllib.parse import urlsplit

from jobs.errors import SourceTooLarge, SourceUnavailable, TransientError
from jobs.settings import Settings
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.limits import FetchLimits
from jobs.storage.part import Part
from jobs.storage.retry import with_backoff
from jobs.storage.store import source_for
from jobs.uri import redacted
from producer.headers.header import upright_size
from producer.headers.parts import Parts

TRIES_OF_A_HOST = 5  # pictures in a row that it did not give; each may take minutes
REMEMBERED_HOSTS = 4096
LONGEST_WAIT_SECONDS = 600.0  # for a turn at a host: 32 threads may stand in one line


class Pictures:
    """Reads headers. Safe from many threads, which share the limits per host.

    RENDER_ALLOW_HOSTS and the other limits of a worker's fetch hold here, too; RENDER_ALLOW_FOLDERS and
    RENDER_ALLOW_BUCKETS where one of them is set. Without them, people may read what is theirs.
    """

    def __init__(self, settings: Settings) -> None:
        is_restricted = bool(settings.allow_folders or settings.allow_buckets)
        policy = AccessPolicy.of(settings) if is_restricted else None
        self._limits = replace(FetchLimits.of(settings, policy=policy), wait_seconds=LONGEST_WAIT_SECONDS)
        self._settings = settings
        self._lock = threading.Lock()
        self._failed: Counter[str] = Counter()  # host or bucket -> pictures in a row

    def size_of(self, uri: str) -> tuple[int, int]:
        """Width and height in pixels, upright.

        Raises:
            RenderError: a worker could not read it either, or its host has not answered several times in a row.
        """
        place = _place(uri)
        with self._lock:
            if self._failed[place] >= TRIES_OF_A_HOST:
                raise SourceUnavailable(
                    f"{place} did not answer {TRIES_OF_A_HOST} times in a row; it is not asked again"
                )
        try:
            width, height = upright_size(Parts(lambda start, size: self._part(uri, start, size)))
        except TransientError:
            self._note(place, failed=True)
            raise
        self._note(place, failed=False)
        if width * height > self._settings.max_pixels:
            raise SourceTooLarge(
                f"the picture has {width}x{height} = {width * height:,} pixels; {self._settings.max_pixels:,} are "
                f"allowed (RENDER_MAX_PIXELS): {redacted(uri)}"
            )
        return width, height

    def _note(self, place: str, *, failed: bool) -> None:
        with self._lock:
            if not failed or not place:
                self._failed.pop(place, None)
                return
            self._failed[place] += 1
            if len(self._failed) > REMEMBERED_HOSTS:
                del self._failed[next(iter(self._failed))]

    def _part(self, uri: str, start: int, size: int) -> Part:
        return with_backoff(
            lambda: source_for(uri, self._limits).read_part(uri, start=start, size=size),
            attempts=self._settings.retry_attempts,
            base_seconds=self._settings.retry_base_seconds,
        )


def _place(uri: str) -> str:
    """The host or the bucket; '' for a file on this machine, of which nothing follows for others."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.scheme != "file" else ""
