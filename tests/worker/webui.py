"""How web interfaces read infotext: written after AUTOMATIC1111's reader and its ControlNet extension's.

The rules: the last line is settings if three of them are found in it; a line that begins with `Negative prompt:` begins
the negative prompt; lines are stripped; a setting ends at a comma unless it is a JSON string; WxH becomes two settings.
"""

from __future__ import annotations

import json
import re

SETTING = re.compile(r'\s*(?P<name>\w[\w \-/]+):\s*(?P<value>"(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
SIZE = re.compile(r"^(\d+)x(\d+)$")
NEGATIVE = "Negative prompt:"


def read_infotext(text: str) -> dict[str, str]:
    """`Prompt`, `Negative prompt` and every setting by name; a size by its name with -1 and -2."""
    *lines, last = text.strip().split("\n")
    found = [(match["name"], match["value"]) for match in SETTING.finditer(last)]
    settings = {name: _unquoted(value) for name, value in found}
    if len(found) < 3:
        lines, settings = [*lines, last], {}
    prompts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    current = "Prompt"
    for line in map(str.strip, lines):
        if line.startswith(NEGATIVE):
            current, line = "Negative prompt", line.removeprefix(NEGATIVE).strip()
        prompts[current].append(line)
    read = {name: "\n".join(parts) for name, parts in prompts.items()}
    for name, value in settings.items():
        size = SIZE.match(value)
        read |= {f"{name}-1": size[1], f"{name}-2": size[2]} if size else {name: value}
    return read


def read_unit(text: str) -> dict[str, bool | float | str]:
    """A ControlNet unit's fields: split at commas, each at its one `: `."""
    unit: dict[str, bool | float | str] = {}
    for item in text.split(","):
        name, value = item.strip().split(": ")
        unit["_".join(name.lower().split(" "))] = _value(value)
    return unit


def _value(text: str) -> bool | float | str:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text)
    except ValueError:
        return text


def _unquoted(value: str) -> str:
    if not value[:1] == value[-1:] == '"':
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value
