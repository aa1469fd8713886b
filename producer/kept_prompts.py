"""A file joins its batch again with the prompt options of before only: others would supersede its rows unasked."""

from __future__ import annotations

import shlex

from jobs.job import DEFAULT_A_PROMPT, DEFAULT_N_PROMPT
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import BatchInfo, PromptOptions
from jobs.prompt_options import read_prompt_options
from jobs.storage.store import Store
from producer.exits import CommandFailed, Exit
from producer.prompt_defaults import option
from producer.submission import Request

DEFAULTS = {"a_prompt": DEFAULT_A_PROMPT, "n_prompt": DEFAULT_N_PROMPT}


def prompts_to_keep(ledger: Ledger, store: Store, info: BatchInfo | None, request: Request) -> PromptOptions:
    """The options that a file was first submitted to its batch with: these ones, if it was not. Changes nothing.

    `info` is what the ledger knows of the batch; storage is asked as well, because the ledger may have been lost.

    Raises:
        CommandFailed: it was submitted with others, which mean something else.
    """
    kept = ledger.prompt_options(request.batch, request.origin)
    if kept is None:
        kept = read_prompt_options(store, request.output, request.batch, request.origin)
    if kept is None and info is not None and _was_begun_before(ledger, info, request):
        kept = PromptOptions(source=request.origin, prompts={})
    return _the_same(kept or _given(request), request)


def keep_prompts(ledger: Ledger, options: PromptOptions, request: Request) -> None:
    """Keep the options of a file in the ledger.

    Raises:
        CommandFailed: somebody else has just submitted the file with others.
    """
    _the_same(ledger.keep_prompt_options(request.batch, options), request)


def _was_begun_before(ledger: Ledger, info: BatchInfo, request: Request) -> bool:
    """Whether a version without these options, or a submission without them, began the batch with this file."""
    counts = ledger.counts(info.name)
    return info.source == request.origin and counts.total + counts.superseded > 0


def _given(request: Request) -> PromptOptions:
    return PromptOptions(source=request.origin, prompts=dict(request.prompts))


def _the_same(kept: PromptOptions, request: Request) -> PromptOptions:
    given = _given(request)
    if DEFAULTS | kept.prompts != DEFAULTS | given.prompts:
        raise CommandFailed(
            Exit.USAGE,
            f"batch {request.batch!r} has rows of {request.name} that were submitted {_said(kept, given)}. With other "
            "options, its rows with an empty cell would be rendered again: give the same options, or name another "
            "--batch",
        )
    return kept


def _said(kept: PromptOptions, given: PromptOptions) -> str:
    """`with --n-prompt '' and without --a-prompt`, ready to be copied."""
    said = [f"with {option(column)} {shlex.quote(text)}" for column, text in kept.prompts.items()]
    return " and ".join(said + [f"without {option(column)}" for column in given.prompts if column not in kept.prompts])
