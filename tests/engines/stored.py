"""Engine sets of a few bytes, whose manifests are real: for tests that copy sets and load none."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.manifest import MANIFEST, load_manifest
from engines.store.push import place_below
from tests import forked
from tests.models import tiny_engine_set

OF_FILES = "onnxruntime"  # the backend whose set the manifests are made from: it has one file a component


def toy_set(
    folder: Path,
    *,
    content: str = "toy",
    change: Callable[[dict[str, Any]], object] = lambda _: None,
    built_at: float | None = None,
) -> Path:
    """A set whose files hold their name and `content`; `change` edits its manifest. Its digest depends on both."""
    manifest = json.loads((tiny_engine_set(OF_FILES) / MANIFEST).read_text())
    for stage in stages_of(manifest):
        for name in stage["files"]:
            write(folder, stage["files"], name, f"{name} {content}".encode())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    if built_at is not None:
        os.utime(folder / MANIFEST, (built_at, built_at))
    return folder


def stages_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The tokenizer's stage, and those of all components."""
    components = manifest["components"].values()
    return [manifest["tokenizer"], *(stage for each in components for stage in each["stages"].values())]


def write(folder: Path, files: dict[str, str], name: str, data: bytes) -> None:
    """Write a file and note its SHA-256."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    files[name] = hashlib.sha256(data).hexdigest()


def with_plans(folder: Path) -> Callable[[dict[str, Any]], None]:
    """A change of a manifest: each export becomes a stage before a plan, as TensorRT's sets have them."""

    def change(manifest: dict[str, Any]) -> None:
        for name, component in manifest["components"].items():
            plan: dict[str, Any] = {"key": f"plan of {name}", "files": {}}
            write(folder, plan["files"], f"{name}.plan", f"plan of {name}".encode())
            component["stages"] = {"export": next(iter(component["stages"].values())), "plan": plan}

    return change


def digest_of(folder: Path) -> str:
    """The set's digest."""
    return load_manifest(folder).digest


def place_of(folder: Path, root: Path) -> Path:
    """Where `engines push` puts a set below a root that is a folder."""
    from engines.store.bucket import Bucket

    return root / place_below(Bucket(str(root)), load_manifest(folder))


def start(*arguments: object) -> forked.ForkedProcess:
    """`engines` as a process of its own."""
    return forked.start("engines.cli", *arguments, kind="torch")


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
