"""A build's progress for people: a spinner on a terminal, a line a finished stage elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from engines.build.builder import Report, Step


@contextmanager
def shown_on(console: Console) -> Iterator[Report]:
    """A function for `build_set` to report to."""
    with console.status("reading weights") as status:

        def report(step: Step) -> None:
            name = step.component if step.component == step.stage else f"{step.component}: {step.stage}"
            if step.state == "start":
                status.update(name)
            elif step.state == "done":
                console.print(f"{name} done in {step.seconds:.1f} s")

        yield report
