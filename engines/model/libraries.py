"""diffusers, transformers and what they need: imported when first used, and kept off stderr while they work."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch._dynamo", "diffusers", "transformers")


def library(name: str) -> Any:
    """An imported module; callers know its API."""
    return importlib.import_module(name)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Drop the model libraries' warnings, progress bars and log lines below ERROR inside the block."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _TALKATIVE:
            _set_level(name, logging.ERROR)
        _without_progress_bars()
        try:
            yield
        finally:
            for name, level in levels.items():
                _set_level(name, level)


def _set_level(name: str, level: int) -> None:
    """Unless it has that level: setting one makes logging forget what it knows of every logger, which takes time."""
    logger = logging.getLogger(name)
    if logger.level != level:
        logger.setLevel(level)


def _without_progress_bars() -> None:
    for name in ("diffusers", "transformers"):
        library(f"{name}.utils.logging").disable_progress_bar()
