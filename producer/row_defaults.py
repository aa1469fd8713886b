"""The options of `producer submit` that say what empty cells of a column mean in one file."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from jobs.job import DEFAULT_A_PROMPT, DEFAULT_N_PROMPT, LONGEST_PROMPT, RenderParameters
from producer.exits import CommandFailed, Exit
from producer.table.columns import COLUMNS, Value, parse_prompt

PROMPTS = ("prompt", "a_prompt", "n_prompt")
# The text of each option that is left out. Giving the default counts as leaving the option out.
UNSAID = {
    "a_prompt": DEFAULT_A_PROMPT,
    "n_prompt": DEFAULT_N_PROMPT,
    "control": "canny",
    "format": "png",
    "long_prompts": "cut",
    "prompt_syntax": "literal",
}

# The end of a sentence about submitting a file again, if the earlier options are not known.
SAME_OPTIONS = " (with the same options, if it had any)"


def row_defaults(given: Mapping[str, str | None]) -> dict[str, str]:
    """The cells that options set, by column, as text. A blank prompt and `<empty>` are empty; None is not set.

    Raises:
        CommandFailed: a value that its column does not take.
    """
    return {
        column: _prompt(column, text) if column in PROMPTS else _cell(column, text)
        for column, text in given.items()
        if text is not None
    }


def values_of(defaults: Mapping[str, str]) -> dict[str, Value]:
    """The texts of `row_defaults` as values of their columns."""
    return {column: COLUMNS[column].parse(text) for column, text in defaults.items()}


def option(column: str) -> str:
    """The option of a column: `--n-prompt`."""
    return f"--{column.replace('_', '-')}"


def _prompt(column: str, text: str) -> str:
    if len(text) > LONGEST_PROMPT:
        allowed = COLUMNS[column].allowed
        raise CommandFailed(Exit.USAGE, f"{option(column)} has {len(text):,} characters; allowed: {allowed}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that are not UTF-8 come as surrogates
        raise CommandFailed(Exit.USAGE, f"{option(column)} is not UTF-8 text; write it in UTF-8") from error
    return "" if text.isspace() else parse_prompt(text)


def _cell(column: str, text: str) -> str:
    """The value as text, in one spelling: a file joins its batch again whichever of them is given."""
    refusal = CommandFailed(Exit.USAGE, f"{option(column)} {text!r}: allowed: {COLUMNS[column].allowed}")
    try:
        value = COLUMNS[column].parse(text)
        RenderParameters.model_validate({"image": "-", "prompt": "-", column: value} | _needed_by(column))
    except (ValueError, ValidationError) as error:
        raise refusal from error
    return str(value)


def _needed_by(column: str) -> dict[str, str]:
    return {"format": "jpeg"} if column == "quality" else {}
