"""Parse shell commands with the programs' own command lines, without running them.

    python -m tests.command_lines < commands.json

reads a JSON list of commands and prints a JSON object: command -> what is wrong with it, or null. It runs as a process
of its own, because it runs the programs' modules up to the point where their work would begin.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import click
import typer.core
from _pytest.config import _prepareconfig

from jobs.settings import Settings
from tools import ROOT

# Programs of other people, whose command lines are not ours to check.
OTHERS = {"aws", "cp", "docker", "echo", "jq", "kubectl", "trtexec"}
# Words of a shell line that end a command.
ENDS = {"|", "&&", ";", ">"}


class Parsed(SystemExit):
    """The command line is right, and the command would begin. Commands let an exit pass."""


class NotACommand(Exception):
    """The sentence says what is wrong with a command line."""


def main() -> None:
    """Read the list, print the object."""
    json.dump({command: problem(command) for command in json.load(sys.stdin)}, sys.stdout)


@contextlib.contextmanager
def stopped_before_work() -> Iterator[None]:
    """Within it, every command line of argparse, Typer and click raises Parsed once its arguments are parsed."""
    parse, parse_known = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args
    invoke = click.Command.invoke

    def parse_and_stop(self: argparse.ArgumentParser, *arguments: Any, **options: Any) -> NoReturn:
        with patch.object(argparse.ArgumentParser, "parse_known_args", parse_known):  # parse_args calls it
            parse(self, *arguments, **options)
        raise Parsed

    def parse_known_and_stop(self: argparse.ArgumentParser, *arguments: Any, **options: Any) -> NoReturn:
        parse_known(self, *arguments, **options)
        raise Parsed

    def stop(self: object, context: object) -> NoReturn:
        raise Parsed

    def stop_unless_group(self: click.Command, context: click.Context) -> Any:
        if isinstance(self, click.Group):  # its own part, before the subcommand is parsed
            return invoke(self, context)
        raise Parsed

    with (
        patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop),
        patch.object(argparse.ArgumentParser, "parse_known_args", parse_known_and_stop),
        patch.object(typer.core.TyperCommand, "invoke", stop),
        patch.object(click.Command, "invoke", stop_unless_group),
    ):
        yield


def problem(command: str) -> str | None:
    """Why a shell line is wrong, or None."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split = True
    words: list[list[str]] = [[]]
    redirected = False
    for word in lexer:
        if word in ENDS:
            redirected = word == ">"
            words.append([])
        elif not redirected:
            words[-1].append(word)
    try:
        for part in filter(None, words):
            check(part)
    except NotACommand as error:
        return str(error)
    return None


def check(words: list[str]) -> None:
    """Parse one program's arguments.

    Raises:
        NotACommand: an unknown program, option, file or name, or a missing argument.
    """
    program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if program in OTHERS or program.startswith("password="):  # of a Redis that the page makes
        return
    checks: dict[str, Callable[[list[str]], None]] = {
        "producer": lambda arguments: parse_module("producer", arguments),
        "engines": lambda arguments: parse_module("engines.cli", arguments),
        "celery": lambda arguments: parse_module("celery", arguments),
        "python": check_python,
        "tools/test.sh": check_pytest,
        "make": check_make,
        "pip": check_pip,
        "export": check_export,
        ".": lambda arguments: None if arguments == [".venv/bin/activate"] else refuse(f"what is {arguments}?"),
    }
    if program not in checks:
        refuse(f"{program}: no such program here")
    checks[program](arguments)


def check_python(arguments: list[str]) -> None:
    """`python -m MODULE ...` or `python FILE ...`."""
    if arguments[:2] == ["-m", "pytest"]:
        check_pytest(arguments[2:])
    elif arguments[0] == "-m":
        parse_module(arguments[1], arguments[2:])
    elif not (ROOT / arguments[0]).is_file():
        refuse(f"no file {arguments[0]}")
    else:
        script = str(ROOT / arguments[0])
        sys.path.insert(0, str(Path(script).parent))  # as Python does for a script
        try:
            parse(script, arguments[1:], lambda: runpy.run_path(script, run_name="__main__"))
        except ModuleNotFoundError:  # training needs packages that no test needs
            written = set(re.findall(r'"(--[a-z-]+)"', Path(script).read_text(encoding="utf-8")))
            unknown = {argument for argument in arguments if argument.startswith("--")} - written
            if unknown:
                refuse(f"{arguments[0]} has no {sorted(unknown)}")
        finally:
            del sys.path[0]


def parse_module(name: str, arguments: list[str]) -> None:
    """Parse with a module that is run as `python -m NAME`."""
    if importlib.util.find_spec(name) is None:
        refuse(f"python -m {name}: no such module")
    parse(name, arguments, lambda: runpy.run_module(name, run_name="__main__"))


def parse(program: str, arguments: list[str], run: Callable[[], object]) -> None:
    """Call `run` with these arguments on the command line; it must come as far as its work."""
    sys.argv = [program, *arguments]
    words = io.StringIO()
    try:
        with stopped_before_work(), contextlib.redirect_stderr(words), contextlib.redirect_stdout(words):
            run()
    except Parsed:
        return
    except SystemExit as error:
        raise NotACommand(f"exit code {error.code}: {words.getvalue()}") from error
    refuse(f"{program} {arguments} ended before its work: {words.getvalue()}")


def check_pytest(arguments: list[str]) -> None:
    """Options by pytest's own parser; what else stands there must be files of ours, and markers ones we declare."""
    try:
        with contextlib.redirect_stderr(io.StringIO()) as words:
            config = _prepareconfig([*arguments, "-p", "no:cacheprovider"])
    except (Exception, SystemExit) as error:
        raise NotACommand(f"pytest: {error} {words.getvalue()}") from error
    missing = [path for path in config.option.file_or_dir if not (ROOT / path.partition("::")[0]).exists()]
    if missing:
        refuse(f"pytest: no file {missing[0]}")
    declared = {line.partition(":")[0] for line in pyproject()["tool"]["pytest"]["ini_options"]["markers"]}
    if config.option.markexpr and config.option.markexpr not in declared:
        refuse(f"pytest: no marker {config.option.markexpr}")


def check_make(arguments: list[str]) -> None:
    """Targets and variables of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) \?=", text, re.MULTILINE))
    for argument in arguments:
        name, is_variable, _ = argument.partition("=")
        if name not in (variables if is_variable else targets):
            refuse(f"make {argument}: there are {sorted(targets | variables)}")


def check_pip(arguments: list[str]) -> None:
    """`pip install`: our extras must be in pyproject.toml."""
    words = [word for word in arguments if word not in ("install", "-e", "--extra-index-url")]
    if arguments[0] != "install" or any(word.startswith("-") for word in words):
        refuse(f"pip: {arguments}")
    extras = set(pyproject()["project"]["optional-dependencies"])
    for package in words:
        name, _, rest = package.partition("[")
        if name in (".", "batch-renderer") and (wrong := set(filter(None, rest.rstrip("]").split(","))) - extras):
            refuse(f"pip: no extra {sorted(wrong)} in pyproject.toml")


def check_export(arguments: list[str]) -> None:
    """Settings of ours, with values that they take."""
    values = dict(argument.split("=", 1) for argument in arguments)
    names = {f"RENDER_{name.upper()}": name for name in Settings.model_fields}
    unknown = {name for name in values if not name.startswith("AWS_")} - set(names)
    if unknown:
        refuse(f"export: no setting {sorted(unknown)}")
    try:
        Settings(**{names[name]: value for name, value in values.items() if name in names})  # type: ignore[arg-type]
    except ValueError as error:
        if "no such file" not in str(error):  # a certificate, on the reader's machine
            raise NotACommand(str(error)) from error


def pyproject() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def refuse(sentence: str) -> NoReturn:
    """Raise NotACommand."""
    raise NotACommand(sentence)


if __name__ == "__main__":
    main()
