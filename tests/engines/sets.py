"""Copies of engine sets and models that a test may spoil."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from engines.build.builder import BuildRequest
from engines.files import file_sha256
from engines.manifest import MANIFEST, Precision
from engines.spec import Profile
from tests.models import tiny_engine_set, tiny_model

SHAPE = "64x64:128x192"


def copy_of_set(folder: Path, backend: str = "torch") -> Path:
    """The cached tiny set, at folder/set."""
    return Path(shutil.copytree(tiny_engine_set(backend), folder / "set"))


def copy_of_model(folder: Path) -> Path:
    """The tiny model, at folder/weights: model/ and controlnet/."""
    return Path(shutil.copytree(tiny_model(), folder / "weights"))


def request_for(
    weights: Path, out: Path, *, shape: str = SHAPE, backend: str = "torch", precision: Precision = "fp32"
) -> BuildRequest:
    """A small set of a model that lies as `copy_of_model` leaves it."""
    return BuildRequest(
        model=str(weights / "model"),
        controlnet=str(weights / "controlnet"),
        out=out,
        backend=backend,
        precision=precision,
        profiles=(Profile.parse(shape, max_batch=2),),
    )


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a set's manifest in place."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def train_a_little(network: Path) -> None:
    """Change one weight of one network, as any training would."""
    (path,) = network.glob("*.safetensors")
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, path, metadata={"format": "pt"})


def spoil(folder: Path, component: str, factor: float) -> None:
    """What a wrong exporter would do: a finished set with a graph that computes something else."""
    path = folder / f"{component}.onnx"
    graph = onnx.load(path)
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * factor, weight.name))
    onnx.save(graph, path)

    def record(manifest: dict[str, Any]) -> None:
        manifest["components"][component]["stages"]["export"]["files"][path.name] = file_sha256(path)

    edit_manifest(folder, record)
