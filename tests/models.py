"""A tiny random model and engine sets of it, made once and kept under build/ until their recipe changes.

from tests.models import tiny_engine_set, tiny_model
"""

from __future__ import annotations

import fcntl
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from engines.build.builder import BuildRequest, build_set
from engines.spec import Profile
from tools import ROOT

CACHE = ROOT / "build" / "test-models"
WIDTHS = (16, 32, 32, 32)
SHAPE = "64x64:512x512"


def tiny_model(widths: tuple[int, ...] = WIDTHS) -> Path:
    """A folder with model/ and controlnet/ in diffusers layout, from examples/random-model."""
    folder = CACHE / ("random-" + "-".join(map(str, widths)))
    with locked(folder):
        _recipe().make(folder, widths=widths)
    return folder


def tiny_engine_set(
    backend: str = "onnxruntime",
    *,
    widths: tuple[int, ...] = WIDTHS,
    shapes: tuple[str, ...] = (SHAPE,),
    max_batch: int = 4,
    context_chunks: int = 1,
) -> Path:
    """A finished fp32 engine set of the tiny model; the build itself decides what is up to date."""
    model = tiny_model(widths)
    shape_names = "_".join(shape.replace(":", "-") for shape in shapes)
    out = CACHE / f"{model.name}-{backend}-{shape_names}-batch{max_batch}"
    if context_chunks > 1:
        out = out.with_name(f"{out.name}-context{context_chunks}")
    request = BuildRequest(
        model=str(model / "model"),
        controlnet=str(model / "controlnet"),
        out=out,
        backend=backend,
        precision="fp32",
        profiles=tuple(Profile.parse(shape, max_batch=max_batch, context_chunks=context_chunks) for shape in shapes),
    )
    with locked(out):
        build_set(request)
    return out


def _recipe() -> ModuleType:
    path = ROOT / "examples" / "random-model" / "make.py"
    spec = importlib.util.spec_from_file_location("random_model_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Test processes run at the same time; the first makes, the others wait and find it made."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
