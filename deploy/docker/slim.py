"""Take out of a virtual environment what no process of ours reads: `python3 slim.py SITE_PACKAGES FLAVOUR`.

It prints the number of bytes. What is left is compiled for the image's Python, since a read-only file system could not
keep what a process compiles.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

# Tests that libraries install with themselves, and torch's own test programs.
ALWAYS = (
    "mpmath/tests",
    "networkx/**/tests",
    "numpy/**/tests",
    "onnx/backend/test/data",
    "sympy/**/tests",
    "torch/test",
    "torch/bin/protoc*",
    "torch/bin/*test*",
    "torch/bin/*Test*",
    "torch/lib/*.a",
)
# Headers are for compilers, and the CPU image has none.
CPU = ("torch/include", "torch/share", "numpy/**/include")


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def main() -> int:
    """The command."""
    site, flavour = Path(sys.argv[1]), sys.argv[2]
    taken = 0
    for pattern in ALWAYS + (CPU if flavour == "cpu" else ()):
        for path in sorted(site.glob(pattern)):
            if not path.exists():  # inside a folder that is gone
                continue
            taken += size(path)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"slim: {taken / 1e6:.0f} MB taken out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
