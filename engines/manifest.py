"""manifest.json: what an engine set is. A set is loaded as its manifest says, or refused."""

from __future__ import annotations

import hashlib
import json
import shlex
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from engines.errors import EngineSetRefused
from engines.files import write_whole
from engines.noise_schedule import SD15, NoiseSchedule
from engines.source import Source
from engines.spec import COMPONENTS, ComponentSpec, Geometry, Profile, component_specs

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
EXPORT = "export"
BUILT_IN_SUBJECTS = "built-in"  # the source of a calibration without a CSV
# Packages that run what another one built with --version-compatible.
LEAN_RUNTIMES = ("tensorrt_lean",)

Precision = Literal["fp32", "fp16", "fp8"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(_Record):
    """One finished stage of one component: the digest of everything it was made from, and the files it made.

    `key` decides whether the stage is up to date; `files` (path in the set -> SHA-256) whether its files are unchanged.
    """

    key: str
    files: dict[str, str]
    seconds: float = 0.0


class Component(_Record):
    """One engine: its tensors, and the stages that it was built in, in order."""

    spec: ComponentSpec
    stages: Annotated[dict[str, Stage], Field(min_length=1)]

    @property
    def files(self) -> dict[str, str]:
        """The files that the runtime opens, with their SHA-256. An export that a later stage has read is left out."""
        last = list(self.stages)[-1]
        opened = [stage.files for name, stage in self.stages.items() if name != EXPORT or name == last]
        return {name: sha for files in opened for name, sha in files.items()}


class Calibration(_Record):
    """What the inputs of a quantized set's layers are divided by, and the pictures that were drawn to find out.

    `source` is the CSV that named them, or 'built-in'; `digest` is that of the CSV and its pictures.
    """

    source: str
    digest: str
    input_scales: dict[str, dict[str, float]]  # by component and layer


class Manifest(_Record):
    """Everything in manifest.json.

    `backend` is a name in the registry (engines/backends/registry.py), which refuses one that it does not know.
    `versions` are the packages that made the files; the one in `runtime` ('onnxruntime', 'tensorrt', ...) must be the
    same where the set is loaded. `architecture` is None for files that run anywhere, else 'sm89', 'cpu-avx2', ...
    `kernels` has the keys by which a backend finds its compiled kernels; it is not part of the digest.
    `precision` is that of the engines' inputs and outputs, and of most arithmetic; fp8 sets have quantized layers in a
    float16 network, and only they have a `calibration`.
    `schedule` is None in sets that were built before schedules were read: they are rendered with SD1.5's.
    """

    format: int = FORMAT
    backend: str
    runtime: str
    precision: Precision
    architecture: str | None
    geometry: Geometry
    profiles: Annotated[tuple[Profile, ...], Field(min_length=1)]
    source: Source
    versions: dict[str, str]
    tokenizer: Stage
    components: dict[str, Component]
    kernels: dict[str, str] = {}
    schedule: NoiseSchedule | None = None
    calibration: Calibration | None = None

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A set that has none of these is written as before the fields existed: older versions read it."""
        fields: dict[str, Any] = serialize(self)
        for name in ("kernels", "schedule", "calibration"):
            if not fields.get(name):
                fields.pop(name, None)
        return fields

    @property
    def digest(self) -> str:
        """Names this set in logs and sidecars: the same for the same contents, wherever it was built."""
        fields = self.model_dump(include={"format", "backend", "runtime", "precision", "architecture", "versions"})
        sizes = [self.geometry.model_dump(), *(profile.model_dump() for profile in self.profiles)]
        # SD1.5's schedule is left out, so that a set keeps the name it had before manifests held schedules.
        other = [] if self.schedule in (None, SD15) else [self.schedule.model_dump()]
        return json_key(fields, sizes, self.source.weights, self.files, *other)

    @property
    def built_with(self) -> dict[str, Any] | None:
        """What sidecars say of a set besides its model: quantization and additions; None without any."""
        quantized = {"precision": self.precision} if self.precision == "fp8" else {}
        return {**quantized, **(self.source.built_with or {})} or None

    @property
    def max_batch(self) -> int:
        """Images that every profile takes at once."""
        return min(profile.max_batch for profile in self.profiles)

    @property
    def context_chunks(self) -> int:
        """The most chunks of a prompt, of all profiles; more than one makes the engines' context dynamic."""
        return max(profile.max_context_chunks for profile in self.profiles)

    def context_chunks_at(self, height: int, width: int) -> int:
        """The most chunks of a prompt for pictures of this size (pixels); 0 if this size cannot be rendered."""
        covering = (profile for profile in self.profiles if profile.covers(height, width))
        return max((profile.max_context_chunks for profile in covering), default=0)

    @property
    def shapes_text(self) -> str:
        """The shapes that were built, HEIGHTxWIDTH, for messages."""
        return ", ".join(profile.text for profile in self.profiles)

    def covers(self, height: int, width: int) -> bool:
        """Whether pictures of this size (pixels) can be rendered."""
        return any(profile.covers(height, width) for profile in self.profiles)

    @property
    def files(self) -> dict[str, str]:
        """Every file that is loaded, with its SHA-256."""
        listed = dict(self.tokenizer.files)
        for component in self.components.values():
            listed |= component.files
        return listed

    @property
    def exports(self) -> dict[str, str]:
        """Exports that a later stage has read, with their SHA-256: only another `engines build` would use them."""
        stages = [stage for component in self.components.values() for stage in component.stages.values()]
        loaded = self.files
        return {name: sha for stage in stages for name, sha in stage.files.items() if name not in loaded}

    def save(self, folder: Path) -> None:
        """Write manifest.json whole or not at all."""
        write_whole(folder / MANIFEST, self.model_dump_json(indent=1) + "\n")

    def build_command(self, out: Path) -> str:
        """The command line that builds this set again, into `out`."""
        words = self.source.build_words()
        words += [word for profile in self.profiles for word in ("--shape", profile.text)]
        words += ["--max-batch", str(self.max_batch), "--backend", self.backend, "--precision", self.precision]
        if self.calibration is not None and self.calibration.source != BUILT_IN_SUBJECTS:
            words += ["--calibrate", self.calibration.source]
        words += ["--version-compatible"] * (self.runtime in LEAN_RUNTIMES)
        words += ["--context-chunks", str(self.context_chunks)] * (self.context_chunks > 1)
        return shlex.join(["engines", "build", *words, "--out", str(out)])


def load_manifest(folder: Path) -> Manifest:
    """Read a set's manifest.

    Raises:
        EngineSetRefused: no finished set there, another format, or a manifest that is not valid.
    """
    return parse_manifest(read_manifest(folder), folder / MANIFEST)


def read_manifest(folder: Path) -> bytes:
    """A set's manifest as it is written.

    Raises:
        EngineSetRefused: no finished set there, or its manifest cannot be read.
    """
    path = folder / MANIFEST
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        why = f"it has no {MANIFEST}" if folder.exists() else f"there is no folder {folder.absolute()}"
        raise EngineSetRefused(f"{folder} is not a finished engine set: {why}") from error
    except OSError as error:
        raise EngineSetRefused(f"{path} cannot be read: {error.strerror}") from error


def parse_manifest(data: bytes, path: Path | str) -> Manifest:
    """The manifest in `data`; `path` names it in sentences.

    Raises:
        EngineSetRefused: another format, or a manifest that is not valid.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise EngineSetRefused(f"{path} is not an engine set's manifest") from error
    _check_format(path, text)
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise EngineSetRefused(f"{path} is not valid at {where}: {problem['msg']}") from error
    _check_tables(path, manifest)
    _check_names(path, manifest)
    return manifest


def _check_format(path: Path | str, text: str) -> None:
    try:
        format_ = json.loads(text)["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineSetRefused(f"{path} is not an engine set's manifest") from error
    if format_ != FORMAT:
        older = isinstance(format_, int) and format_ < FORMAT
        advice = "build the set again" if older else "load it with the version that built it, or a later one"
        raise EngineSetRefused(f"{path} has format {format_}, this version reads {FORMAT}: {advice}")


def _check_names(path: Path | str, manifest: Manifest) -> None:
    """Refuse a manifest that would have files read or written outside the set's folder, or the manifest overwritten."""
    for name in manifest.files | manifest.exports:
        plain = PurePosixPath(name)
        outside = plain.is_absolute() or ".." in plain.parts or "\\" in name
        if outside or str(plain) != name or not name.isprintable() or plain.parts[:1] in ((), (MANIFEST,)):
            raise EngineSetRefused(
                f"{path} lists the file {name!r}, which is not the name of a file inside the set's folder"
            )
    if manifest.runtime not in manifest.versions:
        raise EngineSetRefused(f"{path} is not valid at versions: it has no version of the runtime, {manifest.runtime}")
    if (manifest.precision == "fp8") != (manifest.calibration is not None):
        has = "has no calibration" if manifest.calibration is None else "has a calibration"
        raise EngineSetRefused(
            f"{path} is not valid at calibration: a set of precision {manifest.precision} {has}; build it again"
        )


def _check_tables(path: Path | str, manifest: Manifest) -> None:
    """Refuse a set whose tensors are not the ones that a worker of this version feeds."""
    try:
        expected = component_specs(manifest.geometry, context_chunks=manifest.context_chunks)
    except ValueError as error:
        raise EngineSetRefused(f"{path} is not valid at geometry: it describes no model") from error
    for name in COMPONENTS:
        if name not in manifest.components:
            raise EngineSetRefused(f"{path} lists no {name} engine: the set is incomplete")
        if manifest.components[name].spec != expected[name]:
            raise EngineSetRefused(
                f"{path}: the {name} engine has other tensors than this version uses; build it again"
            )


def installed_version(package: str) -> str | None:
    """A package's version without build tags such as '+cpu', or None; imports nothing."""
    try:
        return metadata.version(package).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def json_key(*parts: object) -> str:
    """SHA-256 over JSON: the identity of a stage's inputs."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
