"""What `engines` shows people, on stderr: a build's progress and `verify`'s findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from engines.build.builder import Report, Step

if TYPE_CHECKING:
    from engines.check.verify import Finding  # at run time it would bring torch along


@contextmanager
def progress_on(console: Console) -> Iterator[Report]:
    """A function for `build_set` to report to: a spinner on a terminal, elsewhere a line for each finished stage."""
    with console.status("reading weights") as status:

        def report(step: Step) -> None:
            name = step.component if step.component == step.stage else f"{step.component}: {step.stage}"
            if step.state == "start":
                status.update(name)
            elif step.state == "done":
                console.print(f"{name} done in {step.seconds:.1f} s")

        yield report


def verify_table(findings: Iterable[Finding]) -> Table:
    """A row for each component and size."""
    table = Table("component", "batch", "size", "max abs error", "max rel error", "holds at rtol / atol")
    for finding in findings:
        table.add_row(
            finding.component,
            str(finding.batch),
            f"{finding.height}x{finding.width}",
            f"{finding.absolute_error:.2e}",
            f"{finding.relative_error:.2e}",
            _holds(finding),
        )
    return table


def _holds(finding: Finding) -> str:
    if finding.rtol is not None and finding.atol is not None:
        return f"{finding.rtol:.0e} / {finding.atol:.0e}"
    return f"{finding.within:g} of the largest" if finding.ok else "[red]none[/red]"
