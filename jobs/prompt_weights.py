"""Weights in prompts, by the rules of AUTOMATIC1111's web interface (modules/prompt_parser.py, parse_prompt_attention).

    (text)        1.1 times as much            \\( \\) \\[ \\]    a bracket as text
    (text:1.3)    1.3 times as much            \\\\             a backslash as text
    [text]        1.1 times less               BREAK          the rest begins another chunk

Brackets nest, and their factors multiply. A bracket that is not closed reaches to the end; one that was not opened is
text. Two of its rules may surprise. A backslash before anything else disappears. BREAK inside of brackets is a word,
and the word's weight is negative, since its mark, the weight -1, is multiplied like all others.

Only a number of digits with at most one point, alone between `:` and `)`, is a weight; there may be spaces around it.
Where the original ends with an error, as for `(cat:1.2.3)`, the number is text here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

FACTOR = 1.1
# Weights beyond these are mistakes, and float16 engines would give NaN.
LARGEST_WEIGHT = 100.0
# Each bracket is a factor of 1.1, and 1.1 ** 50 is more than the largest weight.
DEEPEST = 100
LONGEST_EXAMPLE = 40  # characters

_SIGN = re.compile(
    r"""
      \\(?P<escaped>[()\[\]\\]?)                          # a lone backslash stands for nothing
    | (?P<open>[(\[])
    | :\s*(?P<weight>[+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*(?P<ends>\))
    | (?P<close>[)\]])
    | (?P<text>[^\\()\[\]:]+|:)
    """,
    re.VERBOSE,
)
# As \s*\bBREAK\b\s*, but the time for a long run of spaces does not grow with its square: `--again` reads texts of up
# to 1 MiB.
_BREAK = re.compile(r"(?:(?<!\s)\s+)?\bBREAK\b\s*")


class Weighted(NamedTuple):
    """A piece of a prompt, and the factor of its tokens' encodings."""

    text: str
    weight: float

    @property
    def is_break(self) -> bool:
        """No text: what follows begins another chunk."""
        return self == BREAK


BREAK = Weighted("BREAK", -1.0)


def weighted_pieces(prompt: str) -> list[Weighted]:
    """A prompt's pieces, in order; neighbours have different weights. An empty prompt has one empty piece.

    Raises:
        ValueError: brackets are nested deeper than DEEPEST; the sentence says so.
    """
    reading = _Reading()
    for match in _SIGN.finditer(prompt):
        reading.take(match)
    return _merged(reading.ended())


def is_text_alone(prompt: str) -> bool:
    """Whether a prompt has no brackets, backslashes or BREAK that mean something where weights are applied."""
    try:
        return weighted_pieces(prompt) == [Weighted(prompt, 1.0)]
    except ValueError:  # brackets too deep to be read
        return False


def check_weights(prompt: str, column: str) -> None:
    """Raises ValueError for brackets or weights that are not rendered; the sentence says what is allowed."""
    try:
        pieces = weighted_pieces(prompt)
    except ValueError as error:
        raise ValueError(f"{column} {error}") from error
    for piece in pieces:
        if not abs(piece.weight) <= LARGEST_WEIGHT:
            shown = piece.text.strip()[:LONGEST_EXAMPLE]
            raise ValueError(
                f"{column} gives {shown!r} the weight {piece.weight:g}; allowed with prompt_syntax weighted: "
                f"{-LARGEST_WEIGHT:g} to {LARGEST_WEIGHT:g}"
            )


class _Reading:
    """The pieces so far, and the brackets that are open: each as the number of the piece that it begins with."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._weights: list[float] = []
        self._open: dict[str, list[int]] = {"(": [], "[": []}

    def take(self, match: re.Match[str]) -> None:
        """The next sign, or the text up to it."""
        if match["open"]:
            self._begin(match["open"])
        elif match["weight"] and self._open["("]:
            self._close("(", float(match["weight"]))
        elif match["close"] == ")" and self._open["("]:
            self._close("(", FACTOR)
        elif match["close"] == "]" and self._open["["]:
            self._close("[", 1 / FACTOR)
        elif match["escaped"] is not None:
            self._add(match["escaped"])
        else:
            for number, text in enumerate(_BREAK.split(match[0])):
                if number:
                    self._add(*BREAK)
                self._add(text)

    def ended(self) -> Iterator[Weighted]:
        """All pieces; brackets that are open reach to here."""
        for bracket, factor in (("(", FACTOR), ("[", 1 / FACTOR)):
            for begin in self._open[bracket]:
                self._multiply(begin, factor)
        return map(Weighted, self._texts, self._weights)

    def _begin(self, bracket: str) -> None:
        opened = self._open[bracket]
        if len(opened) >= DEEPEST:
            raise ValueError(f"nests brackets more than {DEEPEST} deep; write a weight instead: (text:1.5)")
        opened.append(len(self._texts))

    def _close(self, bracket: str, factor: float) -> None:
        self._multiply(self._open[bracket].pop(), factor)

    def _multiply(self, begin: int, factor: float) -> None:
        for number in range(begin, len(self._weights)):
            self._weights[number] *= factor

    def _add(self, text: str, weight: float = 1.0) -> None:
        self._texts.append(text)
        self._weights.append(weight)


def _merged(pieces: Iterator[Weighted]) -> list[Weighted]:
    """Neighbours of one weight as one piece."""
    merged: list[Weighted] = []
    for piece in pieces:
        if merged and merged[-1].weight == piece.weight:
            merged[-1] = Weighted(merged[-1].text + piece.text, piece.weight)
        else:
            merged.append(piece)
    return merged or [Weighted("", 1.0)]
