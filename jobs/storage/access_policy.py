"""AccessPolicy: the folders and buckets that a job may name. Anyone who can write to the queue can send a message.

Without an allow-list, a stranger could use a `file://` source to render /etc/passwd into a bucket of their own, and a
`file://` output to write wherever the worker can. The producer needs no allow-list: it runs on the machine, and as the
user, of the person who typed the command.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import InvalidJob, OutputForbidden, RenderError, SettingsError, SourceForbidden
from jobs.settings import Settings
from jobs.uri import bucket_and_key, file_path, path_of, redacted, resolve_uri

READ = "add its folder to RENDER_ALLOW_FOLDERS of the workers"
WRITE = "write below their RENDER_OUTPUT_URI, or add the folder to their RENDER_ALLOW_FOLDERS"
READ_BUCKET = "add it to RENDER_ALLOW_BUCKETS of the workers"
WRITE_BUCKET = "write below their RENDER_OUTPUT_URI, or add the bucket to their RENDER_ALLOW_BUCKETS"


@dataclass(frozen=True)
class AccessPolicy:
    """`folders` and `buckets` may be read and written (no bucket named: any bucket). `output` may be written.

    A path is resolved before it is checked, so a symbolic link inside a folder does not lead out of it.
    """

    folders: tuple[str, ...] = ()
    buckets: tuple[str, ...] = ()
    output: str = ""  # a URI

    @classmethod
    def of(cls, settings: Settings) -> AccessPolicy:
        """What a worker's settings allow. Relative folders are relative to where the worker was started.

        Raises:
            SettingsError: a folder or RENDER_OUTPUT_URI cannot be written to.
        """
        folders = [_resolved("RENDER_ALLOW_FOLDERS", folder, ("file",)) for folder in settings.allow_folders]
        output = _resolved("RENDER_OUTPUT_URI", settings.output_uri, ("file", "s3"))
        return cls(tuple(str(path_of(folder)) for folder in folders), settings.allow_buckets, output)

    def source_path(self, uri: str) -> str:
        """The real path of a file:// source, as text for the reason that jobs.uri.file_path gives.

        Raises:
            SourceForbidden: it is outside these folders. The sentence does not tell whether it exists.
        """
        path = _real_path(uri, SourceForbidden)
        if not _below(path, self.folders):
            raise _source_forbidden(f"{path} may not be read by workers; if that is meant, {READ}")
        return path

    def check_source(self, uri: str) -> None:
        """Raise SourceForbidden if a file:// or s3:// source may not be read."""
        if uri.startswith("file://"):
            self.source_path(uri)
        if not uri.startswith("s3://"):
            return
        bucket, key = bucket_and_key(uri)
        if self.buckets and (bucket not in self.buckets or ".." in key.split("/")):
            raise _source_forbidden(
                f"the bucket {bucket!r} may not be read by workers; if that is meant, {READ_BUCKET}"
            )

    def check_output(self, uri: str) -> None:
        """Raise OutputForbidden if nothing may be written below this folder or prefix."""
        if uri.startswith("file://"):
            path = _real_path(uri, OutputForbidden)
            own = (file_path(self.output),) if self.output.startswith("file://") else ()
            if not _below(path, (*self.folders, *own)):
                raise OutputForbidden(f"{path} may not be written by workers; {WRITE}", scope="settings")
        elif uri.startswith("s3://"):
            bucket, key = bucket_and_key(uri)
            is_own = uri.startswith(self.output.rstrip("/") + "/")
            # Some servers resolve '..' in a key, which then leads into another bucket.
            if self.buckets and (not (is_own or bucket in self.buckets) or ".." in key.split("/")):
                raise OutputForbidden(
                    f"{redacted(uri)} may not be written by workers; {WRITE_BUCKET}", scope="settings"
                )


def _source_forbidden(text: str) -> SourceForbidden:
    """The settings' fault, not the job's: a worker with other allow-lists may read it."""
    return SourceForbidden(text, fault="worker", scope="settings")


def _resolved(variable: str, text: str, schemes: tuple[str, ...]) -> str:
    try:
        uri = resolve_uri(text, Path.cwd(), for_output=True)
    except (InvalidJob, RuntimeError, ValueError) as error:  # RuntimeError: the `~user` does not exist
        raise SettingsError(f"{variable}: {error}") from error
    if uri.partition("://")[0] not in schemes:
        raise SettingsError(f"{variable}: {redacted(text)!r} is not one of: a folder, {'://, '.join(schemes)}://")
    return uri


def _real_path(uri: str, error: type[RenderError]) -> str:
    try:
        return os.path.realpath(file_path(uri))
    except (OSError, ValueError) as problem:  # ValueError: a NUL, or half a surrogate pair
        raise error(f"{redacted(uri)!r} is not a usable path", fault="job") from problem


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(f"{path}/".startswith(os.path.join(os.path.realpath(folder), "")) for folder in folders)
