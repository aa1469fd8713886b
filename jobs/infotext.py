"""Infotext: what a picture's `parameters` text says, in the form of AUTOMATIC1111's web interface.

The grammar is that of modules/infotext_utils.py there: parse_generation_parameters reads it, quote and unquote are its
values. docs/canny2image.md has it in words.

    infotext = [prompt LF] ["Negative prompt: " negative LF] settings
    settings = setting *("," setting)              the last line, if three settings or more are found in it
    setting  = name ":" (JSON string / text without a comma)
    name     = two or more letters, digits, "_", " ", "-" and "/", of which the first is a letter, a digit or "_"

A reader strips the text and each of its lines. Every line that begins with `Negative prompt:` begins the negative
prompt, or goes on with it. The format cannot quote a prompt, so the writer changes what would be read as something else
into what is read as it was meant: see `write_infotext`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

NEGATIVE = "Negative prompt:"
FEWEST_SETTINGS = 3  # a last line with fewer of them belongs to a prompt
NEEDS_QUOTES = re.compile(r'[,:"\x00-\x1f\x7f]')

_LINE_LIKE_A_NEGATIVE = re.compile(r"(?m)^(\s*)N(?=egative prompt:)")
_QUOTED = re.compile(r'"(?:\\.|[^\\"])+"(?=,|$)')
_SIZE = re.compile(r"(\d{1,9})x(\d{1,9})")
_NAME_SIGNS = frozenset(" -/")


@dataclass(frozen=True)
class Infotext:
    """A picture's prompt, negative prompt and settings by name, as text."""

    prompt: str
    negative: str
    settings: Mapping[str, str]

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels, where `Size` says them."""
        match = _SIZE.fullmatch(self.settings.get("Size", ""))
        return (int(match[1]), int(match[2])) if match else None


def write_infotext(info: Infotext) -> str:
    """The text. Settings without a value are left out.

    A line of a prompt that begins with `Negative prompt:` would be read as the beginning of the negative prompt. It is
    written with a small n, which a reader takes for what it is, and which means the same to CLIP: its tokenizer makes
    all letters small.
    """
    lines = [_LINE_LIKE_A_NEGATIVE.sub(r"\1n", info.prompt)]
    if info.negative:
        first, *others = info.negative.split("\n")
        lines += [f"{NEGATIVE} {first}", *(_LINE_LIKE_A_NEGATIVE.sub(r"\1n", line) for line in others)]
    lines.append(", ".join(f"{name}: {quoted(value)}" for name, value in info.settings.items() if value))
    return "\n".join(lines).strip()


def read_infotext(text: str) -> Infotext:
    """Prompt, negative prompt and settings, by the rules of the web interface. Any text can be read; time is linear."""
    *lines, last = text.strip().split("\n")
    settings = dict(_settings(last)) if sum(1 for _ in _settings(last)) >= FEWEST_SETTINGS else {}
    if not settings:
        lines.append(last)
    prompts: tuple[list[str], list[str]] = ([], [])
    is_negative = False
    for line in map(str.strip, lines):
        begins = line.startswith(NEGATIVE)
        is_negative = is_negative or begins
        prompts[is_negative].append(line.removeprefix(NEGATIVE).strip() if begins else line)
    # The web interface puts a line end before a line only where there is text already.
    prompt, negative = ("\n".join(part).lstrip("\n") for part in prompts)
    return Infotext(prompt, negative, settings)


def quoted(value: str) -> str:
    """The value as it is, or as a JSON string where it would end early: web interfaces read both."""
    return json.dumps(value, ensure_ascii=False) if NEEDS_QUOTES.search(value) else value


def unquoted(value: str) -> str:
    """A JSON string as its text; anything else as it is."""
    if len(value) < 2 or not value[0] == value[-1] == '"':
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def read_unit(text: str) -> dict[str, str]:
    """The fields of a ControlNet unit, names in small letters: `Module: canny, Weight: 1` and its older spellings."""
    fields: dict[str, str] = {}
    for name, value in _pairs(text):
        fields[name.lower()] = value.strip()
    return fields


def _settings(line: str) -> Iterator[tuple[str, str]]:
    return ((name, unquoted(value)) for name, value in _pairs(line))


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Names and raw values, left to right, as findall of the web interface's expression finds them.

    That expression looks for a name from every character on, which takes quadratic time on a long word.
    """
    at = 0
    while (colon := line.find(":", at)) >= 0:
        name = _name_before(line, colon, at)
        if name is None:
            at = colon + 1
            continue
        begin = colon + 1
        while begin < len(line) and line[begin].isspace():
            begin += 1
        match = _QUOTED.match(line, begin)
        end = match.end() if match else line.find(",", begin)
        end = len(line) if end < 0 else end
        yield name, line[begin:end]
        at = end + 1


def _name_before(line: str, colon: int, begin: int) -> str | None:
    """The longest name that ends at the colon."""
    first = colon
    while first > begin and (line[first - 1] in _NAME_SIGNS or line[first - 1].isalnum() or line[first - 1] == "_"):
        first -= 1
    name = line[first:colon].lstrip(" -/")
    return name if len(name) > 1 else None
