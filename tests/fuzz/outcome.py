"""The outcome of a call that may refuse its input: a result, or the sentence of an expected error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def result_or_sentence(call: Callable[[], Value], *errors: type[Exception]) -> Value | str:
    """The result of the call, or the text of one of these errors; other errors are raised."""
    try:
        return call()
    except errors as error:
        sentence = str(error)
    assert sentence, "an error without a word"
    return sentence
