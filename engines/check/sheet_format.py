"""The formats of a contact sheet, by the ending of its file. No torch and no OpenCV here."""

from __future__ import annotations

import os
from pathlib import Path

# Ending -> the longest side that the format takes, in pixels.
LONGEST_SIDES = {".png": 2**31 - 1, ".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
NAMES = ".png, .jpg, .jpeg or .webp"


def refusal(path: Path, height: int = 0) -> str | None:
    """Why no sheet of this height in pixels can be written to the file, as a sentence; None if one can."""
    ending = path.suffix.lower()
    if ending not in LONGEST_SIDES:
        said = f"the ending {path.suffix!r} names no format of a sheet" if ending else "its name has no ending"
        return f"{path}: {said}; name a file that ends in {NAMES}"
    if path.is_dir():
        return f"{path} is a folder; name a file that ends in {NAMES}"
    around = next(parent for parent in path.absolute().parents if parent.exists())
    if not around.is_dir() or not os.access(around, os.W_OK):
        why = "is not a folder" if not around.is_dir() else "may not be written to"
        return f"the sheet cannot be written to {path}: {around} {why}"
    if height > LONGEST_SIDES[ending]:
        longest = f"{ending} takes {LONGEST_SIDES[ending]} at most"
        return f"{path}: the sheet is {height} pixels high, and {longest}; name a .png, or fewer pictures (--worst)"
    return None
