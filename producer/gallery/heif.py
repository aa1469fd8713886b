"""HEIC and AVIF in a gallery: whether this machine reads them, and what is said where it does not.

No browser but Safari shows a HEIC, so without a small copy there is nothing to look at.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from PIL import features

from producer.headers.heif import LONGEST_BRANDS, heif_kind

WITHOUT_LIBRARY = {
    "HEIC": "a HEIC, which this machine cannot show: run pip install 'batch-renderer[heic]', and then producer gallery "
    "again",
    "AVIF": "an AVIF, which the Pillow of this machine cannot show: install Pillow 11.3 or later, and run producer "
    "gallery again",
}


def missing_library(data: bytes) -> str | None:
    """Why this machine shows no picture of such a file, as a sentence; None where it does, and for other files.

    Where pillow-heif is installed, Pillow reads HEIC from now on.
    """
    kind = heif_kind(data[:LONGEST_BRANDS])
    return None if kind is None or _is_read(kind) else WITHOUT_LIBRARY[kind]


def is_out_of_date(problem: str | None) -> bool:
    """Whether a problem was that a library is missing, which is installed now."""
    return any(problem == said and _is_read(kind) for kind, said in WITHOUT_LIBRARY.items())


@cache
def _is_read(kind: str) -> bool:
    if kind == "AVIF":
        return bool(features.check("avif"))
    try:
        library: Any = import_module("pillow_heif")
    except ImportError:
        return False
    # Other pictures decode beside it. Thumbnails, depth maps and other pictures in the file are left alone.
    library.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return True
