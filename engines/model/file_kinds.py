"""What a file of weights is, by its first bytes: its ending may say something else. No torch here."""

from __future__ import annotations

import json
import pickletools
import zipfile
from pathlib import Path
from typing import Literal

from engines.errors import ModelRefused

Kind = Literal["safetensors", "pickle"]
_HEAD_BYTES = 512
_LARGEST_HEADER = 100_000_000  # bytes of JSON, as the safetensors library allows them
_LARGEST_PICKLE = 2**26  # bytes that are searched for names
_WEB_PAGE = (b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<?xml", b"<!--")
_GIT_LFS = b"version https://git-lfs"
_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}
_OTHERS = {
    b"GGUF": "a quantised file of llama.cpp's kind (GGUF)",
    b"\x89HDF": "a file of TensorFlow or Keras (HDF5)",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"%PDF": "a PDF",
}


def kind_of(path: Path) -> Kind:
    """Whether a file is safetensors or one of torch's pickles.

    Raises:
        ModelRefused: it is neither; the sentence says what it is instead, as far as its beginning tells.
    """
    head = _head(path)
    if not head:
        raise ModelRefused(f"{path} is not a whole file: it is empty; download or copy it again")
    _refuse_text(path, head)
    _refuse_others(path, head)
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
        return "safetensors"
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:  # a pickle's protocol number
        return "pickle"
    raise ModelRefused(
        f"{path} is not a whole checkpoint: it begins neither as a safetensors file nor as a file of torch's; "
        "download or copy it again"
    )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}") from error


def _refuse_text(path: Path, head: bytes) -> None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.lower().startswith(_WEB_PAGE):
        raise ModelRefused(
            f"{path} is a web page that was saved under this name, not a checkpoint: download the file itself "
            "(on the hub: the download button, not the file's page, and logged in where the model asks for it)"
        )
    if text.startswith(_GIT_LFS):
        raise ModelRefused(
            f"{path} is a pointer of git-lfs, not the file that it stands for: run 'git lfs pull' in its folder, or "
            "download the file itself"
        )
    if _is_text(head):
        beginning = " ".join(text[:60].decode("utf-8", "ignore").split())
        raise ModelRefused(f"{path} is a text, not a checkpoint (it begins {beginning!r}): download the file itself")


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) < _HEAD_BYTES or error.start < _HEAD_BYTES - 3:  # not a character that the end of `head` cuts
            return False
    return not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head)


def _refuse_others(path: Path, head: bytes) -> None:
    archive = next((name for magic, name in _ARCHIVES.items() if head.startswith(magic)), None)
    if archive is None and head[257:262] == b"ustar":
        archive = "tar"
    if archive is not None:
        raise ModelRefused(f"{path} is a {archive} archive, not a checkpoint: unpack it and name the file inside")
    other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
    if other is not None:
        raise ModelRefused(f"{path} is {other}, not a checkpoint that is read here (.safetensors, or torch's pickles)")


def _zip_kind(path: Path) -> Kind:
    """torch's files are zip files with a data.pkl in them."""
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ModelRefused(
            f"{path} is not a whole checkpoint: it is a zip file whose end is missing or damaged; "
            "download or copy it again"
        ) from error
    if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        raise ModelRefused(f"{path} is a zip archive, not a checkpoint: unpack it and name the file inside")
    return "pickle"


def strings_of(path: Path) -> list[str]:
    """The strings in a file of either kind, the tensors' names among them, without loading it; none if it is damaged.

    A pickle's operations are read, not run. Torch's format from before 2020 is not a zip file, and gives none.
    """
    try:
        if zipfile.is_zipfile(path):
            return _pickled_strings(path)
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return list(json.loads(file.read(size))) if size <= _LARGEST_HEADER else []
    except (zipfile.BadZipFile, OSError, ValueError, StopIteration, RecursionError):
        return []


def _pickled_strings(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as file:
        name = next(name for name in file.namelist() if name.endswith("data.pkl"))
        with file.open(name) as part:
            data = part.read(_LARGEST_PICKLE)
    return [value for _, value, _ in pickletools.genops(data) if isinstance(value, str)]
