"""Which of the sets in a bucket this machine takes, and what to do if none fits."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.backends import registry
from engines.device import Placement
from engines.errors import BackendUnavailable, EngineError, EngineSetRefused, NoSetFits
from engines.fit import placement_for
from engines.manifest import Manifest
from engines.store.catalogue import Catalogue, StoredSet

LONGEST_LIST = 20  # sets that the message of NoSetFits explains
OUT = Path("engine-set")
SHORT = 12  # characters of a digest, for people


@dataclass(frozen=True)
class Judged:
    """A set and whether it fits this machine: `why_not` is None if it does. `on_gpu` is where it would run."""

    stored: StoredSet
    why_not: EngineError | None
    on_gpu: bool = False


def judge(stored: StoredSet) -> Judged:
    """Apply the rules of loading to a set's manifest."""
    try:
        return Judged(stored, None, placement_here(stored.manifest).device.type == "cuda")
    except (BackendUnavailable, EngineSetRefused) as error:
        return Judged(stored, error)


def placement_here(manifest: Manifest) -> Placement:
    """Where a set would run on this machine.

    Raises:
        BackendUnavailable, EngineSetRefused: it cannot.
    """
    try:
        return placement_for(Path(manifest.digest[:SHORT]), manifest)
    except ImportError as error:  # torch itself, without which nothing runs
        raise BackendUnavailable(f"the package {error.name} is not installed") from error


def is_pinned(digest: str, pins: Sequence[str]) -> bool:
    """Whether a digest begins with one of the pins; without pins, any is taken."""
    return not pins or any(digest.startswith(pin) for pin in pins)


def choose(catalogue: Catalogue, pins: Sequence[str], *, root: str) -> StoredSet:
    """The set to take: of those that fit, the one that was built last. A GPU is not left idle by a set for the CPU.

    Raises:
        NoSetFits: no set fits; the sentence says why each does not fit, and how to build one.
    """
    judged = [judge(stored) for stored in catalogue.sets if is_pinned(stored.digest, pins)]
    fitting = [each for each in judged if each.why_not is None]
    if not fitting:
        raise NoSetFits("\n".join(_none_fits(catalogue, judged, pins, root)))
    on_gpu = [each for each in fitting if each.on_gpu]
    return (on_gpu or fitting)[-1].stored


def _none_fits(catalogue: Catalogue, judged: Sequence[Judged], pins: Sequence[str], root: str) -> Iterable[str]:
    if judged:
        yield f"no engine set in {root} fits this machine:"
    elif catalogue.sets:
        yield f"no engine set in {root} has a digest that begins with {' or '.join(pins)}; it holds:"
    else:
        yield f"there is no engine set in {root}"
    shown = judged or [Judged(stored, None) for stored in catalogue.sets]
    for each in shown[: -LONGEST_LIST - 1 : -1]:
        manifest = each.stored.manifest
        reason = "" if each.why_not is None else f": {each.why_not}"
        yield f"  {each.stored.digest[:SHORT]} ({manifest.backend}, {manifest.architecture or 'any machine'}){reason}"
    if len(shown) > LONGEST_LIST:
        yield f"  and {len(shown) - LONGEST_LIST} older ones"
    for left_out in catalogue.left_out[:LONGEST_LIST]:
        yield f"  {left_out.place} is not a complete set: {left_out.why}"
    yield f"build one on this kind of machine: {_build_command(judged, root)}"


def _build_command(judged: Sequence[Judged], root: str) -> str:
    push = shlex.join(["engines", "push", str(OUT), root])
    if not judged:
        return f"engines build --model MODEL --controlnet CONTROLNET --shape 512x512 --out {OUT} && {push}"
    # A set that is only of another version or architecture names the backend to use; else this machine's best one.
    known = [each for each in judged if each.stored.manifest.backend in registry.names()]
    near = [each for each in known if isinstance(each.why_not, EngineSetRefused)]
    manifest = (near or judged)[-1].stored.manifest
    return f"{(manifest if near else _for_this_machine(manifest)).build_command(OUT)} && {push}"


def _for_this_machine(manifest: Manifest) -> Manifest:
    try:
        backend = registry.choose(registry.AUTO)
        own = {"backend": backend.name, "runtime": backend.name, "precision": backend.usual_precision()}
        return manifest.model_copy(update={**own, "calibration": None})
    except ImportError:  # no torch: nothing can be asked of the machine
        return manifest.model_copy(update={"backend": registry.AUTO})
