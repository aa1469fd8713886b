"""`producer sizes`: which sizes the rows will be rendered at, and the `--shape` arguments that cover them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from jobs.settings import load_settings
from producer.bucket_csv import is_bucket_folder, local_or_bucket
from producer.console import row_progress, write_json
from producer.exits import Exit
from producer.sizes.pictures import Pictures
from producer.sizes.ranges import ranges
from producer.sizes.report import report_sizes
from producer.sizes.survey import survey
from producer.sizes.tally import Size, Tally, Wanted
from producer.submission import Outcome, Request
from producer.submit_report import report_rows
from producer.table.check import CheckedRows, check

BATCH = "sizes"  # no batch is made: a name for the request
NO_PROMPT = "-"  # of a folder's pictures, whose sizes depend on none


def sizes(
    file: Path | str,
    *,
    cover: float = 1.0,
    defaults: Mapping[str, str | None] | None = None,
    input_format: str | None = None,
    again: bool = False,
) -> Exit:
    """Run the command; prints, and returns the exit code. `cover`: the share of pictures that the shapes are to cover.

    `defaults`, `input_format` and `again` are as for `producer submit`; a folder needs no prompt here.

    Raises:
        CommandFailed, RenderError, OSError: each becomes its number in exits.py.
    """
    settings = load_settings()
    request = Request.resolve(
        settings,
        file=file,
        batch=BATCH,
        dry_run=True,
        defaults=_defaults(file, defaults or {}, again=again),
        input_format=input_format,
        again=again,
    )
    outcome = Outcome()
    with CheckedRows() as rows:
        with row_progress("Checking") as tick, closing(check(request, outcome)) as good_rows:
            for row, parameters in good_rows:
                rows.add(row, parameters)
                tick(outcome.rows)
        report_rows(request, outcome)
        with row_progress("Reading headers", outcome.good) as tick:
            tally = survey(_wanted(rows), Pictures(settings).size_of, tick=tick)
    chosen = tally.covering(cover)
    report_sizes(request, outcome, tally, chosen)
    write_json(_record(request, outcome, tally, chosen))
    return outcome.exit_code(request)


def _defaults(file: Path | str, defaults: Mapping[str, str | None], *, again: bool) -> dict[str, str]:
    path, uri = local_or_bucket(file)
    is_folder = not again and (is_bucket_folder(uri) if uri else path.is_dir())
    given = {name: text for name, text in defaults.items() if text is not None}
    return {"prompt": NO_PROMPT} | given if is_folder else given


def _wanted(rows: CheckedRows) -> Iterator[tuple[int, str, Wanted]]:
    for row, parameters in rows:
        yield row, parameters.image, Wanted(parameters.image_resolution, parameters.num_samples)


def _record(request: Request, outcome: Outcome, tally: Tally, chosen: list[Size]) -> dict[str, object]:
    """For JSON, and for `engines build --sizes`, which reads `shapes` and `ranges`."""
    return {
        "what": "producer sizes",
        "source": request.name,
        "rows": outcome.rows,
        "rejected": outcome.rejected,
        "problem_count": outcome.problem_count,
        "problems": [problem.as_dict() for problem in outcome.problems],
        "measured": tally.rows.total(),
        "unread": [{"reason": kind, **each._asdict()} for kind, each in sorted(tally.unread.items())],
        "sizes": [
            {
                "height": size.height,
                "width": size.width,
                "rows": tally.rows[size],
                "pictures": tally.pictures[size],
                "share": round(tally.share_of([size]), 6),
            }
            for size in tally.by_number()
        ],
        "covered": round(tally.share_of(chosen), 6),
        "shapes": [size.text for size in chosen],
        "ranges": ranges(chosen),
    }
