"""Where weights lie and which they are: a diffusers-layout folder or a hub id, and its digest. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engines.errors import ModelRefused

MODEL_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# Component -> the network that it is made from.
PART_OF = {"clip": "text_encoder", "hint": "controlnet", "controlnet": "controlnet", "unet": "unet", "decoder": "vae"}
_PATTERNS = ("*.json", "*.txt", "*.safetensors", "*.bin")
# What a hub snapshot need not bring: other precisions, other frameworks, the safety checker.
_NOT_FETCHED = ("*.fp16.*", "*non_ema*", "*.ckpt", "*.msgpack", "*.h5", "*.onnx*", "safety_checker/*")


@dataclass(frozen=True)
class Weights:
    """A model and its ControlNet on this machine's disk, as named by the user and as found."""

    model: Path
    controlnet: Path

    @property
    def digest(self) -> str:
        """SHA-256 over every file that the networks are made from, and their places."""
        return files_digest([*_part_files(self.model), *_network_files(self.controlnet, "controlnet")])

    @property
    def config_digest(self) -> str:
        """SHA-256 over the networks' configurations: the same for every checkpoint of the same widths."""
        files = [*_part_files(self.model), *_network_files(self.controlnet, "controlnet")]
        return files_digest([(name, path) for name, path in files if path.name == "config.json"])


def find_weights(model: str, controlnet: str | None = None) -> Weights:
    """Locate both; without `controlnet`, the model's own `controlnet` folder.

    Raises:
        ModelRefused: no such folder, a folder of another layout, or a hub that does not answer.
    """
    folder = _folder(model)
    missing = [part for part in MODEL_PARTS if not (folder / part).is_dir()]
    if missing:
        raise ModelRefused(f"{folder} is not in diffusers' layout: it has no {', '.join(missing)}")
    control = folder / "controlnet" if controlnet is None else _folder(controlnet)
    if not (control / "config.json").is_file():
        hint = "; name one with --controlnet" if controlnet is None else ""
        raise ModelRefused(f"{control} holds no ControlNet (no config.json){hint}")
    return Weights(folder, control)


def _folder(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.suffix or name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1:
        raise ModelRefused(f"{name} is neither a folder nor a hub id")
    return _snapshot(name)


def _snapshot(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(_PATTERNS), ignore_patterns=list(_NOT_FETCHED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ModelRefused(f"{hub_id} is no folder here, and the hub did not give it: {reason}") from error


def _part_files(model: Path) -> Iterator[tuple[str, Path]]:
    for part in MODEL_PARTS:
        yield from _network_files(model / part, part)


def _network_files(folder: Path, label: str) -> Iterator[tuple[str, Path]]:
    for path in sorted({path for pattern in _PATTERNS for path in folder.glob(pattern)}):
        yield f"{label}/{path.name}", path


def files_digest(files: list[tuple[str, Path]]) -> str:
    """SHA-256 over names and contents."""
    lines = [f"{name} {file_sha256(path)}" for name, path in sorted(files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """A file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
