"""Which of the engine sets that a worker holds draws a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from jobs.errors import EngineSetNotHeld
from jobs.job import RenderJob

DEFAULT = "default"  # of several sets, the one that draws rows without a model
DIGITS = 12  # of a digest, in sentences
SHOWN = 20  # names in a sentence


class Held(Protocol):
    """An engine set, or what stands for it."""

    @property
    def digest(self) -> str:
        """The digest in the set's manifest."""


AnyHeld = TypeVar("AnyHeld", bound=Held)


def set_for(sets: Mapping[str, AnyHeld], job: RenderJob) -> AnyHeld:
    """The job's engine set, of those held by name: the one called as its model, or that its batch is kept to.

    Without either it is the only set, or the one called `default`.

    Raises:
        EngineSetNotHeld: there is no such set; the sentence names those that are held.
    """
    model, digits = job.parameters.model, job.engine_set
    if model is not None:
        if model not in sets:
            raise EngineSetNotHeld(
                f"the row asks for model {model!r}, and this worker holds {_names(sets)} (the column model, or the "
                "folders below RENDER_ENGINE_DIR of the workers)"
            )
        if digits is not None and not sets[model].digest.startswith(digits):
            raise EngineSetNotHeld(
                f"the batch is kept to engine set {digits}, and this worker's model {model!r} is "
                f"{sets[model].digest[:DIGITS]} (RENDER_ENGINE_DIR of the workers, or --engine-set of producer submit)"
            )
        return sets[model]
    if digits is not None:
        return _of_digest(sets, digits)
    only = next(iter(sets.values()))
    if all(one.digest == only.digest for one in sets.values()):
        return only
    if DEFAULT not in sets:
        raise EngineSetNotHeld(
            f"the row asks for no model, and this worker holds several, none of them called {DEFAULT!r}: "
            f"{_names(sets)} (the column model, or --model of producer submit)"
        )
    return sets[DEFAULT]


def _of_digest(sets: Mapping[str, AnyHeld], digits: str) -> AnyHeld:
    fitting = {name: one for name, one in sets.items() if one.digest.startswith(digits)}
    if not fitting:
        shown = _names(sets) if len(sets) > 1 else next(iter(sets.values())).digest[:DIGITS]
        raise EngineSetNotHeld(
            f"the batch is kept to engine set {digits}, and this worker holds {shown} "
            "(RENDER_ENGINE_DIR of the workers, or --engine-set of producer submit)"
        )
    return fitting.get(DEFAULT, next(iter(fitting.values())))


def _names(sets: Mapping[str, Held]) -> str:
    shown = [f"{name} ({one.digest[:DIGITS]})" for name, one in list(sets.items())[:SHOWN]]
    more = [f"and {len(sets) - SHOWN} more"] if len(sets) > SHOWN else []
    return ", ".join(shown + more)
