"""The prompt options of a submission in storage, beside the manifest: there they outlive the ledger that keeps them.

`<output>/<batch>/manifest/<digest of the source>.prompts.json`. Earlier versions of this program do not look at it.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

from jobs.errors import RenderError
from jobs.ledger.records import PromptOptions
from jobs.storage.retry import with_backoff
from jobs.storage.store import Store
from jobs.submission import TRIES, submission_folder


def write_prompt_options(store: Store, output: str, batch: str, options: PromptOptions) -> None:
    """Keep the options of a source in storage. No file is written if there are none.

    Raises:
        OutputForbidden, OutputFull, OutputUnavailable: as the store does, after TRIES tries.
    """
    if options.prompts:
        uri, data = _uri(output, batch, options.source), options.model_dump_json().encode()
        with_backoff(lambda: store.write(uri, data, "application/json"), attempts=TRIES, base_seconds=0.5)


def read_prompt_options(store: Store, output: str, batch: str, source: str) -> PromptOptions | None:
    """What storage has of a source's options; None where it has nothing, cannot be read, or has something else."""
    with suppress(RenderError, ValueError):
        return PromptOptions.model_validate_json(store.read(_uri(output, batch, source)))
    return None


def _uri(output: str, batch: str, source: str) -> str:
    return f"{submission_folder(output, batch)}/{hashlib.sha256(source.encode()).hexdigest()[:20]}.prompts.json"
