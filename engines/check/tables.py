"""What `verify` and `bench` show people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from engines.check.verify import Finding


def verify_table(findings: Iterable[Finding]) -> Table:
    """A row a component and size."""
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
