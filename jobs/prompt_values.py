"""What programs and spreadsheets write for an error or for nothing, as a prompt or in one.

`nan` and `None` are words as well (a bread, a grandmother; `none of them`), so within a prompt they are found only
where a program that puts prompts together leaves them: as a part between commas, behind a preposition, at the end.
"""

from __future__ import annotations

import re

# Cells that stand for nothing or for an error, as pandas, JSON, databases and people write them; in lower case.
_NOTHING = frozenset(
    {"nan", "-nan", "nat", "none", "<none>", "null", "<null>", "(null)", "nil", "undefined", "n/a", "<na>", "\\n"}
    | {"inf", "-inf", "+inf", "-infinity", "true", "false", "-", "--", "''", '""', "[]", "{}", "()", "empty", "(empty)"}
    | {"[empty]", "(none)", "[none]", "[nan]", "[null]", "[object object]"}
)
_LONGEST_NOTHING = 40  # characters
_NOTHING_TOO = re.compile(r"NA|#{3,}|Err:\d{3}|[+-]?\d{1,2}(?:[.,]\d{1,20})?")  # a number alone is of another column
_WORDS = r"(?:nan|NaN|None|null|NULL|undefined)"
_REPEATED = re.compile(rf"{_WORDS}(?:\s{{1,4}}{_WORDS})+")  # columns that were put together

# The errors of Excel, LibreOffice and Google Sheets, and those that Excel translates. `a #SALE! sign` has none.
_ERRORS = (
    r"NULL!|DIV/0!|VALUE!|REF!|NAME\?|NUM!|SPILL!|CALC!|FIELD!|BLOCKED!|UNKNOWN!|CONNECT!|BUSY!|EXTERNAL!|"
    r"PYTHON!|ERROR!|ERR!|WERT!|BEZUG!|ZAHL!|ÜBERLAUF!|KALK!|FELD!|NUL!|VALEUR!|NOM\?|NOMBRE!|PROPAGATION!|"
    r"CALCUL!|¡NULO!|¡DIV/0!|¡VALOR!|¡REF!|¿NOMBRE\?|¡NUM!|¡DESBORDAMIENTO!|¡CALC!|NULLO!|VALORE!|RIF!|NOME\?|"
    r"NULO!|VALOR!|NÚM!|DESPEJAR!|LEEG!|DEEL/0!|WAARDE!|VERW!|NAAM\?|GETAL!|OVERLOOP!|DZIEL/0!|ARG!|ADR!|"
    r"NAZWA\?|LICZBA!|DIVISION/0!|VÄRDEFEL!|REFERENS!|NAMN\?|OGILTIGT!|VÆRDI!|NAVN\?|VERDI!|"
    r"JAKO/0!|ARVO!|VIITTAUS!|NIMI\?|LUKU!|SAYI/0!|DEĞER!|BAŞV!|ПУСТО!|ДЕЛ/0!|ЗНАЧ!|ССЫЛКА!|ИМЯ\?|ЧИСЛО!|"
    r"HODNOTA!|ODKAZ!|NÁZEV\?|ČÍSLO!|ÉRTÉK!|NÉV\?|SZÁM!"
)
_ERROR = re.compile(rf"(?<!\w)#(?:{_ERRORS}|(?:N/A|NV|N/D|N/B|I/T|Н/Д|GETTING_DATA)(?!\w))")

_PART = re.compile(rf"(?:^|,)\s{{0,4}}({_WORDS})\s{{0,4}}(?=,|$)")
_AFTER_A_PREPOSITION = re.compile(
    rf"\b(?:of|by|with|in|and|from|for|to|at|on|like)\s{{1,4}}({_WORDS})\s{{0,4}}(?=[,.]|$)"
)
_AFTER_AN_ARTICLE = re.compile(r"\b(?:a|an|the|of|by|with|in|and)\s{1,4}(None|NaN)(?!\w|\s{1,4}(?:of|other|but)\b)")
_LAST = re.compile(r"(?:^|\s)[a-z0-9][\w-]{0,60},?\s{1,4}(None|NaN)\s{0,4}$")  # not `And Then There Were None`
_QUOTES_IT = re.compile(r"(?:say|says|saying|said|read|reads|reading|word|words|text|is|was)\s{1,4}None\b")
_IS_A_WORD = re.compile(
    r"bread|naan\b|curry|curri|tandoor|masala|roti\b|\bdal\b|garlic|butter|kebab|paneer|chicken|lamb|baked|food|meal|dish|cuisine|dinner|plate|restaurant|kitchen"
    r"|indian|grandm|granny|grandp|family|math|hypothes|javascript|python|programm|\bcode\b|pointer|behaviou?r",
    re.IGNORECASE,
)


def is_nothing(text: str) -> bool:
    """Whether a whole prompt is one of the values that programs write for an error or for nothing."""
    if len(text) > _LONGEST_NOTHING:
        return False
    cell = text.strip()
    return cell.lower() in _NOTHING or _NOTHING_TOO.fullmatch(cell) is not None


def accident(text: str) -> str | None:
    """`nan`, `None` and `#NAME?` as a prompt, or where a program has put one into a prompt."""
    if is_nothing(text) or _REPEATED.fullmatch(text.strip()):
        return text.strip()
    error = _ERROR.search(text)
    if error:
        return error[0]
    return _missing_value(text)


def _missing_value(text: str) -> str | None:
    """`nan, oil painting`, `a photo of nan` and `a red None`; neither `nan, bread` nor `the text says None`."""
    found = _PART.search(text) or _AFTER_A_PREPOSITION.search(text)
    found = found or _AFTER_AN_ARTICLE.search(text) or _LAST.search(text)
    if found is None or _QUOTES_IT.search(text):
        return None
    is_a_word = found[1] not in ("None", "NaN", "NULL") and _IS_A_WORD.search(text)
    return None if is_a_word else found[1]
