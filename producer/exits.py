"""Numbered exit codes, and which error ends a command with which of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer


class Exit(IntEnum):
    """One number for each way to end; every command's --help lists its own."""

    OK = 0
    JOBS_FAILED = 1
    USAGE = 2
    INVALID_CSV = 3
    NO_REDIS = 4
    NOT_FOUND = 5
    STORAGE = 6
    INTERRUPTED = 130


PIPE_CLOSED = 141  # what a shell says of a program that SIGPIPE ended, as in `producer results jobs | head -1`

MEANINGS = {
    Exit.OK: "all is well",
    Exit.JOBS_FAILED: "some jobs failed or were cancelled",
    Exit.USAGE: "a wrong option, argument or RENDER_* variable",
    Exit.INVALID_CSV: "the CSV has mistakes",
    Exit.NO_REDIS: "Redis does not answer",
    Exit.NOT_FOUND: "no such batch, job or file",
    Exit.STORAGE: "a file could not be read or written",
    Exit.INTERRUPTED: "stopped with Ctrl-C",
}


class CommandFailed(Exception):
    """A command cannot go on: a sentence for people and an exit code for scripts."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code


def exit_table(*codes: Exit) -> str:
    """`0  all is well` and so on, one a line, for the end of a help page."""
    return "\n".join(f"  {int(code):>3}  {MEANINGS[code]}" for code in codes)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Around a command's body: print an error as a sentence and end with its exit code.

    Unexpected errors pass through with their traceback: they are bugs.
    """
    from redis import RedisError

    from jobs.errors import BatchDeleted, InvalidCsv, LedgerUnavailable, RenderError, SettingsError
    from jobs.ledger.damage import LedgerDamaged
    from jobs.redis_errors import why_unavailable
    from producer.output import give_up_broken_streams

    try:
        yield
    except CommandFailed as error:
        raise _ended(error.code, str(error)) from error
    except SettingsError as error:
        raise _ended(Exit.USAGE, str(error)) from error
    except InvalidCsv as error:
        raise _ended(Exit.INVALID_CSV, str(error)) from error
    except LedgerUnavailable as error:
        raise _ended(Exit.NO_REDIS, str(error)) from error
    except LedgerDamaged as error:
        raise _ended(Exit.NO_REDIS, str(error)) from error
    except BatchDeleted as error:
        raise _ended(Exit.NOT_FOUND, str(error)) from error
    except RedisError as error:
        raise _ended(Exit.NO_REDIS, why_unavailable(error)) from error
    except RenderError as error:
        raise _ended(Exit.STORAGE, str(error)) from error
    except BrokenPipeError as error:
        give_up_broken_streams()
        raise typer.Exit(PIPE_CLOSED) from error
    except OSError as error:
        give_up_broken_streams()
        code = Exit.NOT_FOUND if isinstance(error, FileNotFoundError) else Exit.STORAGE
        raise _ended(code, f"{error.filename or 'a file'}: {error.strerror or error}") from error
    except KeyboardInterrupt as error:
        raise typer.Exit(int(Exit.INTERRUPTED)) from error  # the command has said what there is to say


def _ended(code: Exit, message: str) -> typer.Exit:
    from producer.console import say

    say(message, "error")
    return typer.Exit(int(code))
