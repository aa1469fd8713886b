"""What a prompt is warned of. A warning is all that happens: the prompt is rendered as its row's syntax reads it.

It is said twice: by the producer as a count when a file is submitted, and by the worker in each result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from jobs.job import DEFAULT_A_PROMPT, DEFAULT_N_PROMPT, RenderParameters
from jobs.prompt_kinds import KINDS, PromptKind, is_plain
from jobs.weighted_kinds import has_slips, kinds_of

REMEMBERED_PROMPTS = 1024  # most cells of a_prompt and n_prompt are alike
LONGEST_EXAMPLE = 40  # characters


class PromptReading(NamedTuple):
    """How prompts are read: whether weights are applied, and whether a prompt may have several chunks."""

    weighted: bool = False
    chunk: bool = False

    @classmethod
    def of(cls, parameters: RenderParameters) -> PromptReading:
        """How the row's parameters say that its prompts are read."""
        return cls(parameters.prompt_syntax == "weighted", parameters.long_prompts == "chunk")


LITERAL = PromptReading()


class PromptRemark(NamedTuple):
    """A kind that was found in a prompt, and the text that was found, quoted and cut to a readable length."""

    kind: PromptKind
    example: str

    def sentence(self, column: str) -> str:
        """`prompt has prompt weights such as '(cat:1.3)', which are taken literally: write the words alone, or ...`."""
        return f"{column} has {self.kind.name} such as {self.example}, {self.kind.fate}: {self.kind.advice}"


def prompt_warnings(parameters: RenderParameters) -> tuple[str, ...]:
    """One sentence for each kind in each prompt of a row; the defaults are not looked at."""
    return tuple(remark.sentence(column) for column, remark in remarks_of(parameters))


def remarks_of(parameters: RenderParameters) -> Sequence[tuple[str, PromptRemark]]:
    """What is found in the prompts of a row, each with its column."""
    reading = PromptReading.of(parameters)
    in_prompt, a_prompt, n_prompt = prompt_remarks(parameters.prompt, reading), parameters.a_prompt, parameters.n_prompt
    if not in_prompt and a_prompt == DEFAULT_A_PROMPT and n_prompt == DEFAULT_N_PROMPT:
        return ()
    in_a_prompt = () if a_prompt == DEFAULT_A_PROMPT else _remembered(a_prompt, reading)
    in_n_prompt = () if n_prompt == DEFAULT_N_PROMPT else _remembered(n_prompt, reading)
    columns = (("prompt", in_prompt), ("a_prompt", in_a_prompt), ("n_prompt", in_n_prompt))
    return [(column, remark) for column, remarks in columns for remark in remarks]


def prompt_remarks(text: str, reading: PromptReading = LITERAL) -> tuple[PromptRemark, ...]:
    """What is found in one prompt, one remark a kind, with the first text of that kind.

    Raises:
        ValueError: weights are applied, and the text's cannot be read (jobs/prompt_weights.py).
    """
    if is_plain(text) and not (reading.weighted and has_slips(text)):
        return ()
    kinds = kinds_of(chunk=reading.chunk) if reading.weighted else KINDS
    found = ((kind, kind.find(text)) for kind in kinds)
    return tuple(PromptRemark(kind, _quoted(example)) for kind, example in found if example is not None)


_remembered = lru_cache(REMEMBERED_PROMPTS)(prompt_remarks)


def _quoted(example: str) -> str:
    example = example.strip()
    return repr(example if len(example) <= LONGEST_EXAMPLE else example[: LONGEST_EXAMPLE - 1] + "…")
