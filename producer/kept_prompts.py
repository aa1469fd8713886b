"""A file joins its batch again with the options of before only: others would supersede its rows unasked."""

from __future__ import annotations

import shlex

from jobs.ledger.ledger import Ledger
from jobs.ledger.records import BatchInfo, PromptOptions
from jobs.prompt_options import read_prompt_options
from jobs.storage.store import Store
from producer.console import place
from producer.exits import CommandFailed, Exit
from producer.row_defaults import UNSAID, option
from producer.submission import Request


def prompts_to_keep(ledger: Ledger, store: Store, info: BatchInfo | None, request: Request) -> PromptOptions:
    """The options that a file was first submitted to its batch with: these ones, if it was not. Changes nothing.

    `info` is what the ledger knows of the batch; storage is asked as well, because the ledger may have been lost.

    Raises:
        CommandFailed: it was submitted with others, which mean something else, or the batch has rows of another file
            that are kept to another engine set.
    """
    kept = ledger.prompt_options(request.batch, request.origin)
    if kept is None:
        kept = read_prompt_options(store, request.output, request.batch, request.origin)
    if kept is None and info is not None and _was_begun_before(ledger, info, request):
        kept = PromptOptions(source=request.origin, prompts={})
    options = _the_same(kept or _given(request), request)
    _check_other_sources(ledger, request)
    return options


def keep_prompts(ledger: Ledger, options: PromptOptions, request: Request) -> PromptOptions:
    """Keep the options of a file in the ledger. Returns those that its jobs are to be made with.

    The digest of an engine set may be given with more digits or fewer than before: the first spelling stays.

    Raises:
        CommandFailed: another command has just submitted the file with other options.
    """
    return _the_same(ledger.keep_prompt_options(request.batch, options), request)


def _check_other_sources(ledger: Ledger, request: Request) -> None:
    """A batch is kept to one engine set, whichever file its rows come from."""
    for other in ledger.all_prompt_options(request.batch):
        _, set_of_other = _parted(other)
        if other.source != request.origin and not _one_set(set_of_other, request.engine_set):
            kept = "to no engine set" if set_of_other is None else f"to the engine set {set_of_other}"
            raise CommandFailed(
                Exit.USAGE,
                f"batch {request.batch!r} is kept {kept}, as its rows of {place(other.source)} were submitted: give "
                "the same --engine-set, or name another --batch",
            )


def _was_begun_before(ledger: Ledger, info: BatchInfo, request: Request) -> bool:
    """Whether a version without these options, or a submission without them, began the batch with this file."""
    counts = ledger.counts(info.name)
    return info.source == request.origin and counts.total + counts.superseded > 0


def _given(request: Request) -> PromptOptions:
    return PromptOptions(source=request.origin, prompts=request.options)


def _the_same(kept: PromptOptions, request: Request) -> PromptOptions:
    given = _given(request)
    prompts, set_of_before = _parted(kept)
    other_prompts, other_set = _parted(given)
    if prompts == other_prompts and _one_set(set_of_before, other_set):
        return kept
    rows = "its rows with an empty cell" if _one_set(set_of_before, other_set) else "all of its rows"
    raise CommandFailed(
        Exit.USAGE,
        f"batch {request.batch!r} has rows of {request.name} that were submitted {_said(kept, given)}. With other "
        f"options, {rows} would be rendered again: give the same options, or name another --batch",
    )


def _parted(options: PromptOptions) -> tuple[dict[str, str], str | None]:
    """What empty cells mean, and the engine set."""
    prompts = UNSAID | options.prompts
    return prompts, prompts.pop("engine_set", None)


def _one_set(one: str | None, other: str | None) -> bool:
    """Whether two beginnings of digests may be of one engine set."""
    if one is None or other is None:
        return one is other
    return one.startswith(other) or other.startswith(one)


def _said(kept: PromptOptions, given: PromptOptions) -> str:
    """`with --n-prompt '' and without --a-prompt`, ready to be copied."""
    said = [f"with {option(column)} {shlex.quote(text)}" for column, text in kept.prompts.items()]
    return " and ".join(said + [f"without {option(column)}" for column in given.prompts if column not in kept.prompts])
