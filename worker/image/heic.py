"""HEIC, the format of phones' cameras: Pillow reads it where pillow-heif is installed."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def heic_is_installed() -> bool:
    """Whether this process can read HEIC; makes Pillow read it.

    Thumbnails, depth maps and other pictures beside the main one are left alone. One thread decodes, because other jobs
    use the other cores.
    """
    try:
        library: Any = import_module("pillow_heif")
    except ImportError:
        return False
    library.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return True
