"""What a prompt is warned of where its weights are applied (`prompt_syntax` weighted), beside prompt_kinds.py.

Weights, brackets and escapes are applied then, so they are not warned of. The rest of the syntax of AUTOMATIC1111's web
interface is still not applied, and people make mistakes in writing weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from jobs.prompt_kinds import KINDS, PromptKind
from jobs.prompt_weights import weighted_pieces

APPLIED = {"prompt weights", "emphasis brackets", "escaped brackets"}

_BREAK = re.compile(r"\bBREAK\b")
_NUMBER = re.compile(r"\([^()\[\]:\\]{1,400}:(\s{0,4}[+-]?\d[\d.,]{0,9}\s{0,4})\)")
_WEIGHT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_COMMENT = re.compile(r"#[^\n]*")
_ESCAPED = re.compile(r"\\[()\[\]\\]")


def _not_a_weight(prompt: str) -> str | None:
    """`(cat:1,3)` and `(cat:1.2.3)`: the number is text."""
    matches = _NUMBER.finditer(prompt)
    return next((match[0] for match in matches if not _WEIGHT.fullmatch(match[1].strip())), None)


def _comment(prompt: str) -> str | None:
    """`# text`, up to the end of its line."""
    match = _COMMENT.search(prompt)
    return match and match[0]


def _unclosed(prompt: str) -> str | None:
    """The rest of a prompt from the first bracket that is not closed."""
    text = _ESCAPED.sub("  ", prompt)  # of the same length
    for opening, closing in ("()", "[]"):
        begins: list[int] = []
        for position, sign in enumerate(text):
            if sign == opening:
                begins.append(position)
            elif sign == closing and begins:
                begins.pop()
        if begins:
            return prompt[begins[0] :]
    return None


def _break_as_a_word(prompt: str) -> str | None:
    """BREAK inside of brackets."""
    if not _BREAK.search(prompt):
        return None
    pieces = weighted_pieces(prompt)
    return next((piece.text for piece in pieces if not piece.is_break and _BREAK.search(piece.text)), None)


def _break_between(prompt: str) -> str | None:
    """BREAK outside of brackets."""
    if not _BREAK.search(prompt):
        return None
    return "BREAK" if any(piece.is_break for piece in weighted_pieces(prompt)) else None


def _weighted(kind: PromptKind) -> PromptKind:
    """A kind of prompt_kinds.py, with what becomes of it here."""
    if kind.name == "keywords":
        advice = "write one prompt without AND"
        return replace(kind, advice=advice, find=lambda prompt: kind.find(_BREAK.sub("", prompt)))
    if kind.name == "prompt schedules":
        return replace(kind, fate="which are read as words in brackets, at all steps")
    return kind


_SLIPS = (
    PromptKind(
        "numbers that are no weights",
        "which are rendered as words",
        "write the number with a decimal point: (cat:1.3)",
        (r"\(",),
        _not_a_weight,
    ),
    PromptKind(
        "brackets that are not closed",
        "which reach to the end of the prompt",
        r"close them, or write \( or \[ for the bracket itself",
        (r"[(\[]",),
        _unclosed,
    ),
    PromptKind(
        "comments",
        "which are rendered as words",
        "remove them, as AUTOMATIC1111's web interface leaves out what follows a #",
        ("#",),
        _comment,
    ),
    PromptKind(
        "BREAK within brackets",
        "where it is a word with a negative weight, as in AUTOMATIC1111's web interface",
        "close the brackets before it",
        ("BREAK",),
        _break_as_a_word,
    ),
)
_BREAK_NEEDS_CHUNKS = PromptKind(
    "BREAK",
    "which begins another chunk with long_prompts chunk only, and is left out here",
    "take long_prompts chunk, or remove it",
    ("BREAK",),
    _break_between,
)

IN_CHUNKS = (*(_weighted(kind) for kind in KINDS if kind.name not in APPLIED), *_SLIPS)
CUT = (*IN_CHUNKS, _BREAK_NEEDS_CHUNKS)
_MARKS = re.compile("|".join(dict.fromkeys(mark for kind in _SLIPS for mark in kind.marks)))


def kinds_of(*, chunk: bool) -> Sequence[PromptKind]:
    """The kinds that are looked for; `chunk` is whether BREAK begins another chunk."""
    return IN_CHUNKS if chunk else CUT


def has_slips(prompt: str) -> bool:
    """Whether a kind that is only of this module may find something."""
    return _MARKS.search(prompt) is not None
