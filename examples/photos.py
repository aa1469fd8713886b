"""Write the example photographs to examples/photos/: `python examples/photos.py [--out DIR]`.

They come from the installed scikit-image package; nothing is downloaded. All of them are in the public domain (or CC0);
examples/README.md names the authors. Files that are there already, and whole, are left alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

# Name here -> file in skimage/data.
PHOTOS = {
    "astronaut.png": "astronaut.png",
    "camera.png": "camera.png",
    "cat.png": "chelsea.png",
    "clock.png": "clock_motion.png",
    "coffee.png": "coffee.png",
    "gravel.png": "gravel.png",
    "hubble.jpg": "hubble_deep_field.jpg",
    "retina.jpg": "retina.jpg",
    "rocket.jpg": "rocket.jpg",
}


def package_data() -> Path:
    """The folder `data` of the installed scikit-image.

    Raises:
        FileNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec("skimage")  # found, not imported: importing it takes a second
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("scikit-image is not installed: pip install 'batch-renderer[demo]'")
    return Path(spec.submodule_search_locations[0]) / "data"


def write_photos(out: Path) -> list[Path]:
    """Copy the photographs; returns those that were not there or not whole.

    Raises:
        FileNotFoundError: scikit-image is not installed, or no longer carries one of them.
    """
    source = package_data()
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, original in PHOTOS.items():
        data = (source / original).read_bytes()
        path = out / name
        if path.is_file() and path.read_bytes() == data:
            continue
        temporary = path.with_name(f".{name}.part")
        temporary.write_bytes(data)
        temporary.replace(path)
        written.append(path)
    return written


def main() -> int:
    """Write the photographs; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the example photographs.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "photos", help="default: examples/photos")
    out: Path = parser.parse_args().out
    try:
        written = write_photos(out)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(written)} of {len(PHOTOS)} photographs written to {out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
