"""What `engines` shows: sentences, progress and tables for people on stderr, JSON for programs on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:  # at run time a command would import what it does not need, torch among it
    from engines.build.builder import Report, Step
    from engines.check.compare import Compared
    from engines.check.verify import Finding
    from engines.export.check import Comparison

people = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def print_json(value: object) -> None:
    """Print one line to stdout."""
    # Flushed here: a full disk at the interpreter's end would be a traceback.
    print(json.dumps(value, default=str), flush=True)  # noqa: T201 (this is the command's output)


def export_table(comparisons: Iterable[Comparison]) -> Table:
    """A row for each graph and run."""
    columns = ("batch", "tokens", "size", "max abs error", "max rel error", "holds at rtol / atol")
    table = Table(Column("graph", no_wrap=True), *columns)
    for comparison in comparisons:
        table.add_row(
            comparison.graph,
            str(comparison.batch),
            "" if comparison.tokens is None else str(comparison.tokens),
            "" if comparison.height is None else f"{comparison.height}x{comparison.width}",
            f"{comparison.absolute_error:.2e}",
            f"{comparison.relative_error:.2e}",
            _pair(comparison.rtol, comparison.atol) or "[red]none[/red]",
        )
    return table


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
            f"{finding.height}x{finding.width}" + _chunks(finding),
            f"{finding.absolute_error:.2e}",
            f"{finding.relative_error:.2e}",
            _holds(finding),
        )
    return table


def clipping_table(clipped: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each component with quantized layers."""
    table = Table("component", "values clipped", "of", "layer with the most", "its share")
    for component, seen in clipped.items():
        share = f"{seen['worst_share']:.1e}"
        table.add_row(component, str(seen["clipped"]), str(seen["values"]), seen["worst_layer"], share)
    return table


def _chunks(finding: Finding) -> str:
    return f", {finding.context_chunks} chunks" if finding.context_chunks > 1 else ""


def score_table(compared: Iterable[Compared]) -> Table:
    """A row for each seed."""
    table = Table("seed", "PSNR (dB)", "SSIM", "FLIP", "PD", "largest difference")
    for each in compared:
        table.add_row(
            str(each.seed),
            f"{each.psnr_db:.1f}",
            f"{each.ssim:.4f}",
            "-" if each.flip is None else f"{each.flip:.4f}",
            "-" if each.pd is None else f"{each.pd:.2f}",
            str(each.distance.largest),
        )
    return table


def _holds(finding: Finding) -> str:
    if pair := _pair(finding.rtol, finding.atol):
        return pair
    return f"{finding.within:g} of the largest" if finding.ok else "[red]none[/red]"


def _pair(rtol: float | None, atol: float | None) -> str | None:
    return None if rtol is None or atol is None else f"{rtol:.0e} / {atol:.0e}"
