"""What a user names, a folder, a file or a hub id, as a path on this machine. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.errors import ModelRefused
from engines.model.file_kinds import kind_of
from engines.model.weight_files import files_to_fetch
from engines.typed_path import from_home

SINGLE_FILES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
# The hub's client finds a cached repository complete if it has these, of those that the repository has.
_MARKS = ("model_index.json", "config.json", "unet/config.json", "vae/config.json", "text_encoder/config.json")


def path_of(name: str, patterns: Sequence[str] | None = None) -> Path:
    """The folder or file of that name, or the hub repository's folder; `patterns` names the files to fetch.

    Raises:
        ModelRefused: nothing has this name, it is empty or not a file of weights, or the hub does not answer.
    """
    if not name:  # as a path, it is the current folder
        raise ModelRefused("the name of a model is empty; perhaps a shell variable is not set")
    path = from_home(name)
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix.lower() not in SINGLE_FILES:
            raise ModelRefused(f"{name} is a file of a kind that is not read; known are {', '.join(SINGLE_FILES)}")
        kind_of(path)  # a web page is refused before anything is fetched for it
        return path
    is_path = path.suffix in SINGLE_FILES or name.startswith((".", "/", "~")) or name.endswith("/")
    if is_path or name.count("/") > 1:
        raise ModelRefused(f"{name} is neither a folder, nor a file, nor a hub id")
    return snapshot(name, patterns)


def snapshot(hub_id: str, patterns: Sequence[str] | None = None) -> Path:
    """A repository's folder in the hub's cache, with the files that are needed; `patterns` names others.

    Where the hub does not answer, what the cache has is taken.
    """
    from huggingface_hub import HfApi, snapshot_download

    unanswered: Exception | None = None
    try:
        if patterns is None:
            files = HfApi().model_info(hub_id).siblings or []
            patterns = [_literal(name) for name in files_to_fetch([file.rfilename for file in files])]
    except Exception as error:  # noqa: BLE001 (the client's errors differ from version to version)
        unanswered, patterns = error, _MARKS
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns), local_files_only=unanswered is not None))
    except Exception as error:
        reason = " ".join(str(unanswered or error).split())
        raise ModelRefused(f"{hub_id} is not a folder here, and the hub did not give it: {reason}") from error


def _literal(name: str) -> str:
    """A pattern that only this name fits."""
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in name)


def other_layout(folder: Path) -> str:
    """The end of a sentence: what the folder is instead."""
    if (folder / "config.json").is_file():
        return "; it is the folder of one network: name that of the whole model"
    files = sorted(each.name for each in folder.iterdir() if each.suffix.lower() in SINGLE_FILES)
    return f"; it holds {files[0]}, which may be named itself" if files else ""
