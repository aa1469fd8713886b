"""Patterns that choose batches by name. A batch's name holds neither * nor ? nor [."""

from __future__ import annotations

from fnmatch import fnmatchcase

WILDCARDS = frozenset("*?[")


def is_pattern(text: str) -> bool:
    """Whether a text is a pattern, and no batch's name."""
    return bool(WILDCARDS & set(text))


def fits(name: str, text: str) -> bool:
    """Whether a name matches a pattern, or holds a text that is not a pattern."""
    return fnmatchcase(name, text) if is_pattern(text) else text in name
