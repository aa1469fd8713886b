"""A configuration in a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engines.errors import ModelRefused


def read_json(path: Path, *, missing: str) -> dict[str, Any]:
    """The fields of a JSON object. `missing` is the sentence for a file that is not there.

    Raises:
        ModelRefused: it is missing, cannot be read, is not JSON, or holds something else.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelRefused(missing) from error
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelRefused(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelRefused(f"{path} is not a configuration: it holds {type(config).__name__}, no fields by name")
    return config
