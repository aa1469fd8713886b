"""A finished engine set as five callables from named tensors to named tensors, whatever the backend."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from engines.backends.protocol import Clipping, Engine, Runtime
from engines.backends.registry import backend_of
from engines.device import Placement, dtype_of
from engines.errors import EngineSetRefused
from engines.file_check import FileCheck
from engines.files import without_links
from engines.fit import placement_for
from engines.manifest import Manifest, load_manifest
from engines.noise_schedule import SD15, NoiseSchedule
from engines.spec import Geometry


class EngineSet:
    """One checked set. `load` opens engines, or their first use does; only one thread may use it at a time."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        folder: Path,
        placement: Placement,
        runtime: Runtime,
        check: FileCheck | None = None,
    ) -> None:
        """`check` has passed. It is repeated before an engine opens: `engines build` may have replaced the folder."""
        self.manifest = manifest
        self.folder = folder
        self.device = placement.device
        self._runtime = runtime
        self._check = check
        self._engines: dict[str, Engine] = {}

    @property
    def io_dtype(self) -> torch.dtype:
        """dtype of every floating input and output."""
        return dtype_of(self.manifest.precision)

    @property
    def geometry(self) -> Geometry:
        """The model's sizes."""
        return self.manifest.geometry

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The model's noise levels and timesteps; SD1.5's for a set that was built before manifests had them."""
        return self.manifest.schedule or SD15

    @property
    def max_batch(self) -> int:
        """Images a call; controlnet and unet take twice as many rows."""
        return self.manifest.max_batch

    def batch_size(self, images: int, height: int, width: int) -> int:
        """The batch that an engine really runs for so many images: some backends pad to sizes that they compiled."""
        backend = backend_of(self.folder, self.manifest)
        profiles = [profile for profile in self.manifest.profiles if profile.covers(height, width)]
        compiled = [size for profile in profiles for size in backend.batch_sizes(profile.max_batch)]
        return min(size for size in compiled if size >= images) if compiled else images

    @property
    def digest(self) -> str:
        """Names this set in logs and sidecars."""
        return self.manifest.digest

    @property
    def tokenizer_path(self) -> Path:
        """A tokenizer.json for the `tokenizers` package."""
        return self.folder / next(iter(self.manifest.tokenizer.files))

    @property
    def size_bytes(self) -> int:
        """The bytes of its files: about what its engines take on the device."""
        return sum((self.folder / name).stat().st_size for name in self.manifest.files)

    def supports(self, height: int, width: int) -> bool:
        """Whether pictures of this size (pixels) can be rendered."""
        return self.manifest.covers(height, width)

    def shapes_text(self) -> str:
        """The shapes that the set was built for, for messages."""
        return self.manifest.shapes_text

    def engine(self, name: str) -> Engine:
        """One component's callable, opened now if it is not open.

        Raises:
            EngineSetRefused: the backend does not take a file, or the set's files have changed since they were checked.
        """
        if name not in self._engines:
            if self._check is not None:
                self._check.again()
            self._engines[name] = self._runtime.open(name)
        return self._engines[name]

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """ControlNet and U-Net of a guided batch: the controlnet's inputs -> `latent`, the prediction [R,4,h,w].

        Rows n and N+n hold the same sample (spec.py).
        """
        return self._runtime.predict(self.engine("controlnet"), self.engine("unet"), inputs)

    def watch(self) -> None:
        """From now on, count what quantized layers clip; engines are opened anew."""
        self.close()
        self._runtime.watch()

    def clipped(self) -> Mapping[str, Clipping]:
        """What was counted since `watch`, by component; empty without quantized layers."""
        return self._runtime.clipped()

    def load(self, names: Iterable[str]) -> None:
        """Open components ahead of their first call.

        Raises:
            EngineSetRefused: the backend does not take a file, or finds other tensors in it; or the set's files have
                changed since they were checked.
        """
        for name in names:
            self.engine(name)

    def unload(self, names: Iterable[str]) -> None:
        """Drop components and their device memory; names that are unknown or not open are ignored."""
        for name in names:
            self._engines.pop(name, None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def forget_shapes(self) -> None:
        """Free what engines keep for the shapes that they have met; graphs that were captured of them are void."""
        for engine in self._engines.values():
            self._runtime.forget_shapes(engine)

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
    cache: Path | None = None,
) -> EngineSet:
    """Check a set and get it ready; engines open with `load` or at first use.

    `device` is 'auto', 'cpu' or 'cuda'. `weights`: refuse the set unless it was built from these (Weights.digest).
    `check`: a check of this set's files that was started earlier; without it one is started here. `cache`: where a
    backend may keep what it compiles at run time (RENDER_CACHE_DIR), None: nowhere.

    Raises:
        EngineSetRefused: the set is changed, incomplete, or built for other weights, another version or another GPU.
        BackendUnavailable: its backend is not installed, or needs a device that is not here.
    """
    folder = without_links(Path(path).expanduser())
    manifest = load_manifest(folder)
    backend = backend_of(folder, manifest)
    check_weights(manifest, weights)
    placement = replace(placement_for(folder, manifest, device=device, threads=threads), cache=cache)
    check = FileCheck(folder, manifest.files) if check is None else check
    check.wait()  # before any of its code runs
    runtime = backend.open(folder, manifest, placement)
    return EngineSet(manifest, folder=folder, placement=placement, runtime=runtime, check=check)


def check_weights(manifest: Manifest, weights: str | None) -> None:
    """Raises EngineSetRefused if `weights` are not the ones that the set was built from."""
    built = manifest.source.weights
    if weights is not None and weights != built:
        sentence = f"the set was built from other weights: {built[:12]}..., asked for {weights[:12]}..."
        if manifest.source.built_with is not None:
            sentence += f"; it has additions, and was built with {shlex.join(manifest.source.build_words())}"
        raise EngineSetRefused(sentence)
