"""A job's two prompts as tokens of one length, which is what a guided step takes."""

from __future__ import annotations

from typing import NamedTuple

from engines.spec import MOST_CONTEXT_CHUNKS
from jobs.errors import PromptTooLong
from jobs.job import RenderParameters
from worker.image.tokens import PromptEncoder, Tokens

LONGEST_SHOWN = 60  # characters of what was cut off


class PromptPair(NamedTuple):
    """Both have the same number of chunks: the shorter one ends with empty chunks."""

    cond: Tokens
    uncond: Tokens

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what was cut off either prompt."""
        return _cut("prompt", self.cond) + _cut("n_prompt", self.uncond)


def encode_prompts(tokenizer: PromptEncoder, parameters: RenderParameters, *, prompt: str) -> PromptPair:
    """`prompt`, which holds the row's a_prompt too, and the row's n_prompt, read as the row says."""
    weighted, chunk = parameters.prompt_syntax == "weighted", parameters.long_prompts == "chunk"
    pair = [tokenizer.encode(text, chunk=chunk, weighted=weighted) for text in (prompt, parameters.n_prompt)]
    chunks = max(tokens.chunks for tokens in pair)
    return PromptPair(*(tokenizer.lengthened(tokens, chunks) for tokens in pair))


def check_chunks(needed: int, built: int) -> None:
    """Refuse a job whose prompts have more chunks than its set was built for at the picture's size.

    Raises:
        PromptTooLong: saying what to do. It is the job's fault where no set could be built for so many.
    """
    if needed > MOST_CONTEXT_CHUNKS:
        raise PromptTooLong(
            f"the prompts make {needed} chunks for the text encoder, and no engine set takes more than "
            f"{MOST_CONTEXT_CHUNKS}; shorten them, or take long_prompts cut",
            fault="job",
        )
    if needed > built:
        raise PromptTooLong(
            f"the prompts make {needed} chunks for the text encoder, and the engine set was built for {built}; shorten "
            f"them, take long_prompts cut, or build a set with --context-chunks {needed}"
        )


def _cut(column: str, tokens: Tokens) -> tuple[str, ...]:
    if not tokens.cut:
        return ()
    cut = tokens.cut.strip()
    shown = cut if len(cut) <= LONGEST_SHOWN else cut[: LONGEST_SHOWN - 3] + "..."
    return (f"{column} is too long for {len(tokens.ids)} tokens; cut off: {shown!r}",)
