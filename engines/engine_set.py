"""A finished engine set as five callables from named tensors to named tensors, whatever the backend."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from engines.device import architecture_of
from engines.errors import BackendUnavailable, EngineSetRefused
from engines.manifest import FileCheck, Manifest, installed_version, load_manifest
from engines.spec import Geometry

Engine = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Named tensors on the set's device in, named tensors out; names, shapes and dtypes as in spec.py."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """Where engines of one set run; `threads` is for the CPU, None leaves it to the library."""

    device: torch.device
    threads: int | None


class Backend(ABC):
    """What runtime_<backend>.py gives: one object that opens components and shares what they share."""

    @abstractmethod
    def open(self, name: str) -> Engine:
        """Load one component; it lives until the engine is dropped."""

    def predict(self, controlnet: Engine, unet: Engine, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As EngineSet.predict: one after the other, where a backend knows nothing better."""
        return unet({**inputs, **controlnet(inputs)})


class EngineSet:
    """One set, checked. Engines are opened by `load` or when first asked for; one thread at a time."""

    def __init__(self, manifest: Manifest, *, folder: Path, placement: Placement, backend: Backend) -> None:
        self.manifest = manifest
        self.folder = folder
        self.device = placement.device
        self._backend = backend
        self._engines: dict[str, Engine] = {}

    @property
    def io_dtype(self) -> torch.dtype:
        """dtype of every floating input and output."""
        return DTYPES[self.manifest.precision]

    @property
    def geometry(self) -> Geometry:
        """The model's sizes."""
        return self.manifest.geometry

    @property
    def max_batch(self) -> int:
        """Images a call; controlnet and unet take twice as many rows."""
        return self.manifest.max_batch

    def batch_size(self, images: int, height: int, width: int) -> int:
        """The images that an engine runs for so many: compiled packages have fixed sizes, other engines take any."""
        if self.manifest.backend != "inductor":
            return images
        from engines.backends.inductor.packages import sizes_of

        sizes = sizes_of("unet", self.manifest.profiles)
        fitting = [size.batch for size in sizes if (size.height, size.width) == (height, width)]
        return min(batch for batch in fitting if batch >= images)

    @property
    def digest(self) -> str:
        """Names this set in logs and sidecars."""
        return self.manifest.digest

    @property
    def tokenizer_path(self) -> Path:
        """A tokenizer.json for the `tokenizers` package."""
        return self.folder / next(iter(self.manifest.tokenizer.files))

    def supports(self, height: int, width: int) -> bool:
        """Whether pictures of this size (pixels) can be rendered."""
        return self.manifest.covers(height, width)

    def shapes_text(self) -> str:
        """The shapes that were built, for messages."""
        return self.manifest.shapes_text

    def engine(self, name: str) -> Engine:
        """One component's callable; opened now if it was not."""
        if name not in self._engines:
            self._engines[name] = self._backend.open(name)
        return self._engines[name]

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Control net and U-Net of a guided batch: the controlnet's inputs -> `latent`, the predicted noise [R,4,h,w].

        Rows n and N+n hold the same sample (spec.py).
        """
        return self._backend.predict(self.engine("controlnet"), self.engine("unet"), inputs)

    def load(self, names: Iterable[str]) -> None:
        """Open components ahead of their first call.

        Raises:
            EngineSetRefused: the backend does not take a file, or finds other tensors in it.
        """
        for name in names:
            self.engine(name)

    def unload(self, names: Iterable[str]) -> None:
        """Drop components and the device memory they hold; unknown or dropped ones are no error."""
        for name in names:
            self._engines.pop(name, None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Drop everything."""
        self.unload(tuple(self._engines))

    def __enter__(self) -> EngineSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_engine_set(
    path: Path | str,
    *,
    device: str = "auto",
    threads: int | None = None,
    weights: str | None = None,
    check: FileCheck | None = None,
) -> EngineSet:
    """Check a set and get it ready; engines open with `load` or at first use.

    `device` is 'auto', 'cpu' or 'cuda'. `weights`: refuse the set unless it was built from these (Weights.digest).
    `check`: of this set's files, begun earlier; begun here without it.

    Raises:
        EngineSetRefused: changed, incomplete, or built for other weights, another version or another GPU.
        BackendUnavailable: its backend is not installed, or needs a device that is not here.
    """
    folder = Path(path).expanduser()
    manifest = load_manifest(folder)
    check_weights(manifest, weights)
    check_version(manifest)
    placement = Placement(_device(manifest, device), threads)
    check_architecture(manifest, placement.device)
    (FileCheck(folder, manifest.files) if check is None else check).wait()  # before anything of it runs
    module = importlib.import_module(_MODULES[manifest.backend])
    return EngineSet(
        manifest, folder=folder, placement=placement, backend=module.open_backend(folder, manifest, placement)
    )


_MODULES = {
    "torch": "engines.backends.torch",
    "inductor": "engines.backends.inductor.runtime",
    "onnxruntime": "engines.backends.onnxruntime.runtime",
    "tensorrt": "engines.backends.tensorrt.runtime",
    "triton": "engines.backends.triton.runtime",
}


def check_weights(manifest: Manifest, weights: str | None) -> None:
    """Raises EngineSetRefused if other weights are wanted than the set was built from."""
    built = manifest.source.weights
    if weights is not None and weights != built:
        raise EngineSetRefused(f"the set was built from other weights: {built[:12]}..., asked for {weights[:12]}...")


def check_version(manifest: Manifest) -> None:
    """Raises EngineSetRefused if the backend's package has another version than at build time."""
    package, built = manifest.runtime, manifest.versions[manifest.runtime]
    found = installed_version(package)
    if found is None:
        raise BackendUnavailable(f"the set needs the package {package} ({built}), which is not installed")
    if found != built:
        raise EngineSetRefused(f"the set was built for {package} {built}, but {found} is installed; build it again")


def check_architecture(manifest: Manifest, device: torch.device) -> None:
    """Raises EngineSetRefused if the set's machine code is another GPU's, or another CPU's."""
    if manifest.architecture is None:
        return
    found = architecture_of(device)
    if found != manifest.architecture:
        what = f"GPU ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "CPU"
        raise EngineSetRefused(f"the set was built for {manifest.architecture}, this machine's {what} is {found}")


def _device(manifest: Manifest, wanted: str) -> torch.device:
    backend = manifest.backend
    if wanted not in ("auto", "cpu", "cuda"):
        raise BackendUnavailable(f"unknown device {wanted!r}; use auto, cpu or cuda")
    if backend == "onnxruntime":
        if wanted == "cuda":
            raise BackendUnavailable("an onnxruntime set runs on the CPU; build one with tensorrt or torch for the GPU")
        return torch.device("cpu")
    code = manifest.architecture
    if code is not None:  # machine code: the set decides
        needed = "cpu" if code.startswith("cpu") else "cuda"
        if wanted not in ("auto", needed):
            where = "an NVIDIA GPU" if needed == "cuda" else "a CPU"
            raise BackendUnavailable(f"the set was built for {code} and needs {where}; device {wanted} was asked for")
        wanted = needed
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise BackendUnavailable(f"a {backend} set on cuda needs an NVIDIA GPU, and torch sees none here")
    return torch.device("cuda" if has_gpu and wanted != "cpu" else "cpu")
