"""Kinds of text in a prompt that will not do what its writer means.

Two sources: the syntax of other tools (A1111, ComfyUI, compel, dynamic prompts, Midjourney), and what programs and
spreadsheets write for an error or for nothing. The patterns are chosen for few false alarms: `a cat (sitting)`,
`a 16:9 photo`, `chapter (3:16)`, `SALT AND PEPPER` and `C++` are plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

EMPTY = "<empty>"  # how a CSV says that a prompt is empty; an empty cell takes the default
LARGEST_WEIGHT = 10.0  # `(ISO:100)` is no weight

LITERALLY, NOT_LOADED = "which are taken literally", "which are not loaded"
WRITE_IT_OUT = "nothing is chosen or filled in: write the text itself"


@dataclass(frozen=True, slots=True)
class PromptKind:
    """A kind of text to warn of: what it is (in the plural), what becomes of it, and what to do.

    `find` returns the first such text in a prompt, or None. It has one of `marks` in it, which are looked for first.
    """

    name: str
    fate: str
    advice: str
    marks: tuple[str, ...]
    find: Callable[[str], str | None]

    def found_in(self, text: str) -> str | None:
        """The first text of this kind in a prompt, or None."""
        for mark in self.marks:
            if mark in text:
                return self.find(text)
        return None


def _first(*patterns: str, with_word_before: bool = False) -> Callable[[str], str | None]:
    """A search for the first text that one of the patterns matches."""
    compiled = re.compile("|".join(patterns))

    def find(text: str) -> str | None:
        match = compiled.search(text)
        if match is None:
            return None
        return text[text.rfind(" ", 0, match.start()) + 1 : match.end()] if with_word_before else match[0]

    return find


# All patterns have bounded repetitions, so that a prompt of 4,000 characters that was made to be slow is not.
_WEIGHT = re.compile(r":(\s{0,4})([+-]?\d{0,4}\.?\d{1,4})\s{0,4}\)")
_ENDS_WITH_A_NUMBER = re.compile(r"(?:^|\s)\d{1,6}(?:[.,]\d{1,3})?$")
_RATIO = re.compile(r"\d(?:[.,]\d{1,3})?")


def _weight(text: str) -> str | None:
    """`(cat:1.3)`, but neither `(16:9)`, `(at 12:30)`, `(happy, :3)`, `(age: 5)` nor `(ISO:100)`."""
    for match in _WEIGHT.finditer(text):
        start = text.rfind("(", 0, match.start())
        words, space, number = text[start + 1 : match.start()], match[1], match[2]
        if start < 0 or not words.strip() or _RATIO.fullmatch(words) or abs(float(number)) > LARGEST_WEIGHT:
            continue
        if "." not in number and (space or words[-1].isspace() or _ENDS_WITH_A_NUMBER.search(words)):
            continue
        return text[start : match.end()]
    return None


_SQUARE = re.compile(r"\[([^\[\]]{1,400})\]")
_SCHEDULED = re.compile(r"\||:\s{0,4}\d{0,4}\.?\d{1,4}\s{0,4}$")
_ROUND = re.compile(r"\({2,9}[^()]{1,400}\){2,9}|\({2,9}[^()]{1,400}\)[^()]{0,400}\)")


def _schedule(text: str) -> str | None:
    """`[cat:dog:0.5]` and `[cat|dog]`."""
    return next((match[0] for match in _SQUARE.finditer(text) if _SCHEDULED.search(match[1])), None)


def _emphasis(text: str) -> str | None:
    """`((cat))` and `[cat]`, but not `[1]`."""
    for match in _SQUARE.finditer(text):
        if any(map(str.isalpha, match[1])) and not _SCHEDULED.search(match[1]):
            return match[0]
    match_ = _ROUND.search(text)
    return match_[0] if match_ else None


_KEYWORD = re.compile(r"(?<![\w'\"])(?:AND|BREAK)(?![\w'\"])")


def _keyword(text: str) -> str | None:
    """`AND` and `BREAK`, but neither in quotes nor in `SALT AND PEPPER` and `COFFEE BREAK`."""
    for match in _KEYWORD.finditer(text):
        before = text[max(0, match.start() - 40) : match.start()].rpartition(" ")[0].split(" ")[-1]
        after = text[match.end() : match.end() + 40].lstrip().partition(" ")[0].strip(",.;!?'\"")
        upper = [word.isalpha() and word.isupper() for word in (before, after)]
        if not (all(upper) if match[0] == "AND" else any(upper)):
            return match[0]
    return None


# Cells that stand for nothing or for an error, as pandas, JSON, databases and people write them; in lower case.
_NOTHING = frozenset(
    {"nan", "-nan", "nat", "none", "<none>", "null", "<null>", "(null)", "nil", "undefined", "n/a", "<na>", "\\n", "0"}
    | {"0.0", "true", "false", "-", "--", "''", '""', "empty", "(empty)", "[empty]", "(none)", "[object object]"}
)
_LONGEST_NOTHING = 20
_NOTHING_TOO = re.compile(r"NA|#{3,}|Err:\d{3}")
_ERROR = re.compile(r"#N/A\b|#NV\b|#N/D\b|#GETTING_DATA\b|#[A-ZÀ-Þ][A-ZÀ-Þ0-9/]{1,12}[!?]")
_PART = re.compile(r"(?:^|,)\s{0,4}(nan|NaN|None|null|NULL|undefined)\s{0,4}(?=,|$)")


def is_nothing(text: str) -> bool:
    """Whether a whole prompt is one of the values that programs write for an error or for nothing."""
    if len(text) > _LONGEST_NOTHING:
        return False
    cell = text.strip()
    return cell.lower() in _NOTHING or _NOTHING_TOO.fullmatch(cell) is not None


def _accident(text: str) -> str | None:
    """`nan`, `None` and `#NAME?` as a prompt; also as one of its parts, where a program has put them together."""
    if is_nothing(text):
        return text.strip()
    error = _ERROR.search(text)
    if error:
        return error[0]
    part = _PART.search(text)
    return part[1] if part else None


KINDS = (
    PromptKind("prompt weights", LITERALLY, "write the words alone", (":",), _weight),
    PromptKind("emphasis brackets", LITERALLY, "write the words alone", ("((", "["), _emphasis),
    PromptKind("prompt schedules", LITERALLY, "write one prompt for all steps", ("[",), _schedule),
    PromptKind(
        "extra networks",
        NOT_LOADED,
        "merge them into the model before the engine set is built",
        ("<",),
        _first(r"<[A-Za-z_]{2,20}:(?!//)[^<>]{1,200}>"),
    ),
    PromptKind(
        "embeddings",
        NOT_LOADED,
        "describe in words what they stand for",
        ("mbedding:", "egative", "hand", "bad_prompt"),
        _first(
            r"(?<!\w)embedding:[^\s,)]{1,80}",
            r"(?<!\w)(?:[Ee]asy[Nn]egative|badhandv\d|bad-hands-\d|ng_deepnegative|verybadimagenegative"
            r"|bad_prompt_version)[\w.-]{0,40}",
        ),
    ),
    PromptKind(
        "words in angle brackets",
        LITERALLY,
        f"embeddings and markup are not read, and {EMPTY} must be alone in its cell",
        ("<",),
        _first(r"</?[A-Za-z][\w .-]{0,60}/?>"),
    ),
    PromptKind("keywords", LITERALLY, "write one prompt without AND and BREAK", ("AND", "BREAK"), _keyword),
    PromptKind("braces", LITERALLY, WRITE_IT_OUT, ("{",), _first(r"\{[^{}]{1,400}\}")),
    PromptKind("wildcards", LITERALLY, WRITE_IT_OUT, ("__",), _first(r"__[\w*~-][\w /*.-]{0,80}?__")),
    PromptKind(
        "weights of compel",
        LITERALLY,
        "write the words alone",
        ("++", "--", ")+", ")0", ")1", ")2", ")3", ".swap(", ".and(", ".blend("),
        _first(
            r"(?<=[^\W\d_][^\W\d_][^\W\d_])\+{2,5}(?![\w+])",
            r"(?<=[^\W\d_][^\W\d_][^\W\d_])-{2,3}(?=\s{0,4}(?:[,)]|$))",
            r"(?<=\w\))(?:\+{1,5}(?![\w+])|-{2,5}(?![\w-])|\d\.\d{1,3}(?!\w))",
            r"(?<=[)\"'\w])\.(?:swap|and|blend)\(",
            with_word_before=True,
        ),
    ),
    PromptKind(
        "parameters of other programs",
        LITERALLY,
        "use the columns of the CSV",
        ("--", "::", "egative prompt:", "Steps: "),
        _first(
            r"(?<!\S)--(?:aspect|ar|version|v|niji|quality|q|stylize|style|s|chaos|c|no|seed|iw|[sc]ref|[sc]w|tile|weird"
            r"|stop|repeat|hd|test|raw|steps|cfg|neg|negative)(?![\w-])[^,]{0,20}",
            r"(?<=\w)::-?\d[\d.]{0,4}",
            r"(?<!\S)-?\d[\d.]{0,4}::",
            r"[Nn]egative prompt:",
            r"(?<!\w)Steps: \d{1,4}, ",
            with_word_before=True,
        ),
    ),
    PromptKind(
        "escaped brackets",
        LITERALLY,
        "write the brackets without the backslash",
        ("\\",),
        _first(r"\\[()\[\]].{0,20}"),
    ),
    PromptKind(
        "values",
        "which programs write for an error or for nothing, and which are rendered as words",
        f"correct the cell, or write {EMPTY} for an empty prompt",
        ("",),
        _accident,
    ),
    PromptKind(
        "formulas",
        "which are rendered as words",
        "save the values of the spreadsheet, not its formulas",
        ("=",),
        _first(r"\A\s{0,20}=(?:[A-Za-z_]{2}|\$?[A-Z]{1,3}\$?\d|[\"'(@+-]).{0,60}"),
    ),
)
