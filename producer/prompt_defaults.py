"""The options of `producer submit` that say what empty cells of a_prompt and n_prompt mean in one file."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.job import LONGEST_PROMPT
from producer.exits import CommandFailed, Exit
from producer.table.columns import COLUMNS, parse_prompt

# What a sentence about submitting a file again goes on with, where the options of before are not known.
SAME_OPTIONS = " (with the same --a-prompt, --n-prompt and --engine-set, if it had any)"


def prompt_defaults(given: Mapping[str, str | None]) -> dict[str, str]:
    """The prompts that options set, by column. A blank one and `<empty>` are empty; None is not set.

    Raises:
        CommandFailed: a prompt is too long, or is not text.
    """
    return {column: _prompt(column, text) for column, text in given.items() if text is not None}


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
