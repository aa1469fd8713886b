"""How a set comes about: what it is built for, its stages, and what stages are made with.

torch is imported only when a stage runs: a build that has nothing to do ends without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from engines.device import dtype_of
from engines.manifest import TOKENIZER, Precision
from engines.model.locate import Weights
from engines.noise_schedule import NoiseSchedule
from engines.sampler.source import SubjectSource
from engines.spec import ComponentSpec, Geometry, Profile, component_specs

if TYPE_CHECKING:
    from engines.model.networks import Networks
    from engines.model.tokenizer import SpecialTokens
    from engines.model.words import Word

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """What a set is built for on this machine; `runtime` is the package that loads it, one of `versions`."""

    backend: str
    runtime: str
    precision: Precision
    profiles: tuple[Profile, ...]
    architecture: str | None
    versions: dict[str, str]
    calibration: str | None = None  # digest of what a quantized set is calibrated with

    @property
    def context_chunks(self) -> int:
        """The most chunks of a prompt that a picture may have."""
        return max(profile.max_context_chunks for profile in self.profiles)


class BuildContext:
    """What stages are made with: the weights, the folder that becomes the set, and the networks, read once."""

    def __init__(
        self, weights: Weights, folder: Path, precision: Precision, subject_source: SubjectSource | None = None
    ) -> None:
        self.weights = weights
        self.subject_source = SubjectSource() if subject_source is None else subject_source
        self.folder = folder
        self.precision = precision
        self.geometry: Geometry | None = None  # from `describe` on
        self.specs: dict[str, ComponentSpec] = {}  # by component, from `describe` on
        self._networks: Networks | None = None
        self._modules: dict[str, Any] = {}
        self._made: dict[str, Any] = {}

    def describe(self, geometry: Geometry, *, context_chunks: int = 1) -> None:
        """Set the model's sizes; stages of components come after this."""
        self.geometry = geometry
        self.specs = component_specs(geometry, context_chunks=context_chunks)

    def read_geometry(self) -> Geometry:
        """Read the model's sizes from its networks, and hold the tokenizer against the text encoder.

        Raises:
            ModelRefused: they cannot be read, or do not belong together.
        """
        from engines.model.networks import geometry_of
        from engines.model.tokenizer import check_tokenizer

        tokens = self.save_tokenizer()
        check_tokenizer(self.weights.tokenizer_folder, tokens, self.networks().text_encoder.config)
        return geometry_of(self.networks(), tokens)

    def read_schedule(self) -> NoiseSchedule:
        """Read the model's noise schedule.

        Raises:
            ModelRefused: it cannot be read, or asks for mathematics that are not supported.
        """
        from engines.model.scheduler_config import read_schedule

        return read_schedule(self.weights)

    def save_tokenizer(self) -> SpecialTokens:
        """Write tokenizer.json, with the embeddings' words, into the folder; the ids of its special tokens."""
        from engines.model.tokenizer import save_tokenizer

        return save_tokenizer(self.weights.tokenizer_folder, self.folder / TOKENIZER, self.words())

    def words(self) -> list[Word]:
        """The words of the embeddings, with the number of their vectors."""
        if not self.weights.additions.embeddings:
            return []
        from engines.model.embedding import vectors_of
        from engines.model.words import Word

        room = Geometry().context_length - 2
        return [Word(each.word, len(vectors_of(each, room))) for each in self.weights.additions.embeddings]

    def networks(self) -> Networks:
        """The four networks in the set's precision."""
        if self._networks is None:
            from engines.model.networks import load_networks

            self._networks = load_networks(self.weights, dtype=dtype_of(self.precision))
        return self._networks

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made at the first call: for what the stages of several components need."""
        if name not in self._made:
            self._made[name] = make()
        made: T = self._made[name]
        return made

    def module(self, component: str) -> Any:
        """One component's torch module; a stage may change it for the stages after it."""
        if not self._modules:
            self._modules = dict(self.networks().modules())
        return self._modules[component]


class CompileJob(Protocol):
    """One compilation, as it is sent to another process."""

    @property
    def component(self) -> str:
        """The component that it compiles."""

    @property
    def path(self) -> Path:
        """The file that it writes, whole or not at all."""

    @property
    def effort(self) -> int:
        """How long it takes, roughly, beside others of its kind: the longest are started first."""

    def compile(self) -> float:
        """Compile; returns the seconds it took. Raises BuildFailed."""


@dataclass(frozen=True)
class BuildStage:
    """One stage of one component. It has either `make` or `job`.

    `inputs` is everything that its files depend on besides the files that it reads: if they change, the files change.
    `make` runs in the build's process, reads what the stage before it wrote (the first one: the weights), and returns
    the files that it wrote. `job` gives a compilation that runs beside others; its file depends on the networks'
    configuration, not on the weights. `others` are components whose weights the first stage reads besides its own.
    """

    name: str
    inputs: list[object]
    make: Callable[[BuildContext], Sequence[Path]] | None = None
    job: Callable[[BuildContext], CompileJob] | None = None
    others: tuple[str, ...] = ()
