"""Kinds of text in a prompt that will not do what its writer means.

Two sources: the syntax of other tools (A1111, ComfyUI, compel, dynamic prompts, Midjourney), and what programs and
spreadsheets write for an error or for nothing (prompt_values.py). The patterns are chosen for few false alarms:
`a cat (sitting)`, `a 16:9 photo`, `chapter (3:16)`, `SALT AND PEPPER` and `C++` are plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from jobs.prompt_values import accident, is_nothing

EMPTY = "<empty>"  # how a CSV says that a prompt is empty; an empty cell takes the default
LARGEST_WEIGHT = 10.0  # `(ISO:100)` is not a weight
LONGEST_SCHEDULE = 400  # characters between brackets; with longer ones, nested brackets would take long

LITERALLY, NOT_LOADED = "which are taken literally", "which are not loaded"
OR_APPLY = "or set prompt_syntax to weighted"
WRITE_IT_OUT = "nothing is chosen or filled in: write the text itself"


@dataclass(frozen=True, slots=True)
class PromptKind:
    """A kind of text to warn of: what it is (in the plural), what becomes of it, and what to do.

    `find` returns the first such text in a prompt, or None. Every prompt that has one matches one of the patterns
    `marks`, or is a value that stands for nothing. Most prompts are searched for the marks of all kinds and for nothing
    else: each begins with a character as it is, and a rare one, so that this is quick.
    """

    name: str
    fate: str
    advice: str
    marks: tuple[str, ...]
    find: Callable[[str], str | None]


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
_UNCLOSED_WEIGHT = re.compile(r"\(([^():]{1,400}):()(\d?\.\d{1,4})(?=\s{0,4}(?:,|\n|$))(?=[^()]{0,4000}(?:\(|$))")
_ENDS_WITH_A_NUMBER = re.compile(r"(?:^|\s)\d{1,6}(?:[.,]\d{1,3})?$")
_RATIO = re.compile(r"\d(?:[.,]\d{1,3})?")
_F_NUMBER = re.compile(r"(?:^|\s)[fF]$")


def _weight(text: str) -> str | None:
    """`(cat:1.3)`, also without its `)`; neither `(16:9)`, `(at 12:30)`, `(happy, :3)`, `(f: 1.8)` nor `(ISO:100)`."""
    for match in _WEIGHT.finditer(text):
        start = text.rfind("(", 0, match.start())
        if start >= 0 and _is_weight(text[start + 1 : match.start()], space=match[1], number=match[2]):
            return text[start : match.end()]
    for match in _UNCLOSED_WEIGHT.finditer(text):
        if _is_weight(match[1], space=match[2], number=match[3]):
            return match[0]
    return None


def _is_weight(words: str, *, space: str, number: str) -> bool:
    """Whether these words, before a colon, and this number, behind it and some space, are a weight."""
    if not words.strip() or _RATIO.fullmatch(words) or abs(float(number)) > LARGEST_WEIGHT:
        return False
    if "." not in number:
        return not (space or words[-1].isspace() or _ENDS_WITH_A_NUMBER.search(words))
    return words[-1].isspace() or not (space or _F_NUMBER.search(words))  # `(Ratio: 1.85)` is how people write


_SQUARE = re.compile(r"\[([^\[\]]{1,400})\]")
_SQUARE_BRACKET = re.compile(r"[\[\]]")
_SCHEDULED = re.compile(r"\||:\s{0,4}\d{0,4}\.?\d{1,4}\s{0,4}$")
_ROUND = re.compile(
    r"\({2,9}[^()]{1,400}\){2,9}|\({2,9}[^()]{1,400}\)[^()]{0,400}\)|(?<![\w:;=-])\({2,9}(?=[^\W_])[^()]{1,400}"
)
_UNCLOSED_SQUARE = re.compile(r"(?<![^\s,(])\[(?=[^\W\d_])[^\[\]]{1,4000}+(?=\[|\Z)")


def _schedule(text: str) -> str | None:
    """`[cat:dog:0.5]` and `[cat|dog]`, also with brackets inside, as in `[[cat]|dog]`."""
    begins: list[int] = []
    for match in _SQUARE_BRACKET.finditer(text):
        begin, end = match.span()
        if match[0] == "[":
            begins.append(end)
        elif begins:
            opened = begins.pop()
            if begin - opened <= LONGEST_SCHEDULE and _SCHEDULED.search(text, opened, begin):
                return text[opened - 1 : end]
    return None


def _emphasis(text: str) -> str | None:
    """`((cat))` and `[cat]`, also where a bracket is not closed, but not `[1]`."""
    for match in _SQUARE.finditer(text):
        if any(map(str.isalpha, match[1])) and not _SCHEDULED.search(match[1]):
            return match[0]
    match_ = _ROUND.search(text) or _UNCLOSED_SQUARE.search(text)
    return match_[0] if match_ else None


_KEYWORD = re.compile(r"(?<![\w'\"])(?:AND|BREAK)(?![\w'\"])")
_PUNCTUATION = ",.;:!?'\"“”‘’()"


def _keyword(text: str) -> str | None:
    """`AND` and `BREAK`, but neither in quotes nor in `100% COTTON AND 5% WOOL` and `COFFEE BREAK`."""
    for match in _KEYWORD.finditer(text):
        before = text[max(0, match.start() - 40) : match.start()].rpartition(" ")[0].split(" ")[-1]
        after = text[match.end() : match.end() + 40].lstrip().partition(" ")[0]
        if not (_in_capitals(before, after) if match[0] == "AND" else _beside_capitals(before, after)):
            return match[0]
    return None


def _in_capitals(*words: str) -> bool:
    """Whether the words beside `AND` have capitals and no small letters, digits and punctuation aside."""
    stripped = [word.strip(_PUNCTUATION) for word in words]
    together = "".join(stripped)
    return all(stripped) and together.upper() == together != together.lower()


def _beside_capitals(before: str, after: str) -> bool:
    """Whether a word beside `BREAK` is in capitals; a comma before it begins another part."""
    return any(word.isalpha() and word.isupper() for word in (before, after.strip(_PUNCTUATION)))


def _emphasis_of_compel(text: str) -> str | None:
    """`cat++`, `(a cat)1.3`, and `dog--` as a part between commas; neither `Google++`, `C++`, `(2)1.5` nor `wait--`."""
    for match in _PLUSES.finditer(text):
        if not match[0][0].isupper():
            return match[0]
    match_ = _MINUSES.search(text)
    return match_[1] if match_ else _OF_COMPEL(text)


_PLUSES = re.compile(r"(?<![\w+-])(?!(?:notepad|libstdc|libc)\+)[^\W\d_]{3,40}\+{2,5}(?![\w+])")
_MINUSES = re.compile(r"(?:,\s{0,4}|^(?=[^,]{3,60},))([^\W\d_]{3,40}--)(?=\s{0,4}(?:,|$))")
_OF_COMPEL = _first(
    r"(?<=\w\))(?:\+{1,5}(?![\w+])|-{2,5}(?![\w-]))",
    r"(?<=[^\W\d_]\))\d\.\d{1,3}(?!\w)",
    r"(?<=[)\"'\w])\.(?:swap|and|blend)\(",
    with_word_before=True,
)

_SIGNS = r"parking|smoking|entry|exit|thanks|trespassing|swimming|fishing|one\b|way\b"  # `--no parking`
_DUNDERS = "init|main|repr|str|doc|call|new|del|dict|len|iter|enter|exit|getattr|future|pycache|version|all"
_LETTER = r"[^\W\d_]"
_CELL = r"\$?[A-Z]{1,3}\$?\d"

KINDS = (
    PromptKind(
        "prompt weights", LITERALLY, f"write the words alone, {OR_APPLY}", (r":\s{0,4}[+-]?\d{0,4}\.?\d",), _weight
    ),
    PromptKind("emphasis brackets", LITERALLY, f"write the words alone, {OR_APPLY}", (r"\(\(", r"\["), _emphasis),
    PromptKind("prompt schedules", LITERALLY, "write one prompt for all steps", (r"\[",), _schedule),
    PromptKind(
        "extra networks",
        NOT_LOADED,
        "merge them into the model before the engine set is built",
        ("<",),
        _first(r"<[A-Za-z_]{2,20}:(?!//)[^<>]{1,200}>", r"<(?:lora|lyco|hypernet):[^<>\s,]{1,200}"),
    ),
    PromptKind(
        "embeddings",
        NOT_LOADED,
        "describe in words what they stand for",
        (r"g(?:ative|:\S)", "ndv", "-hands-", "_prompt", "-artist", "-picture", "Dream", "_neg", "-neg", "_e621"),
        _first(
            r"(?<!\w)embedding:[^\s,)]{1,80}",
            r"(?<!\w)(?:[Ee]asy[Nn]egative|[Ff]ast[Nn]egative|(?:ng_|NG_)?[Dd]eep[Nn]egative|verybadimagenegative"
            r"|[Jj]uggernaut[Nn]egative|[Cc]yber[Rr]ealistic_[Nn]egative|[Rr]ealistic[Vv]ision-[Nn]egative"
            r"|[Ff][Cc][Nn]egative|negative_hand(?!\w)|badhandv\d|bad-hands-\d|bad_prompt|bad-artist(?!\w)"
            r"|bad-picture-chill|BadDream|UnrealisticDream|[Ee]pi[Cc][Nn]egative|boring_e621)[\w.-]{0,40}",
            r"(?<![\w-])\w{0,30}[_-]neg\d?(?![\w-])",
        ),
    ),
    PromptKind(
        "words in angle brackets",
        LITERALLY,
        f"embeddings and markup are not read, and {EMPTY} must be alone in its cell",
        ("<",),
        _first(r"(?<!\w)<[A-Za-z][\w .-]{0,60}/?>", r"</[A-Za-z][\w.-]{0,60}\s{0,4}>", r"<br\s{0,4}/?>"),
    ),
    PromptKind("keywords", LITERALLY, "write one prompt without AND and BREAK", ("AND", "BREAK"), _keyword),
    PromptKind("braces", LITERALLY, WRITE_IT_OUT, (r"\{",), _first(r"\{(?=[^{}]{0,400}[^\W_])[^{}]{1,400}\}")),
    PromptKind(
        "wildcards",
        LITERALLY,
        WRITE_IT_OUT,
        ("__",),
        _first(rf"(?<!\w)__(?!(?:{_DUNDERS})__)(?=[^\W_]|[*~])[\w /*.~-]{{1,80}}?(?<!_)__(?!_)"),
    ),
    PromptKind(
        "weights of compel",
        LITERALLY,
        "write the words alone",
        (r"\+\+", "--", r"\)[\d+]", r"\.(?:swap|and|blend)\("),
        _emphasis_of_compel,
    ),
    PromptKind(
        "parameters of other programs",
        LITERALLY,
        "use the columns of the CSV",
        ("--", "::", r"g(?:ative|:\S)", "Steps: ", "–a", "—a"),
        _first(
            r"(?<!\S)(?:--|[–—])(?:aspect|ar)\s{0,4}\d{1,4}:\d{1,4}[^,]{0,20}",
            r"(?<!\S)--(?:version|v|niji|quality|q|stylize|s|chaos|c|seed|iw|[sc]w|weird|stop|repeat|steps|cfg)"
            r"\s{1,4}\.?\d[^,]{0,20}",
            rf"(?<!\S)--(?:no|neg|negative|style|[sc]ref)\s{{1,4}}(?!{_SIGNS})\w[^,]{{0,20}}",
            r"(?<!\S)--(?:tile|hd|raw|niji)(?=\s{0,4}(?:$|--))",
            rf"(?<={_LETTER})::-?\d[\d.]{{0,4}}",
            rf"(?<!\S)-?\d[\d.]{{0,4}}::(?=\s{{0,4}}{_LETTER})",
            r"[Nn]egative prompt:",
            r"(?<!\w)Steps: \d{1,4},(?=\s{0,4}(?:Sampler|Schedule type|Seed|Size|CFG scale|Model):)",
            with_word_before=True,
        ),
    ),
    PromptKind(
        "escaped brackets",
        LITERALLY,
        f"write the brackets without the backslash, {OR_APPLY}",
        (r"\\",),
        _first(r"\\[(\[][^()\[\]\\\n]{1,100}\\[)\]]"),
    ),
    PromptKind(
        "values",
        "which programs write for an error or for nothing, and which are rendered as words",
        f"correct it, or write {EMPTY} for an empty prompt",
        ("#", "n(?:an|ull|defined)", "NaN", "None", "NULL"),
        accident,
    ),
    PromptKind(
        "formulas",
        "which are rendered as words",
        "save the values of the spreadsheet, not its formulas",
        ("=",),
        _first(
            rf"\A\s{{0,20}}=[\s(@+-]{{0,5}}(?:[A-Za-z_][\w.]{{1,40}}\(|{_CELL}|\d[\d.]{{0,9}}\s?[*/+&-]\s?{_CELL}"
            r"|'[^']{1,60}'!|[\w.]{1,60}![$A-Z]|\"[^\"]{0,200}\"\s?(?:&|$)).{0,60}"
        ),
    ),
)
_MARKS = re.compile("|".join(dict.fromkeys(mark for kind in KINDS for mark in kind.marks)))


def is_plain(text: str) -> bool:
    """Whether no kind can find anything in a prompt; most prompts are plain, and this is quick."""
    return _MARKS.search(text) is None and not is_nothing(text)
