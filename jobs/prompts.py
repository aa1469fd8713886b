"""What a prompt is warned of. Every prompt is rendered as it stands, so a warning is all that happens.

It is said twice: by the producer as a count when a file is submitted, and by the worker in each result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from jobs.job import DEFAULT_A_PROMPT, DEFAULT_N_PROMPT, RenderParameters
from jobs.prompt_kinds import KINDS, PromptKind, is_plain

REMEMBERED_PROMPTS = 1024  # most cells of a_prompt and n_prompt are alike
LONGEST_EXAMPLE = 40  # characters


class PromptRemark(NamedTuple):
    """A kind that was found in a prompt, and the text that was found, quoted and cut to a readable length."""

    kind: PromptKind
    example: str

    def sentence(self, column: str) -> str:
        """`prompt has prompt weights such as '(cat:1.3)', which are taken literally: write the words alone`."""
        return f"{column} has {self.kind.name} such as {self.example}, {self.kind.fate}: {self.kind.advice}"


def prompt_warnings(parameters: RenderParameters) -> tuple[str, ...]:
    """One sentence for each kind in each prompt of a row; the defaults are not looked at."""
    return tuple(remark.sentence(column) for column, remark in remarks_of(parameters))


def remarks_of(parameters: RenderParameters) -> Sequence[tuple[str, PromptRemark]]:
    """What is found in the prompts of a row, each with its column."""
    in_prompt, a_prompt, n_prompt = prompt_remarks(parameters.prompt), parameters.a_prompt, parameters.n_prompt
    if not in_prompt and a_prompt == DEFAULT_A_PROMPT and n_prompt == DEFAULT_N_PROMPT:
        return ()
    in_a_prompt = () if a_prompt == DEFAULT_A_PROMPT else _remembered(a_prompt)
    in_n_prompt = () if n_prompt == DEFAULT_N_PROMPT else _remembered(n_prompt)
    columns = (("prompt", in_prompt), ("a_prompt", in_a_prompt), ("n_prompt", in_n_prompt))
    return [(column, remark) for column, remarks in columns for remark in remarks]


def prompt_remarks(text: str) -> tuple[PromptRemark, ...]:
    """What is found in one prompt, one remark a kind, with the first text of that kind."""
    if is_plain(text):
        return ()
    found = ((kind, kind.find(text)) for kind in KINDS)
    return tuple(PromptRemark(kind, _quoted(example)) for kind, example in found if example is not None)


_remembered = lru_cache(REMEMBERED_PROMPTS)(prompt_remarks)


def _quoted(example: str) -> str:
    example = example.strip()
    return repr(example if len(example) <= LONGEST_EXAMPLE else example[: LONGEST_EXAMPLE - 1] + "…")
