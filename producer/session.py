"""What every command starts with: the settings and the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.errors import SettingsError
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import BatchInfo
from jobs.settings import Settings, load_settings, misspelt_variables
from producer.console import say
from producer.exits import CommandFailed, Exit


@dataclass(frozen=True)
class Session:
    """The settings and the ledger that they name."""

    settings: Settings
    ledger: Ledger

    def batch(self, name: str) -> BatchInfo:
        """What the ledger knows of a batch.

        Raises:
            CommandFailed: there is no batch of that name.
        """
        info = self.ledger.batch(name)
        if info is None:
            raise CommandFailed(Exit.NOT_FOUND, f"there is no batch {name!r}; {self._known()}")
        return info

    def _known(self) -> str:
        names = [info.name for info in self.ledger.batches()]
        if not names:
            return (
                "nothing has been submitted to this Redis yet (or it lost its data: producer reconcile --from-storage)"
            )
        latest = ", ".join(reversed(names[-5:]))
        return f"latest batches: {latest}" if len(names) > 5 else f"known batches: {latest}"


def open_session() -> Session:
    """Read the environment. Redis is contacted by the first question to the ledger.

    Raises:
        SettingsError: a bad variable.
    """
    settings = load_settings()
    for name, near in misspelt_variables().items():
        say(f"{name} is not a setting and is ignored; did you mean {near}?", "warning")
    try:
        return Session(settings, Ledger.connect(settings))
    except ValueError as error:  # what redis-py raises for a URL that it cannot read
        raise SettingsError(f"RENDER_REDIS_URL: {error}") from error
