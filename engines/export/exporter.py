"""Weights to a folder with four ONNX files, checked before they appear: all of them at once, or none.

Everything happens in `<out>.building`, which takes `<out>`'s place in one rename. Nothing heavy is imported before it
is known that all packages are installed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engines.backends.recipe import BuildContext
from engines.backends.stages import EXPORT_PACKAGES
from engines.build.builder import Report, Step
from engines.build.staging import check_replaceable, publish, staging
from engines.errors import BackendUnavailable, BuildFailed, ExportDiffers
from engines.export.sizes import OPSET, Sizes
from engines.files import file_sha256, write_whole
from engines.manifest import TOKENIZER, installed_version
from engines.model.locate import Weights
from engines.noise_schedule import NoiseSchedule

if TYPE_CHECKING:
    from engines.export.check import Comparison
    from engines.export.graphs import Graph

T = TypeVar("T")

EXPORT = "export.json"
PACKAGES = (*EXPORT_PACKAGES, "onnxruntime")
# A protobuf file ends at 2 GiB, graph included: larger weights go to a file of their own, as CONTROL_UNET's do.
INLINE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class ExportRequest:
    """What the user asked for; `inline_bytes` is the size of weights above which they get a file of their own."""

    weights: Weights
    out: Path
    sizes: Sizes
    opset: int = OPSET
    inline_bytes: int = INLINE_BYTES


@dataclass(frozen=True)
class ExportedFile:
    """One graph on disk: the names and SHA-256 of its one or two files, and how it compares with torch."""

    graph: Graph
    files: dict[str, str]
    bytes: int
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, object]:
        """The file as the command line prints it. rtol and atol hold in all runs; they are null if none does."""
        spec, worst = self.graph.spec, max(self.comparisons, key=lambda each: (not each.ok, each.rtol, each.atol))
        tables = {"inputs": spec.inputs, "outputs": spec.outputs}
        return {
            "name": f"{self.graph.name}.onnx",
            "files": self.files,
            "bytes": self.bytes,
            **{kind: [_tensor_json(tensor) for tensor in tensors] for kind, tensors in tables.items()},
            "rtol": worst.rtol,
            "atol": worst.atol,
            "runs": [comparison.to_json() for comparison in self.comparisons],
        }


@dataclass(frozen=True)
class ExportedWord:
    """A word of prompts that stands for an embedding: its file, and its tokens' ids in CLIP."""

    word: str
    file: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Exported:
    """What was exported. Unless `ok`, a graph differs from torch and the folder is as it was."""

    request: ExportRequest
    weights: str  # their digest
    schedule: NoiseSchedule
    scaling_factor: float
    files: tuple[ExportedFile, ...]
    words: tuple[ExportedWord, ...] = ()

    @property
    def comparisons(self) -> list[Comparison]:
        """All runs of all graphs."""
        return [comparison for file in self.files for comparison in file.comparisons]

    @property
    def ok(self) -> bool:
        """Whether every run is within a pair of the ladder."""
        return all(comparison.ok for comparison in self.comparisons)

    @property
    def has_words(self) -> bool:
        """Whether CLIP has tokens that only the tokenizer.json beside it gives: those of embeddings."""
        return bool(self.request.weights.additions.embeddings)

    @property
    def names(self) -> list[str]:
        """Everything in the folder."""
        beside = [EXPORT, TOKENIZER] if self.has_words else [EXPORT]
        return [*beside, *(name for file in self.files for name in file.files)]

    def require(self) -> None:
        """Refuse to end as if all were well.

        Raises:
            ExportDiffers: a graph is within no pair of the ladder.
        """
        for comparison in self.comparisons:
            if not comparison.ok:
                raise ExportDiffers(
                    f"{comparison.graph}.onnx differs from torch: its largest error is {comparison.absolute_error:.2g} "
                    f"({comparison.relative_error:.2g} of the largest value); {self.request.out} is as it was"
                )

    def to_json(self) -> dict[str, object]:
        """The contents of export.json."""
        return {
            "ok": self.ok,
            "opset": self.request.opset,
            "shape": self.request.sizes.text,
            "weights": self.weights,
            "schedule": self.schedule.model_dump(),
            "scaling_factor": self.scaling_factor,
            **({"tokenizer": TOKENIZER, "words": list(map(asdict, self.words))} if self.has_words else {}),
            "versions": {package: installed_version(package) for package in PACKAGES},
            "graphs": [file.to_json() for file in self.files],
        }


def _tensor_json(tensor: Any) -> dict[str, object]:
    """Axes by the names that they have in the file."""
    shape = [size if isinstance(size, int) else size.replace("/", "_") for size in tensor.shape]
    return {"name": tensor.name, "dtype": "float32" if tensor.dtype == "float" else tensor.dtype, "shape": shape}


def require_packages() -> None:
    """Refuse to begin without the packages that export and check.

    Raises:
        BackendUnavailable: naming what is missing, and the extra that brings it.
    """
    missing = [package for package in PACKAGES if installed_version(package) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise BackendUnavailable(
            f"exporting needs {', '.join(missing)}, which {are} not installed; "
            "pip install 'batch-renderer[engines]' brings all that it needs"
        )


def export_graphs(request: ExportRequest, report: Report = lambda _: None) -> Exported:
    """Export, check and compare the four graphs, and put them into `request.out` if all hold.

    Raises:
        ModelRefused, BackendUnavailable, BuildFailed: see errors.py; the folder stays as it was.
    """
    require_packages()
    check_target(request.out)
    from engines.export.graphs import lineage_graphs

    with staging(request.out) as folder:
        _clear(folder)
        context = BuildContext(request.weights, folder, "fp32")
        schedule, geometry = context.read_schedule(), context.read_geometry()
        graphs = lineage_graphs(context.networks(), geometry, request.sizes)
        files = tuple(_export(graph, request, folder, report) for graph in graphs)
        words = _words(context)
        exported = Exported(request, request.weights.digest, schedule, geometry.scaling_factor, files, words)
        if exported.ok:
            write_whole(folder / EXPORT, json.dumps(exported.to_json(), indent=1))
            publish(folder, request.out, exported.names)
    return exported


def _words(context: BuildContext) -> tuple[ExportedWord, ...]:
    """The embeddings' tokens come last in the text encoder's table, in order."""
    words, embeddings = context.words(), context.weights.additions.embeddings
    if not words:
        return ()
    first = context.networks().text_encoder.config.vocab_size - sum(word.vectors for word in words)
    exported = []
    for word, embedding in zip(words, embeddings, strict=True):
        ids = tuple(range(first, first + word.vectors))
        exported.append(ExportedWord(word.text, str(embedding.path.absolute()), ids))
        first += word.vectors
    return tuple(exported)


def _clear(folder: Path) -> None:
    """Drop what a killed export left: nothing of it is taken over."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _export(graph: Graph, request: ExportRequest, folder: Path, report: Report) -> ExportedFile:
    from engines.export.check import check_file, compare
    from engines.model.onnx_export import save_onnx, trace_onnx

    def write() -> list[Path]:
        model = trace_onnx(graph.module, graph.spec, graph.inputs(graph.traced), folder=folder, opset=request.opset)
        return save_onnx(model, folder / f"{graph.name}.onnx", inline_bytes=request.inline_bytes)

    def check() -> tuple[Comparison, ...]:
        check_file(paths[0], opset=request.opset)
        return tuple(compare(paths[0], graph))

    paths = _timed(graph.name, "export", write, report)
    comparisons = _timed(graph.name, "check", check, report)
    files = {path.name: file_sha256(path) for path in paths}
    return ExportedFile(graph, files, sum(path.stat().st_size for path in paths), comparisons)


def _timed(name: str, stage: str, work: Callable[[], T], report: Report) -> T:
    report(Step(name, stage, "start"))
    started = time.monotonic()
    done = work()
    report(Step(name, stage, "done", time.monotonic() - started))
    return done


def check_target(out: Path) -> None:
    """Refuse a target that holds anything that no export wrote, such as a plan: the folder is replaced as a whole.

    Raises:
        BuildFailed: naming the file, or why `out` cannot be looked at.
    """
    try:
        check_replaceable(out)
        if out.exists() and not out.is_dir():
            raise BuildFailed(f"{out} is a file; name a folder with --out")
        present = {path.name for path in out.iterdir()} if out.is_dir() else set()
    except OSError as error:
        raise BuildFailed(f"{out}: {error.strerror}; name another folder with --out") from error
    strange = sorted(present - set(_written(out)))
    if strange:
        raise BuildFailed(f"{out} holds {strange[0]}, which no export wrote; name another folder with --out")


def _written(out: Path) -> Iterable[str]:
    """The names that an earlier export left there."""
    try:
        record = json.loads((out / EXPORT).read_text(encoding="utf-8"))
        beside = [EXPORT, TOKENIZER] if record.get("tokenizer") == TOKENIZER else [EXPORT]
        return [*beside, *(name for graph in record["graphs"] for name in graph["files"])]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
