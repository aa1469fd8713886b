"""`engines build`: weights to a finished engine set, stage by stage, doing again only what changed.

Everything happens in `<out>.building`; the finished set takes `<out>`'s place in one rename, so a half-built set is
never loaded. A stage is skipped when its key (the digest of all that goes into it) is found in the old set or in an
interrupted build, and its files still have the hashes noted there; never because a file exists.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from engines.build.recipe import Recipe, StageMaker, recipe_for
from engines.errors import BuildFailed, EngineSetRefused
from engines.manifest import (
    MANIFEST,
    BackendName,
    Component,
    Manifest,
    Precision,
    Source,
    Stage,
    json_key,
    load_manifest,
)
from engines.model.locate import Weights, file_sha256, find_weights
from engines.spec import COMPONENTS, ComponentSpec, Geometry, Profile, component_specs

PROGRESS = "progress.json"


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked for; `compute_capability` ('sm89') is for tensorrt only, None means this machine's GPU."""

    model: str
    controlnet: str | None
    out: Path
    backend: BackendName
    precision: Precision
    profiles: tuple[Profile, ...]
    compute_capability: str | None = None
    tokenizer: str | None = None  # where the model brings none
    original_config: str | None = None  # of single-file checkpoints; None: SD1.5's
    jobs: int | None = None  # processes that compile for triton and inductor; None: as many as the machine bears


@dataclass(frozen=True)
class Step:
    """One stage of one component, as reported: about to run, reused, or done."""

    component: str
    stage: str
    state: str  # 'start', 'reused' or 'done'
    seconds: float = 0.0


@dataclass(frozen=True)
class Built:
    """The finished set; `steps` counts the stages that had to run. Other shapes may change a set without any."""

    manifest: Manifest
    steps: int
    changed: bool


Report = Callable[[Step], None]


class Progress(BaseModel):
    """What an interrupted build had finished: written after every stage."""

    weights: str
    geometry: Geometry | None = None
    stages: dict[str, Stage] = {}  # by key


def build_set(request: BuildRequest, report: Report = lambda _: None) -> Built:
    """Build or complete the set in `request.out`.

    Raises:
        ModelRefused, BackendUnavailable, BuildFailed: see errors.py; the old set, if any, stays as it was.
    """
    weights = find_weights(
        request.model, request.controlnet, tokenizer=request.tokenizer, original_config=request.original_config
    )
    recipe = recipe_for(
        request.backend, precision=request.precision, profiles=request.profiles, capability=request.compute_capability
    )
    _check_target(request.out)
    with _staging(request.out) as folder:
        builder = _Builder(request, weights, recipe, folder, report)
        manifest = builder.manifest()
        if builder.ran == 0 and builder.old is not None and builder.old.digest == manifest.digest:
            return Built(builder.old, steps=0, changed=False)
        manifest.save(folder)
        (folder / PROGRESS).unlink(missing_ok=True)
        _sweep(folder, manifest)
        _replace(request.out, folder)
        return Built(manifest, builder.ran, changed=True)


class _Builder:
    """One build under way."""

    def __init__(self, request: BuildRequest, weights: Weights, recipe: Recipe, folder: Path, report: Report) -> None:
        self.request = request
        self.recipe = recipe
        self.folder = folder
        self.report = report
        self.weights = weights
        self.digest = weights.digest
        self.old = _old_manifest(request.out)
        self.progress = _old_progress(folder, self.digest)
        self.ran = 0
        self._maker = StageMaker(weights, recipe, folder)

    def manifest(self) -> Manifest:
        """Run or reuse every stage."""
        tokenizer = self._stage("tokenizer", "tokenizer", ())
        geometry = self._geometry()
        specs = component_specs(geometry)
        self._maker.geometry = geometry
        self._compile(specs)
        components = {name: Component(spec=specs[name], stages=self._stages(name)) for name in COMPONENTS}
        return Manifest(
            backend=self.request.backend,
            runtime=self.recipe.runtime,
            precision=self.request.precision,
            architecture=self.recipe.architecture,
            geometry=geometry,
            profiles=self.request.profiles,
            source=_source(self.request, self.digest),
            versions=self.recipe.versions,
            tokenizer=tokenizer,
            components=components,
        )

    def _stages(self, name: str) -> dict[str, Stage]:
        stages: dict[str, Stage] = {}
        before: tuple[str, ...] = ()
        for stage in self.recipe.stages_of(name):
            stages[stage] = self._stage(name, stage, before)
            before = tuple(stages[stage].files.values())
        return stages

    def _compile(self, specs: dict[str, ComponentSpec]) -> None:
        """Compile what is missing, in parallel; `_stages` finds it made."""
        missing = [
            (name, stage)
            for name in COMPONENTS
            for stage in self.recipe.compiled_of(name)
            if self._reused(self._key(name, stage, ())) is None
        ]
        jobs = [self._maker.compile_job(specs[name], stage) for name, stage in missing]
        for job in jobs:
            self.report(Step(job.component, job.stage, "start"))
        for job, seconds in self._maker.compile(jobs, self.request.jobs):
            self._finish(job.component, job.stage, (), [job.path], round(seconds, 2))

    def _stage(self, name: str, stage: str, before: tuple[str, ...]) -> Stage:
        """`before`: hashes of the files that the stage reads; the first stage reads the weights."""
        found = self._reused(self._key(name, stage, before))
        if found is not None:
            self.report(Step(name, stage, "reused"))
            return found
        self.report(Step(name, stage, "start"))
        started = time.monotonic()
        paths = self._maker.make(name, stage)
        return self._finish(name, stage, before, paths, round(time.monotonic() - started, 2))

    def _key(self, name: str, stage: str, before: tuple[str, ...]) -> str:
        if stage in self.recipe.compiled_of(name):
            read: object = self.weights.config_digest  # code, no weights
        else:
            read = before if before else self.digest
        return json_key(stage, self.recipe.inputs(name, stage), read)

    def _finish(self, name: str, stage: str, before: tuple[str, ...], paths: Sequence[Path], seconds: float) -> Stage:
        files = {path.relative_to(self.folder).as_posix(): file_sha256(path) for path in paths}
        made = Stage(key=self._key(name, stage, before), files=files, seconds=seconds)
        self.ran += 1
        self._note(made)
        self.report(Step(name, stage, "done", seconds))
        return made

    def _reused(self, key: str) -> Stage | None:
        found = self.progress.stages.get(key)
        if found is not None and _intact(self.folder, found):
            return found
        found = _stages_of(self.old).get(key)
        if found is None or not _intact(self.request.out, found):
            return None
        for name in found.files:
            _link(self.request.out / name, self.folder / name)
        self._note(found)
        return found

    def _note(self, stage: Stage) -> None:
        self.progress.stages[stage.key] = stage
        self._save_progress()

    def _save_progress(self) -> None:
        temporary = self.folder / f".{PROGRESS}.new"
        temporary.write_text(self.progress.model_dump_json())
        temporary.replace(self.folder / PROGRESS)

    def _geometry(self) -> Geometry:
        """From the networks, or from where they were looked at before."""
        if self.progress.geometry is None:
            same = self.old is not None and self.old.source.weights == self.digest
            known = self.old.geometry if same and self.old is not None else self._maker.read_geometry()
            self.progress.geometry = known
            self._save_progress()
        return self.progress.geometry


def _source(request: BuildRequest, digest: str) -> Source:
    named = (request.model, request.controlnet, request.tokenizer, request.original_config)
    model, controlnet, tokenizer, config = (None if name is None else _absolute(name) for name in named)
    assert model is not None
    return Source(model=model, controlnet=controlnet, weights=digest, tokenizer=tokenizer, original_config=config)


def _absolute(name: str) -> str:
    """A path that `verify` finds from another folder; a hub id stays as it is."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def _check_target(out: Path) -> None:
    """The target is replaced whole: make sure that it is ours to replace."""
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise BuildFailed(f"{out} is not empty and is no engine set; name another folder with --out")
    if out.exists() and not out.is_dir():
        raise BuildFailed(f"{out} is a file; name a folder with --out")


def _old_manifest(out: Path) -> Manifest | None:
    try:
        return load_manifest(out)
    except EngineSetRefused:
        return None  # nothing to reuse: no set there, or one of another format


def _old_progress(folder: Path, weights: str) -> Progress:
    try:
        progress = Progress.model_validate_json((folder / PROGRESS).read_text())
    except (OSError, ValueError):
        progress = Progress(weights=weights)
    return progress if progress.weights == weights else Progress(weights=weights)


def _stages_of(manifest: Manifest | None) -> dict[str, Stage]:
    if manifest is None:
        return {}
    stages = [stage for component in manifest.components.values() for stage in component.stages.values()]
    return {stage.key: stage for stage in [manifest.tokenizer, *stages]}


def _intact(folder: Path, stage: Stage) -> bool:
    return all((folder / name).is_file() and file_sha256(folder / name) == sha for name, sha in stage.files.items())


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """`<out>.building`, locked against a second build; removed when it holds nothing worth resuming.

    Raises:
        BuildFailed: another build has it, or the disk does not take it.
    """
    folder = out.with_name(out.name + ".building")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise BuildFailed(f"{folder} cannot be made: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise BuildFailed(f"another build is writing {folder}; wait for it, or stop it") from error
    succeeded = False
    try:
        _unlink_shared(folder)
        yield folder
        succeeded = True
    except OSError as error:
        raise BuildFailed(f"{error.filename or folder}: {error.strerror or error}") from error
    finally:
        if succeeded or not (folder / PROGRESS).exists():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _unlink_shared(folder: Path) -> None:
    """Drop what an interrupted build linked from the finished set: a stage that wrote there would change that set."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_nlink > 1:
            path.unlink()


def _sweep(folder: Path, manifest: Manifest) -> None:
    """Remove what an interrupted build left behind and this set does not list; let everybody read the rest."""
    kept = {name for stage in _stages_of(manifest).values() for name in stage.files} | {MANIFEST}
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.relative_to(folder).as_posix() not in kept:
            path.unlink()
        elif path.stat().st_nlink == 1:
            path.chmod(0o644)  # libraries write some of them for their owner only; workers are other users


def _replace(out: Path, folder: Path) -> None:
    """Between the two renames there is no set; a worker that starts just then says so and is started again."""
    retired = out.with_name(out.name + ".retired")
    shutil.rmtree(retired, ignore_errors=True)
    if out.exists():
        out.rename(retired)
    folder.rename(out)
    shutil.rmtree(retired, ignore_errors=True)
