"""Packages that the dev extra installs on Linux: missing, they skip a test at a desk and fail it in CI."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def required(module: str) -> Any:
    """The imported module."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = f"{module} does not load ({error}); `pip install -e '.[dev]'` on Linux brings it"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason, allow_module_level=True)
