"""The `producer` command. Only Typer is imported here: everything else comes with the command that needs it."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from producer import row_options
from producer.exits import Exit, exit_codes, exit_table
from producer.name_pattern import is_pattern
from producer.output import escape_what_does_not_fit, give_up_broken_streams, json_output, open_closed_stderr

app = typer.Typer(
    name="producer",
    help="Render a CSV of pictures: check it, enqueue it, watch it, fetch what came of it.",
    epilog="Messages for people go to stderr. JSON goes to stdout if that is not a terminal, and to a terminal only "
    "with --json. RENDER_REDIS_URL names Redis, and RENDER_OUTPUT_URI where results go.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # an unexpected error shows a plain traceback, and no local variables
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

JsonOption = Annotated[
    bool, typer.Option("--json", help="JSON on stdout; without it, only if stdout is not a terminal.")
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--input-format", metavar="FORMAT", help="csv, tsv, jsonl or parquet [default: by the ending; else csv]."
    ),
]
AgainOption = Annotated[
    bool, typer.Option("--again", help="SOURCE is a folder of rendered pictures: render them once more.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's name.")]


def _folder(text: str) -> Path:
    """The folder that an option names. Shells leave the ~ of `--out=~/gallery` to the program."""
    if not text:  # to a path, it is the current folder
        raise typer.BadParameter("the path is empty; name a folder, or . for this one")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise typer.BadParameter(f"{text}: no such user") from error


def _epilog(examples: str, *codes: Exit) -> str:
    """Examples and exit codes; the backspace keeps click from re-wrapping them."""
    shown = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    return f"\b\nExamples:\n{shown}\n\n\b\nExit codes:\n{exit_table(*codes)}"


@app.command(
    epilog=_epilog(
        """producer submit jobs.csv
producer submit jobs.csv --wait --output s3://bucket/renders
producer submit jobs.csv --dry-run
producer submit jobs.csv --skip-invalid      # bad rows go to jobs.rejected.csv
producer submit jobs.csv --n-prompt ''       # rows without a negative prompt have an empty one
producer submit jobs.csv --engine-set 5ccee6ac0d41
producer submit s3://bucket/folder/jobs.csv  # relative images are in s3://bucket/folder/
producer submit jobs.parquet                 # or .tsv, .jsonl
producer submit photos/ --prompt 'a watercolour'
producer submit s3://bucket/photos/ --prompt 'a watercolour'
producer submit --again renders/jobs         # pictures that say how they were made
make-rows | producer submit - --input-format jsonl --batch nightly""",
        *(Exit.OK, Exit.JOBS_FAILED, Exit.USAGE, Exit.INVALID_CSV),
        *(Exit.NO_REDIS, Exit.NOT_FOUND, Exit.STORAGE, Exit.INTERRUPTED),
    )
)
def submit(
    file: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A CSV, TSV, JSON Lines or Parquet file (path, file:// or s3://; - reads standard input), or a folder "
            "of pictures.",
        ),
    ],
    *,
    input_format: FormatOption = None,
    again: AgainOption = False,
    batch: Annotated[str | None, typer.Option("--batch", "-b", help="The batch's name [default: the file's].")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder, file:// or s3:// [default: RENDER_OUTPUT_URI].")
    ] = None,
    prompt: row_options.Prompt = None,
    a_prompt: row_options.APrompt = None,
    n_prompt: row_options.NPrompt = None,
    engine_set: Annotated[
        str | None,
        typer.Option("--engine-set", metavar="DIGEST", help="Only workers with this engine set render the batch."),
    ] = None,
    model: row_options.Model = None,
    control: row_options.Control = None,
    format: row_options.Format = None,
    quality: row_options.Quality = None,
    long_prompts: row_options.LongPrompts = None,
    prompt_syntax: row_options.PromptSyntax = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave bad rows out; write them, with reasons, to a CSV.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only; enqueue nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Stay until every job of the batch has ended.")] = False,
    json: JsonOption = False,
) -> None:
    """Check every row of a file or folder, then enqueue one job a row.

    All mistakes are reported, with file, line, column and what is allowed, before anything is enqueued.
    Submitting the same file to the same batch again, with the same options for its rows, enqueues only what the batch
    does not hold yet, so it is safe to repeat at any time, for example after a correction. A row that was
    corrected supersedes its earlier version: that is not rendered any more if it has not been, and left out of the
    results if it has.

    Columns: image and prompt (required), a_prompt, n_prompt, num_samples, image_resolution, ddim_steps, guess_mode,
    strength, scale, seed, eta, low_threshold, high_threshold, model, control, control_image, format, quality,
    long_prompts, prompt_syntax. An empty cell takes the default. In prompt, a_prompt and n_prompt, the cell <empty> is
    an empty text.

    A relative image is looked for beside the file: in its folder, or, for a file in a bucket, under its prefix there.
    --skip-invalid writes the bad rows beside the file, too, as CSV.

    JSON Lines and Parquet have typed values: each becomes the cell that a CSV would have, and null is an empty one.
    Parquet needs the extra batch-renderer[parquet].

    A folder is one row a picture, in natural order; its own folders are not looked into. Pictures that are added
    later become the last rows of the batch, so submitting the folder again renders only them.

    --again reads what rendered pictures (PNG, JPEG, WebP) say of themselves. Those of this program name their source,
    which is rendered with the same parameters. Those of other tools do not name one: the picture itself is the input.

    --prompt, --a-prompt, --n-prompt, --model, --control, --format, --quality, --long-prompts and --prompt-syntax set
    the default of their column for this file; they become part of the jobs. The batch keeps them: with others, the
    same file is refused, and needs another --batch.

    --engine-set keeps the batch to one engine set, named by its digest or the first 8 or more hex digits of that.
    Workers with another set give the jobs back; a job fails once every live worker has done so. The batch keeps it too.

    Prompts with syntax that only other tools interpret, and values such as nan or #NAME?, are counted and shown, and
    rendered as they are; --prompt-syntax weighted applies weights such as (cat:1.3).
    """
    with exit_codes(), json_output(json):
        from producer.submit import submit as run

        code = run(
            file,
            batch=batch,
            output=output,
            defaults={
                **{"prompt": prompt, "a_prompt": a_prompt, "n_prompt": n_prompt, "model": model, "control": control},
                **{"format": format, "quality": quality},
                **{"long_prompts": long_prompts, "prompt_syntax": prompt_syntax},
            },
            engine_set=engine_set,
            input_format=input_format,
            again=again,
            skip_invalid=skip_invalid,
            dry_run=dry_run,
            wait=wait,
        )
    raise typer.Exit(int(code))


@app.command(
    epilog=_epilog(
        """producer sizes jobs.csv
producer sizes jobs.csv > sizes.json && engines build --sizes sizes.json ...
producer sizes photos/                       # a folder of pictures
producer sizes jobs.csv --cover 0.95         # leave the rarest sizes out
producer sizes jobs.csv | engines build --sizes - ...""",
        *(Exit.OK, Exit.USAGE, Exit.INVALID_CSV, Exit.NOT_FOUND, Exit.STORAGE, Exit.INTERRUPTED),
    )
)
def sizes(
    file: Annotated[str, typer.Argument(metavar="SOURCE", help="As for producer submit; - reads standard input.")],
    *,
    input_format: FormatOption = None,
    again: AgainOption = False,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="As for producer submit, for rows without a prompt.")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="As for producer submit, for rows with a quality.")
    ] = None,
    cover: Annotated[
        float,
        typer.Option("--cover", metavar="SHARE", min=0.0, max=1.0, help="The share of the pictures that shapes cover."),
    ] = 1.0,
    json: JsonOption = False,
) -> None:
    """Show which sizes the rows will be rendered at, and how an engine set is built for them.

    Reads the headers of the pictures, many at once, and no pixels: from this machine, from hosts and from buckets, by
    the rules and limits of a worker. Asks neither Redis nor a worker. The size that counts is that of the picture the
    right way up, resized by image_resolution.

    Rows whose picture cannot be read are counted with the reasons. --cover 0.95 leaves out the rarest sizes, as long as
    the rest is 95% of the pictures. Exit code 3 says that rows have mistakes, which producer submit would refuse; the
    others are counted. A file that is submitted with --prompt or --format is measured with them.
    """
    with exit_codes(), json_output(json):
        from producer.sizes.command import sizes as run

        defaults = {"prompt": prompt, "format": format}
        code = run(file, cover=cover, defaults=defaults, input_format=input_format, again=again)
    raise typer.Exit(int(code))


@app.command(
    epilog=_epilog(
        """producer status                       # the newest 20 batches
producer status 'nightly-*' --state failed --limit 0
producer status --watch               # until nothing is queued or running
producer status jobs
producer status jobs --watch
producer status jobs --json
producer status --workers""",
        *(Exit.OK, Exit.JOBS_FAILED, Exit.USAGE, Exit.NO_REDIS, Exit.NOT_FOUND, Exit.INTERRUPTED),
    )
)
def status(
    batch: Annotated[
        str | None, typer.Argument(metavar="[BATCH]", help="The batch's name, or a pattern with * and ?; none: all.")
    ] = None,
    *,
    name: Annotated[
        str | None, typer.Option("--name", "-n", metavar="TEXT", help="Only batches whose name holds this text.")
    ] = None,
    state: Annotated[
        Literal["queued", "running", "failed", "cancelled", "done", "unfinished", "ended"] | None,
        typer.Option(
            "--state",
            "-s",
            help="Only batches with such a job; done: all jobs are; unfinished: some are queued or running.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-l", min=0, help="The number of batches, newest first; 0: all [default: 20]."),
    ] = None,
    workers: Annotated[bool, typer.Option("--workers", help="Show the live workers instead of batches.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay until no job of the batch, or of these batches, is left.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show how far a batch is, or the newest batches, or the workers.

    With --watch it also requeues the jobs of workers that died; exit code 1 then says that jobs failed: jobs of the
    batches that match the pattern or --name, or else of those that were not finished when they were seen. --json shows
    no table. As JSON, all batches are listed unless --limit is given.
    """
    chosen = [flag for flag, value in (("--name", name), ("--state", state), ("--limit", limit)) if value is not None]
    if workers and (batch or watch or chosen):
        raise typer.BadParameter("--workers goes with no batch, and with no option but --json")
    if batch is not None and chosen and (not is_pattern(batch) or name is not None):
        raise typer.BadParameter(f"{chosen[0]} chooses among several batches; {batch!r} names one, or is a pattern")
    if watch and state is not None:
        raise typer.BadParameter("--state does not go with --watch, which stays until the state is another")
    if watch and limit is not None:
        raise typer.BadParameter("--limit does not go with --watch, which watches all batches that have work left")
    with exit_codes(), json_output(json):
        from producer import status as command

        code = command.status(batch, name=name, state=state, limit=limit, workers=workers, watch=watch)
    raise typer.Exit(int(code))


@app.command(
    epilog=_epilog(
        """producer results jobs > results.jsonl
producer results jobs --state failed --format csv > failed.csv""",
        *(Exit.OK, Exit.USAGE, Exit.NO_REDIS, Exit.NOT_FOUND),
    )
)
def results(
    batch: BatchArgument,
    *,
    format: Annotated[
        Literal["jsonl", "csv", "text"] | None,
        typer.Option("--format", "-f", help="JSON lines, CSV, or a line for people [default: text on a terminal]."),
    ] = None,
    state: Annotated[
        Literal["done", "failed", "cancelled", "superseded"] | None,
        typer.Option("--state", "-s", help="Only jobs in this state; superseded: earlier versions of corrected rows."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print what became of every job that has ended, in row order: the newest version of each row.

    If stdout is not a terminal, as JSON lines. In CSV, a cell with several pictures or warnings has one a line.
    """
    if json and format not in (None, "jsonl"):
        raise typer.BadParameter(f"--json means --format jsonl, not {format}")
    with exit_codes(), json_output(json):
        from producer.results import results as run

        code = run(batch, format=format, states=(state,) if state else ())
    raise typer.Exit(int(code))


@app.command(
    epilog=_epilog(
        """producer retry jobs
producer retry jobs --only failed""",
        *(Exit.OK, Exit.USAGE, Exit.NO_REDIS, Exit.NOT_FOUND),
    )
)
def retry(
    batch: BatchArgument,
    *,
    only: Annotated[
        Literal["failed", "cancelled"] | None, typer.Option("--only", help="Only these [default: both].")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Queue the failed and cancelled jobs of a batch again."""
    with exit_codes(), json_output(json):
        from producer.repair import retry as run

        code = run(batch, only=only)
    raise typer.Exit(int(code))


@app.command(
    epilog=_epilog(
        """producer cancel jobs
producer cancel jobs 3f2a9c41d07be65810aa""",
        *(Exit.OK, Exit.USAGE, Exit.NO_REDIS, Exit.NOT_FOUND),
    )
)
def cancel(
    batch: BatchArgument,
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="One job's id; none: the whole batch.")] = None,
    *,
    json: JsonOption = False,
) -> None:
    """Cancel the jobs of a batch that have not ended: queued ones at once, running ones at their next step.

    Finished pictures stay. `producer retry` queues the cancelled jobs again.
    """
    with exit_codes(), json_output(json):
        from producer.repair import cancel as run

        code = run(batch, job)
    raise typer.Exit(int(code))


@app.command(
    epilog=_epilog(
        """producer reconcile
producer reconcile jobs
producer reconcile --from-storage            # Redis came back empty""",
        *(Exit.OK, Exit.USAGE, Exit.NO_REDIS, Exit.NOT_FOUND, Exit.STORAGE),
    )
)
def reconcile(
    batch: Annotated[str | None, typer.Argument(metavar="[BATCH]", help="The batch's name; none: all batches.")] = None,
    *,
    from_storage: Annotated[
        bool, typer.Option("--from-storage", help="Also rebuild what Redis lost, of all batches in the output.")
    ] = False,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Where lost batches were written [default: RENDER_OUTPUT_URI].")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Queue jobs again whose worker died or whose message was lost.

    `submit --wait` and `status --watch` do the same every few seconds. Safe at any time: what a live worker holds is
    left alone.

    A batch that Redis does not know, or no longer knows, is rebuilt from its folder: the manifest there says what was
    submitted, the sidecars what is done. Finished pictures are not rendered again. Exit code 6 also says that jobs
    could not be brought back without their CSV, because storage does not keep the secrets in their URLs.
    """
    with exit_codes(), json_output(json):
        from producer.repair import reconcile as run

        code = run(batch, output=output, from_storage=from_storage)
    raise typer.Exit(int(code))


@app.command(
    epilog=_epilog(
        """producer delete jobs                # from Redis; its pictures stay
producer delete jobs --results      # with its pictures
producer delete jobs --results --yes
producer delete jobs --results --output s3://bucket/renders    # a batch that Redis has lost""",
        *(Exit.OK, Exit.USAGE, Exit.NO_REDIS, Exit.NOT_FOUND, Exit.STORAGE, Exit.INTERRUPTED),
    )
)
def delete(
    batch: BatchArgument,
    *,
    results: Annotated[
        bool, typer.Option("--results", help="Delete its pictures, edges, sidecars and manifest as well.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Cancel and delete a batch with jobs that have not ended.")
    ] = False,
    yes: YesOption = False,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Where a batch that Redis lost was written [default: RENDER_OUTPUT_URI]."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Delete a batch from Redis and, with --results, its files from the output.

    Of the files in the batch's folder only those of its jobs and its manifest are deleted. They go first, and Redis
    forgets the batch last, so a command that was interrupted is repeated as it was.

    Without --results, `producer reconcile BATCH` or submitting the CSV again brings the batch back from its files.
    """
    with exit_codes(), json_output(json):
        from producer.delete import delete as run

        code = run(batch, results=results, force=force, yes=yes, output=output)
    raise typer.Exit(int(code))


@app.command(
    epilog=_epilog(
        """producer prune --older-than 30d --dry-run
producer prune --older-than 12h --yes
producer prune --older-than 2w --name 'nightly-*' --results""",
        *(Exit.OK, Exit.USAGE, Exit.NO_REDIS, Exit.NOT_FOUND, Exit.STORAGE, Exit.INTERRUPTED),
    )
)
def prune(
    *,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="30d, 12h or 2w: since the last job of a batch ended.")
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", metavar="TEXT", help="Only batches with such a name: a pattern, or a part of it."),
    ] = None,
    state: Annotated[
        Literal["done", "failed", "cancelled"] | None,
        typer.Option("--state", "-s", help="Only batches with such a job; done: all jobs are."),
    ] = None,
    results: Annotated[bool, typer.Option("--results", help="Delete their files as well.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List them only; delete nothing.")] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Delete old batches, as `producer delete` does: those whose jobs all ended before a time.

    `producer keep` does this by itself once an hour where RENDER_KEEP_DAYS is set; it never deletes files.
    """
    with exit_codes(), json_output(json):
        from producer.prune import prune_old as run

        code = run(older_than=older_than, name=name, state=state, results=results, dry_run=dry_run, yes=yes)
    raise typer.Exit(int(code))


@app.command(
    epilog=_epilog(
        """producer gallery jobs --out gallery
producer gallery jobs --out gallery --copies    # of all pictures, however many""",
        *(Exit.OK, Exit.USAGE, Exit.NO_REDIS, Exit.NOT_FOUND, Exit.STORAGE, Exit.INTERRUPTED),
    )
)
def gallery(
    batch: BatchArgument,
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", parser=_folder, metavar="DIR", help="The folder to write index.html to.")
    ],
    copies: Annotated[
        bool | None,
        typer.Option(
            "--copies/--no-copies",
            help="Small copies of all pictures, or only of large and distant ones [default: all, up to 10,000 jobs].",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write pages that show input, edges and result of every job side by side, and a search over all of them.

    The pages work offline. They refer to pictures on this machine by relative paths, so they may be moved together with
    them. Small copies of the pictures are kept beside them: of all pictures in a batch of up to 10,000 jobs, and of a
    larger one only of pictures that are large or on another machine.

    Running it again makes only what is new, and goes on where a stopped run ended.
    """
    with exit_codes(), json_output(json):
        from producer.gallery.page import gallery as run

        code = run(batch, out, copies=copies)
    raise typer.Exit(int(code))


@app.command(
    epilog=_epilog(
        """producer keep
producer keep --port 0                       # a free port, which the log names
producer keep --host 0.0.0.0                 # for other machines; anyone who reaches it sees prompts and pictures
curl http://127.0.0.1:9808/metrics""",
        *(Exit.OK, Exit.USAGE, Exit.INTERRUPTED),
    )
)
def keep(
    *,
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="Address to listen on [default: RENDER_KEEP_HOST].")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port to listen on [default: RENDER_KEEP_PORT].")
    ] = None,
) -> None:
    """Reconcile every batch for ever, and show over HTTP how they are. SIGTERM ends it with exit code 0.

    Run one beside the workers: every few seconds, it queues jobs again whose worker died or whose message was lost.
    Several at once do no harm. It waits for a Redis that is away.

    / is a page for people: batches, failures, workers and the newest pictures. /metrics is for Prometheus, /healthz and
    /readyz are for supervisors. Nothing can be changed over HTTP, and there is no login: it listens on this machine
    only, unless --host or RENDER_KEEP_HOST say otherwise.
    """
    from producer.keep.end import ended_by_sigterm

    with ended_by_sigterm(), exit_codes():
        from producer.keep.command import keep as run

        run(host=host, port=port)


def main() -> None:
    """The console script."""
    open_closed_stderr()
    escape_what_does_not_fit()
    try:
        app()
    except OSError as error:  # from the text of a --help; every command's own errors end in exit_codes
        from producer.console import say

        give_up_broken_streams()
        with suppress(OSError):
            say(f"standard output: {error.strerror or error}", "error")
        give_up_broken_streams()
        sys.exit(int(Exit.STORAGE))
