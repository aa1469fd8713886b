"""Rules for configuration fields: which are used, which must have one value, and which change nothing here.

A field that no rule names is refused: a picture that differs because of a field that nobody read would be wrong without
a word. Names that begin with '_' are notes of the library that wrote the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.errors import ModelRefused


@dataclass(frozen=True)
class Used:
    """The field is read: it decides sizes, or the arithmetic."""

    what: str


@dataclass(frozen=True)
class MustBe:
    """Only these values are built here; `what` says what others would mean."""

    values: tuple[Any, ...]
    what: str


@dataclass(frozen=True)
class Ignored:
    """The field changes nothing here; `why` says so."""

    why: str


Rule = Used | MustBe | Ignored
Rules = Mapping[str, Rule]


def check_fields(where: str, config: Mapping[str, Any], rules: Rules) -> None:
    """Hold a configuration against its rules. `where` names it in messages, such as the path of its file.

    Raises:
        ModelRefused: naming the first field that is not known, or that has another value than the one built here.
    """
    for name, value in config.items():
        rule = rules.get(name)
        if name.startswith("_") or isinstance(rule, Used | Ignored):
            continue
        if rule is None:
            raise ModelRefused(
                f"{where} has the field {name!r} ({value!r}), which this version does not know: it may change the "
                "picture, so the model is refused"
            )
        if not any(_same(value, allowed) for allowed in rule.values):
            allowed = " or ".join(map(repr, rule.values))
            raise ModelRefused(f"{where} has {name} {value!r} ({rule.what}); only {allowed} is rendered here")


def _same(value: Any, allowed: Any) -> bool:
    """Equality of JSON values: lists equal tuples, and true does not equal 1."""
    if isinstance(value, list | tuple) and isinstance(allowed, list | tuple):
        return len(value) == len(allowed) and all(_same(one, other) for one, other in zip(value, allowed, strict=True))
    if isinstance(value, bool) or isinstance(allowed, bool):
        return value is allowed
    return bool(value == allowed)
