"""Print what an image has to install, one requirement a line: `python3 requirements.py pyproject.toml [EXTRA ...]`.

The images install dependencies in a layer of their own, which depends on this output alone: a change of the code, or of
another part of pyproject.toml, does not download torch again.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

# `batch-renderer[worker]` in an extra stands for that extra's own requirements.
_OWN = re.compile(r"batch-renderer\[([a-z0-9,-]+)\]")


def requirements(project: dict[str, Any], extras: list[str]) -> list[str]:
    """The base install's requirements and those of `extras`, without doubles.

    Raises:
        KeyError: the project has no such extra.
    """
    lines = list(project["dependencies"])
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            own = _OWN.fullmatch(line)
            lines += requirements(project, own[1].split(",")) if own else [line]
    return list(dict.fromkeys(lines))


def main() -> int:
    """Print the requirements; returns the exit code."""
    project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
    extras = [extra for argument in sys.argv[2:] for extra in argument.split(",") if extra]
    try:
        lines = requirements(project, extras)
    except KeyError as unknown:
        known = ", ".join(sorted(project["optional-dependencies"]))
        print(f"EXTRAS: pyproject.toml has no extra {unknown.args[0]!r}; it has {known}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
