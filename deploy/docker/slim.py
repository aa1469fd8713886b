"""Make a virtual environment ready for an image: `python3 slim.py SITE_PACKAGES [--without-headers]`.

It takes out what no process of ours reads, and compiles the rest, since a read-only file system keeps nothing that a
process compiles. Run it with the Python of the environment.
"""

from __future__ import annotations

import compileall
import shutil
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

# Tests that libraries install with themselves, and torch's own test programs.
TESTS = (
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
# For compilers, which the CPU image does not have.
HEADERS = ("torch/include", "torch/share")
# botocore describes four hundred services. We talk to the first; the others give it keys.
SERVICES = {"s3", "sts", "sso", "sso-oidc", "signin"}


def take_out(site: Path, *, headers: bool) -> int:
    """Delete what is not needed; returns the number of bytes."""
    found = [path for pattern in TESTS + (HEADERS if headers else ()) for path in site.glob(pattern)]
    data = site / "botocore" / "data"
    found += [path for path in data.glob("*") if path.is_dir() and path.name not in SERVICES]
    taken = 0
    for path in found:
        if path.is_dir():
            taken += sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())
            shutil.rmtree(path)
        elif path.exists():  # not inside a folder that is gone
            taken += path.stat().st_size
            path.unlink()
    return taken


def main() -> int:
    """Slim the site-packages folder that the command line names, and compile what is left."""
    site = Path(sys.argv[1])
    taken = take_out(site, headers="--without-headers" in sys.argv[2:])
    # Some packages carry files for newer versions of Python, which cannot be compiled and are not imported.
    # Unchecked: the sources in an image do not change, and looking at each costs time at every start.
    compileall.compile_dir(site, quiet=2, workers=0, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    print(f"slim: {taken / 1e6:.0f} MB taken out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
