"""`engines build`: weights to a finished engine set, stage by stage, doing again only what changed.

Everything happens in `<out>.building`; the finished set takes `<out>`'s place in one rename, so a half-built set is
never loaded. A stage is skipped if its key (the digest of everything that goes into it) is in the old set or in an
interrupted build, and its files still have the recorded hashes. A file's existence alone never skips a stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel

from engines.backends import registry
from engines.backends.recipe import BuildContext, BuildStage, CompileJob, Recipe
from engines.build.origin import source_of
from engines.build.recipe import recipe_for, tokenizer_stage
from engines.build.staging import PROGRESS, check_target, link, publish, staging
from engines.errors import BackendUnavailable, EngineSetRefused, ModelRefused
from engines.files import file_sha256, write_whole
from engines.manifest import Calibration, Component, Manifest, Precision, Stage, json_key, load_manifest
from engines.model.locate import find_weights
from engines.noise_schedule import NoiseSchedule
from engines.sampler.source import SubjectSource
from engines.source import NO_ADDITIONS, AdditionNames
from engines.spec import COMPONENTS, Geometry, Profile

# Every whole number up to this one is a float16.
HALF_PRECISION_INTEGERS = 2048


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked for. Only some backends take `compute_capability` ('sm89'); None: this machine's GPU."""

    model: str
    controlnet: str | None
    out: Path
    backend: str
    precision: Precision
    profiles: tuple[Profile, ...]
    compute_capability: str | None = None
    tokenizer: str | None = None  # for a model without one
    original_config: str | None = None  # of single-file checkpoints; None: SD1.5's
    jobs: int | None = None  # processes that compile; None: half as many as cores
    additions: AdditionNames = NO_ADDITIONS  # LoRAs, another VAE, embeddings, clip skip
    calibrate: Path | None = None  # a CSV for quantized sets; None: random shapes
    version_compatible: bool = False  # for a smaller package than the builder's (tensorrt)
    reuse: tuple[Path, ...] = ()  # finished sets whose stages are taken over where they are the same


@dataclass(frozen=True)
class Step:
    """One stage of one component, as reported: about to run, reused, or done."""

    component: str
    stage: str
    state: str  # 'start', 'reused' or 'done'
    seconds: float = 0.0


@dataclass(frozen=True)
class Built:
    """The finished set; `steps` is the number of stages that ran. Other shapes may change a set without any."""

    manifest: Manifest
    steps: int
    changed: bool


Report = Callable[[Step], None]


class Progress(BaseModel):
    """The finished stages of an interrupted build: written after every stage."""

    weights: str
    geometry: Geometry | None = None
    schedule: NoiseSchedule | None = None
    stages: dict[str, Stage] = {}  # by key


def build_set(request: BuildRequest, report: Report = lambda _: None) -> Built:
    """Build or complete the set in `request.out`.

    Raises:
        ModelRefused, BackendUnavailable, BuildFailed: see errors.py; the old set, if any, stays as it was.
    """
    check_target(request.out)  # before the weights are downloaded
    weights = find_weights(
        request.model,
        request.controlnet,
        tokenizer=request.tokenizer,
        original_config=request.original_config,
        additions=request.additions,
    )
    recipe = recipe_for(
        request.backend,
        precision=request.precision,
        profiles=request.profiles,
        capability=request.compute_capability,
        version_compatible=request.version_compatible,
    )
    subjects = SubjectSource(request.calibrate)
    if request.precision == "fp8":
        recipe = replace(recipe, calibration=subjects.digest)
        subjects.check()
    elif request.calibrate is not None:
        raise BackendUnavailable("--calibrate is for --precision fp8; other sets need no calibration")
    with staging(request.out) as folder:
        builder = _Builder(request, recipe, BuildContext(weights, folder, request.precision, subjects), report)
        manifest = builder.manifest()
        if builder.ran == 0 and builder.old is not None and _says_the_same(builder.old, manifest):
            return Built(builder.old, steps=0, changed=False)
        manifest.save(folder)
        publish(folder, request.out, [name for stage in _stages_of(manifest).values() for name in stage.files])
        return Built(manifest, builder.ran, changed=True)


class _Builder:
    """One build under way."""

    def __init__(self, request: BuildRequest, recipe: Recipe, context: BuildContext, report: Report) -> None:
        self.request = request
        self.recipe = recipe
        self.context = context
        self.report = report
        self.folder = context.folder
        self.digest = context.weights.digest
        self.old = _old_manifest(request.out)
        self.finished = [
            (request.out, _stages_of(self.old)),
            *((folder, _stages_in(folder)) for folder in request.reuse),
        ]
        self.progress = _old_progress(self.folder, self.digest)
        self.ran = 0
        self._backend = registry.choose(recipe.backend)

    def manifest(self) -> Manifest:
        """Run or reuse every stage."""
        geometry, schedule = self._model()  # first: a model or an addition that is refused leaves no stage behind
        tokenizer = self._stage("tokenizer", tokenizer_stage(self.recipe), ())
        self.context.describe(geometry, context_chunks=self.recipe.context_chunks)
        planned = {name: self._backend.stages(self.recipe, name) for name in COMPONENTS}
        self._compile(planned)
        components = {
            name: Component(spec=self.context.specs[name], stages=self._stages(name, stages))
            for name, stages in planned.items()
        }
        manifest = Manifest(
            backend=self.recipe.backend,
            runtime=self.recipe.runtime,
            precision=self.recipe.precision,
            architecture=self.recipe.architecture,
            geometry=geometry,
            profiles=self.recipe.profiles,
            source=source_of(self.request, self.context.weights, self.digest),
            versions=self.recipe.versions,
            tokenizer=tokenizer,
            components=components,
            kernels=self._backend.kernel_keys(self.recipe),
            schedule=schedule,
        )
        return manifest.model_copy(update={"calibration": self._calibration(manifest)})

    def _calibration(self, manifest: Manifest) -> Calibration | None:
        digest = self.recipe.calibration
        if digest is None:
            return None
        scales = self._backend.input_scales(self.folder, manifest)
        return Calibration(source=self.context.subject_source.text, digest=digest, input_scales=scales)

    def _stages(self, component: str, planned: Sequence[BuildStage]) -> dict[str, Stage]:
        stages: dict[str, Stage] = {}
        before: tuple[str, ...] = ()
        for stage in planned:
            stages[stage.name] = self._stage(component, stage, before)
            before = tuple(stages[stage.name].files.values())
        return stages

    def _compile(self, planned: dict[str, tuple[BuildStage, ...]]) -> None:
        """Compile what is missing, in parallel; `_stages` then reuses it."""
        stages: dict[Path, BuildStage] = {}  # by the file that the job writes
        jobs: list[CompileJob] = []
        for component, its_stages in planned.items():
            for stage in its_stages:
                if stage.job is not None and self._reused(self._key(component, stage)) is None:
                    self.report(Step(component, stage.name, "start"))
                    jobs.append(stage.job(self.context))
                    stages[jobs[-1].path] = stage
        if not jobs:
            return
        from engines.build.compile import compile_all, usual_processes

        processes = self.request.jobs
        for job, seconds in compile_all(jobs, usual_processes() if processes is None else processes):
            self._finish(job.component, stages[job.path], (), [job.path], seconds)

    def _stage(self, component: str, stage: BuildStage, before: tuple[str, ...]) -> Stage:
        """`before`: hashes of the files that the stage reads; the first stage reads the weights."""
        reused = self._reused(self._key(component, stage, before))
        if reused is not None:
            self.report(Step(component, stage.name, "reused"))
            return reused
        assert stage.make is not None, stage.name
        self.report(Step(component, stage.name, "start"))
        started = time.monotonic()
        paths = stage.make(self.context)
        return self._finish(component, stage, before, paths, time.monotonic() - started)

    def _key(self, component: str, stage: BuildStage, before: tuple[str, ...] = ()) -> str:
        weights = self.context.weights
        if stage.job is not None:
            reads: object = weights.graph_digest(component)  # compiled code holds no weights
        elif stage.others:
            reads = [weights.digest_of(each) for each in (component, *stage.others)]
        else:
            reads = before or weights.digest_of(component)
        return json_key(stage.name, stage.inputs, reads)

    def _finish(
        self, component: str, stage: BuildStage, before: tuple[str, ...], paths: Sequence[Path], seconds: float
    ) -> Stage:
        files = {path.relative_to(self.folder).as_posix(): file_sha256(path) for path in paths}
        finished = Stage(key=self._key(component, stage, before), files=files, seconds=round(seconds, 2))
        self.ran += 1
        self._record(finished)
        self.report(Step(component, stage.name, "done", finished.seconds))
        return finished

    def _reused(self, key: str) -> Stage | None:
        stage = self.progress.stages.get(key)
        if stage is not None and _intact(self.folder, stage):
            return stage
        for folder, stages in self.finished:
            stage = stages.get(key)
            if stage is not None and _intact(folder, stage):
                for name in stage.files:
                    link(folder / name, self.folder / name)
                self._record(stage)
                return stage
        return None

    def _record(self, stage: Stage) -> None:
        self.progress.stages[stage.key] = stage
        write_whole(self.folder / PROGRESS, self.progress.model_dump_json())

    def _model(self) -> tuple[Geometry, NoiseSchedule]:
        """The model's sizes and schedule: from an earlier build of these weights, or else from the weights.

        A set without a schedule was built before the weights were checked completely, so they are read once more.
        """
        progress, old = self.progress, self.old
        if progress.geometry is None or progress.schedule is None:
            if old is not None and old.source.weights == self.digest and old.schedule is not None:
                progress.geometry, progress.schedule = old.geometry, old.schedule
            else:
                progress.schedule = self.context.read_schedule()
                progress.geometry = self.context.read_geometry()
        check_timesteps(progress.schedule, self.recipe.precision)
        return progress.geometry, progress.schedule


def _says_the_same(old: Manifest, new: Manifest) -> bool:
    """Whether a set is up to date. One whose weights or pictures lie elsewhere now is not: commands look there."""
    return all(getattr(old, name) == getattr(new, name) for name in ("digest", "schedule", "source", "calibration"))


def check_timesteps(schedule: NoiseSchedule, precision: Precision) -> None:
    """Refuse a schedule whose timesteps the engines' inputs cannot hold.

    Raises:
        ModelRefused: half precision has every whole number up to 2048 only.
    """
    if precision != "fp32" and schedule.num_train_timesteps > HALF_PRECISION_INTEGERS:
        raise ModelRefused(
            f"the model has {schedule.num_train_timesteps} training timesteps, and {precision} engines take at most "
            f"{HALF_PRECISION_INTEGERS}; build with --precision fp32"
        )


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


def _stages_in(folder: Path) -> dict[str, Stage]:
    """The stages of another finished set. Raises EngineSetRefused: the folder is not a finished set."""
    return _stages_of(load_manifest(folder))


def _stages_of(manifest: Manifest | None) -> dict[str, Stage]:
    if manifest is None:
        return {}
    stages = [stage for component in manifest.components.values() for stage in component.stages.values()]
    return {stage.key: stage for stage in [manifest.tokenizer, *stages]}


def _intact(folder: Path, stage: Stage) -> bool:
    return all((folder / name).is_file() and file_sha256(folder / name) == sha for name, sha in stage.files.items())
