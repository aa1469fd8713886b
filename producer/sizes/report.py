"""What `producer sizes` says to people on stderr: a table, what could not be read, and how to build for the rest."""

from __future__ import annotations

from itertools import accumulate

from producer.console import count, people, printable, say
from producer.sizes.ranges import ranges
from producer.sizes.tally import Size, Tally
from producer.submission import Outcome, Request

SHOWN_SIZES = 40
SHOWN_ARGUMENTS = 12


def report_sizes(request: Request, outcome: Outcome, tally: Tally, chosen: list[Size]) -> None:
    """The sizes with their counts, the reasons of rows without one, and the arguments of `engines build`."""
    console = people()
    if tally.pictures:
        from rich.table import Table

        table = Table("height x width", "rows", "pictures", "share", "all so far", box=None)
        for column in table.columns[1:]:
            column.justify = "right"
        total, listed = tally.pictures.total(), tally.by_number()
        sums = accumulate(tally.pictures[size] for size in listed)
        for size, sum_ in list(zip(listed, sums, strict=True))[:SHOWN_SIZES]:
            rows, pictures = tally.rows[size], tally.pictures[size]
            shares = f"{pictures / total:.1%}", f"{sum_ / total:.1%}"
            table.add_row(f"{size.height} x {size.width}", f"{rows:,}", f"{pictures:,}", *shares)
        console.print(table)
        if len(listed) > SHOWN_SIZES:
            say(f"... and {count(len(listed) - SHOWN_SIZES, 'more size')}, which the JSON names", console=console)
    for kind, each in sorted(tally.unread.items()):
        sentence = f"{count(each.rows, 'row')} without a size ({kind}); the first is row {each.first_row}"
        say(f"{sentence}, {each.picture}: {printable(each.sentence)}", "warning", console)
    _report_end(request, outcome, tally, chosen)


def _report_end(request: Request, outcome: Outcome, tally: Tally, chosen: list[Size]) -> None:
    if outcome.rejected or outcome.unreadable:
        bad = f"{count(outcome.problem_count, 'problem')} in {count(outcome.rejected, 'row')} of {outcome.rows:,}"
        say(f"{bad}: producer submit would refuse the file. Rows with problems are not counted above.", "error")
    if not chosen:
        if not outcome.has_no_pictures(request):
            say(f"No size is known of any row of {request.name}.", "warning")
        return
    part = "" if len(chosen) == len(tally.pictures) else f" ({tally.share_of(chosen):.1%} of the pictures)"
    shown = ranges(chosen)
    arguments = " ".join(f"--shape {text}" for text in shown[:SHOWN_ARGUMENTS])
    more = " ..." * (len(shown) > SHOWN_ARGUMENTS)
    say(f"An engine set for {count(len(chosen), 'size')}{part}: engines build ... {arguments}{more}", "good")
    if len(chosen) > len(shown):
        say("Those are ranges. Backends that compile for single shapes take each size: engines build --sizes FILE")
