"""Rules for configuration fields: which are used, which must have one value, and which change nothing here.

A field that no rule names is refused: a picture that differs because of an ignored field would be wrong without
an error. Names that begin with '_' are notes of the library that wrote the file, unless a rule names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from reprlib import Repr
from typing import Any

from engines.errors import ModelRefused

# Values are shown in messages: a long list, or one that holds itself (yaml can say that), must not fill the screen.
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = _SHORT.maxtuple = 8
_SHORT.maxlevel = 3
_LARGE = 1e300
_MANY = 1000


@dataclass(frozen=True)
class Kind:
    """What a used field's value must be: `words` says it in a message, such as 'a positive whole number'."""

    words: str
    holds: Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(value: Any) -> bool:
    # Compared, not converted: a whole number of a thousand digits does not fit a float. Comparisons with NaN are false.
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGE < value < _LARGE


def _four(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4 and all(map(_whole, value))


ANYTHING = Kind("anything", lambda _: True)
WHOLE = Kind("a positive whole number", _whole)
FEW = Kind(f"a whole number from 1 to {_MANY}", lambda value: _whole(value) and value <= _MANY)
POSITIVE = Kind("a positive number", lambda value: _number(value) and value > 0)
FOUR = Kind("a list of four positive whole numbers", _four)
ONE_OR_FOUR = Kind("a positive whole number, or a list of four", lambda value: _whole(value) or _four(value))


@dataclass(frozen=True)
class Used:
    """The field is read: it decides sizes, or the arithmetic. Values of another kind are refused."""

    what: str
    kind: Kind = ANYTHING


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


def check_fields(
    where: str, config: Mapping[str, Any], rules: Rules, *, defaults: Mapping[str, Any] | None = None
) -> None:
    """Hold a configuration against its rules. `where` names it in messages, such as the path of its file.

    A rule's name may have dots: it is the way through nested mappings. `defaults` are the values that fields have where
    the configuration does not name them; defaults that no rule names are not looked at.

    Raises:
        ModelRefused: naming the first field that has another value than those built here, or that is not known. Rules
            go first, in their order: a field that tells what kind of model this is says more than an unknown one.
    """
    found = flattened(where, config, rules)
    for name, rule in rules.items():
        if name in found:
            _check(f"{where} has {name} {shown(found[name])}", found[name], rule)
        elif defaults is not None and name in defaults:
            value = defaults[name]
            _check(f"{where} does not name {name}, which then is {shown(value)}", value, rule)
    for name, value in found.items():
        if name not in rules and not name.startswith("_"):
            raise ModelRefused(
                f"{where} has the field {name!r} ({shown(value)}), which this version does not know: it may change the "
                "picture, so the model is refused"
            )


def flattened(where: str, config: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """Dotted names -> values: mappings are followed where rules lead into them, and stay whole elsewhere.

    Raises:
        ModelRefused: something else stands where rules lead into a mapping.
    """
    return dict(_fields(where, config, rules))


def check_mapping(where: str, value: object) -> None:
    """Raises ModelRefused unless the value is a mapping of fields."""
    if not isinstance(value, Mapping):
        raise ModelRefused(f"{where} is {shown(value)}, where names and values of fields are due")


def shown(value: object) -> str:
    """A value for a message: its repr, cut where it is long or deep."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not write numbers of more than 4300 digits
        return "a number of thousands of digits"


def _check(says: str, value: Any, rule: Rule) -> None:
    if isinstance(rule, Used) and not rule.kind.holds(value):
        raise ModelRefused(f"{says}, not {rule.kind.words} ({rule.what})")
    if isinstance(rule, MustBe) and not any(_same(value, allowed) for allowed in rule.values):
        allowed = " or ".join(map(repr, rule.values))
        raise ModelRefused(f"{says} ({rule.what}); only {allowed} is rendered here")


def _fields(where: str, config: object, rules: Rules, prefix: str = "") -> Iterator[tuple[str, Any]]:
    check_mapping(f"{where}: {prefix.removesuffix('.')}" if prefix else where, config)
    assert isinstance(config, Mapping), config
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in rules or not any(rule.startswith(f"{name}.") for rule in rules):
            yield name, value
        elif value is not None:  # yaml's "params:" without anything below it
            yield from _fields(where, value, rules, f"{name}.")


def _same(value: Any, allowed: Any) -> bool:
    """Equality of JSON values: lists equal tuples, and true does not equal 1."""
    if isinstance(value, list | tuple) and isinstance(allowed, list | tuple):
        return len(value) == len(allowed) and all(_same(one, other) for one, other in zip(value, allowed, strict=True))
    if isinstance(value, bool) or isinstance(allowed, bool):
        return value is allowed
    return bool(value == allowed)
