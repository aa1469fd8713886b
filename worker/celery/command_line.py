"""The command line of `celery -A worker ...`: what cannot work is refused, and what has no effect is said.

Celery adds the options in `app.user_options["worker"]` to its command `worker`. Two of ours are hidden, and not
for people. click calls the first before it reads the other options, and the second after it has read all of them. Both
run before the command does anything: before `--detach` leaves the terminal, `--purge` empties the queue, or a message
is taken. Options that come from CELERY_WORKER_* variables are read by click too, and so are checked in the same way.

`-P gevent`, `-P eventlet` and `-P custom` are special: Celery imports what they name before it loads any app. Where
that fails, Python says so and ends with 1; where it does not, the worker is refused here as with any other pool.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import structlog
from celery import concurrency
from celery.utils.nodenames import gethostname, node_format
from click.core import ParameterSource

from jobs.errors import SettingsError
from jobs.settings import Settings, misspelt_variables
from worker.celery.options import MONITORS, NO_EFFECT, NO_EFFECT_BEFORE, REFUSED_COMMANDS, Ignored
from worker.celery.pool import GpuPool
from worker.observe.exit_codes import ExitCode

if TYPE_CHECKING:
    from celery import Celery

log = structlog.get_logger(__name__)

TYPE_THIS = "celery -A worker worker --concurrency 1"


def end(error: SettingsError) -> NoReturn:
    """End the process with the exit code of bad settings and the error's sentence: logging is not configured yet."""
    print(f"worker: {error}", file=sys.stderr)  # noqa: T201
    raise SystemExit(ExitCode.BAD_SETTINGS) from error


class CommandLine:
    """What this process was given on its command line. One an app; `install` makes Celery ask it."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self.log_level: str | None = None  # None: as the settings say
        self.ignored: list[Ignored] = []
        self._app = app
        self._settings = settings

    def install(self) -> None:
        """Add the two hidden options to the command `worker`; refuse commands that would do nothing, or harm.

        Celery loads the app when it knows the command's name, and has not yet looked at the rest.

        Raises:
            SettingsError: the command is one of those.
        """
        context = click.get_current_context(silent=True)
        command = None if context is None else context.invoked_subcommand
        refused = REFUSED_COMMANDS if self._settings.celery_events else REFUSED_COMMANDS | MONITORS
        if command in refused:
            raise SettingsError(f"celery {command}: {refused[command]}")
        first = _hidden_option("--render-before-options", self._before, is_eager=True)
        last = _hidden_option("--render-after-options", self._after, is_eager=False)
        self._app.user_options["worker"].update((first, last))

    def report(self) -> None:
        """Log one line for each option or variable that has no effect. Called once logging is configured."""
        for option, why in self.ignored:
            log.warning("option_ignored", option=option, why=why)
        for name, near in misspelt_variables().items():
            log.warning("variable_ignored", variable=name, why=f"it is not a setting; did you mean {near}?")

    def refuse_late(self, worker: Any) -> None:
        """Called by Celery's signal `worker_init`, when all of Celery's settings are final.

        Words after `--` set any of them (Celery.config_from_cmdline), and code that makes an app.Worker itself passes
        no command line at all.
        """
        context = click.get_current_context(silent=True)
        if context is not None and context.args:
            end(SettingsError(f"{' '.join(context.args)}: Celery's settings are fixed here; set RENDER_* variables"))
        pool = concurrency.get_implementation(worker.pool_cls)
        if not _is_ours(pool):
            end(foreign_pool(f"worker_pool {pool.__module__}:{pool.__qualname__}"))

    # -- called by click ------------------------------------------------------------------------------------------

    def _before(self, context: click.Context) -> None:
        self._refuse_another_broker()
        for parameter in context.command.params:
            if parameter.name == "pool" and isinstance(parameter.type, click.Choice):
                parameter.type = OwnPool(parameter.type.choices)

    def _after(self, context: click.Context) -> None:
        self._refuse_other_queues(context)
        if context.params.get("purge"):
            raise SettingsError(f"{_as_given(context, 'purge')}: {REFUSED_COMMANDS['purge']}")
        _refuse_lost_logs(context)
        self._take_log_level(context)
        self._ignore(context)
        self._name_node(context)

    def _refuse_another_broker(self) -> None:
        conf = self._app.conf
        if {conf.broker_read_url, conf.broker_write_url} != {conf.get("broker_url")}:
            raise SettingsError(
                "Celery was given a broker (by -b, --broker, BROKER_URL or a CELERY_BROKER_* variable), and this "
                "worker takes its jobs from the Redis that RENDER_REDIS_URL names: remove the option and the variables"
            )

    def _refuse_other_queues(self, context: click.Context) -> None:
        """A worker serves the queue of its ledger: jobs in other queues are unknown to it, and it would drop them."""
        ours = self._settings.queue
        queues, excluded = context.params.get("queues") or [ours], context.params.get("exclude_queues") or []
        for name, wrong in (("queues", set(queues) != {ours}), ("exclude_queues", ours in excluded)):
            if wrong:
                given = f"{_as_given(context, name)} {','.join(context.params[name])}"
                raise SettingsError(
                    f"{given}: a worker serves the queue that RENDER_QUEUE names ({ours}), and no other: "
                    f"leave the option out, or set RENDER_QUEUE"
                )

    def _take_log_level(self, context: click.Context) -> None:
        if not _is_given(context, "loglevel"):
            return
        level = logging.getLevelName(context.params["loglevel"])
        if "log_level" not in self._settings.model_fields_set:
            self.log_level = level
        elif level != self._settings.log_level:
            why = f"RENDER_LOG_LEVEL is set ({self._settings.log_level})"
            self.ignored.append(Ignored(_as_given(context, "loglevel"), why))

    def _name_node(self, context: click.Context) -> None:
        """Celery calls all workers of a host alike, and monitors would take them for one. The ledger's name is unique.

        Without monitors, the name shows only where a log file's name has `%n`.
        """
        if self._settings.celery_events and not _is_given(context, "hostname"):
            context.params["hostname"] = f"{self._app.service.name}@{gethostname()}"

    def _ignore(self, context: click.Context) -> None:
        """Note each option that was given and has no effect, and set it back."""
        for name, (neutral, why) in NO_EFFECT.items():
            if name in ("concurrency", "prefetch_multiplier"):
                neutral = self._app.conf[neutral]
            if _is_given(context, name) and context.params[name] != neutral:
                self.ignored.append(Ignored(_as_given(context, name), why))
                context.params[name] = neutral
        before = context.find_root()
        self.ignored += [
            Ignored(_as_given(before, name), why) for name, why in NO_EFFECT_BEFORE.items() if _is_given(before, name)
        ]


class OwnPool(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2
    """The type of `--pool`: of all pools that Celery knows, this program runs in its own.

    It refuses others by name and does not import them, which for most would fail.
    """

    name = "pool"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The pool's class.

        `prefork` stands for the app's own pool, as in Celery: it is the default where -P is not given.
        """
        if isinstance(value, type):
            return value
        name = super().convert(value, param, ctx)
        assert ctx is not None
        own = concurrency.get_implementation(ctx.obj.app.conf.worker_pool)
        if name == "prefork" or (name == "custom" and _is_ours(_custom_pool())):
            return own
        end(foreign_pool(f"{_as_given(ctx, 'pool')} {name}"))


def foreign_pool(given: str) -> SettingsError:
    """The error of a pool that is not ours, with what to type."""
    return SettingsError(
        f"{given}: jobs are only rendered in this program's own pool, since they share one GPU thread. "
        f"Type: {TYPE_THIS}"
    )


def _custom_pool() -> Any:
    try:
        return concurrency.get_implementation("custom")  # as CELERY_CUSTOM_WORKER_POOL names it
    except Exception:  # noqa: BLE001 (the import of a stranger's module)
        return None


def _is_ours(pool: Any) -> bool:
    return isinstance(pool, type) and issubclass(pool, GpuPool)


def _refuse_lost_logs(context: click.Context) -> None:
    """Log lines that would go nowhere, and files that could not be opened once the terminal is gone."""
    if context.params.get("detach"):
        if not {"-D", "--detach"} & set(sys.argv):  # Celery takes only these out of the child's command line
            raise SettingsError("type --detach as a word of its own: otherwise Celery detaches again and again")
        if not context.params.get("logfile"):
            raise SettingsError("--detach needs --logfile FILE: without it, all lines of the worker's log are lost")
    if context.params.get("uid") or context.params.get("gid"):
        return  # another user may write other files; Celery opens them after it has changed the user
    for name in ("logfile", "pidfile"):
        if file := context.params.get(name):
            path = Path(node_format(file, context.params["hostname"]))
            if problem := _not_writable(path):
                raise SettingsError(f"{_as_given(context, name)} {path}: {problem}")


def _not_writable(path: Path) -> str:
    if path.is_dir():
        return "this is a folder; name a file"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}; make it first"
    target = path if path.exists() else path.parent
    return "" if os.access(target, os.W_OK) else f"{target} may not be written by this user"


# -- click ------------------------------------------------------------------------------------------------------------


def _hidden_option(name: str, call: Callable[[click.Context], None], *, is_eager: bool) -> click.Option:
    def callback(context: click.Context, _: click.Parameter, value: bool) -> bool:
        if not context.resilient_parsing:  # a shell that completes words
            try:
                call(context)
            except SettingsError as error:
                end(error)
        return value

    return click.Option([name], is_flag=True, hidden=True, expose_value=False, is_eager=is_eager, callback=callback)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def _as_given(context: click.Context, name: str) -> str:
    """The option as it was typed (`-P` or `--pool`), or the variable that its value comes from."""
    parameter = next(parameter for parameter in context.command.params if parameter.name == name)
    if context.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
        return f"{context.auto_envvar_prefix}_{name.upper()}"
    typed = {word.partition("=")[0] for word in sys.argv}
    long = (option for option in parameter.opts if option.startswith("--"))
    return next((option for option in parameter.opts if option in typed), next(long))
