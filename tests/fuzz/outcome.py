"""What came of a call that may refuse: its result, or the sentence of an error that it may end with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def result_or_sentence(call: Callable[[], Value], *errors: type[Exception]) -> Value | str:
    """The result, or the text of one of these errors; all others pass."""
    try:
        return call()
    except errors as error:
        sentence = str(error)
    assert sentence, "an error without a word"
    return sentence
