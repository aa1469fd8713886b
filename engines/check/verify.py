"""`engines verify`: every component of a set against torch in float32, on the same inputs and the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from engines.backends.protocol import Clipping
from engines.backends.torch.runtime import TorchEngine
from engines.engine_set import EngineSet, check_weights, load_engine_set
from engines.errors import EngineSetRefused, ModelRefused
from engines.manifest import Manifest, load_manifest
from engines.model.locate import Weights, find_weights
from engines.model.networks import ComponentReader
from engines.model.scheduler_config import read_schedule
from engines.sampler.sample import sample
from engines.sampler.subjects import built_in
from engines.source import Source
from engines.spec import BOTH_HALVES, COMPONENTS, ComponentSpec, TensorSpec

# (rtol, atol), tightest first; a component outside all of them is wrong.
LADDER = ((1e-3, 1e-5), (1e-3, 1e-4), (1e-2, 1e-3))
# Pictures that clipped values are counted in, from seeds that no calibration uses, and their steps.
CLIPPED_PICTURES, FIRST_SEED, CLIPPED_STEPS = 3, 1000, 20


@dataclass(frozen=True)
class Finding:
    """How far one component is from the reference at one size. Each error is the worst of the component's outputs.

    `relative_error` is the largest absolute error over the largest absolute value of the reference tensor, `norm_error`
    the Euclidean norm of all errors over that of the reference. `rtol` and `atol` are the tightest pair of LADDER that
    holds for every element of every output, or None. `within` is a relative error that is accepted as well, or None:
    half precision needs it, since its rounding alone is more than the ladder allows for elements near zero.
    """

    component: str
    batch: int
    height: int
    width: int
    absolute_error: float
    relative_error: float
    rtol: float | None
    atol: float | None
    within: float | None = None
    norm_error: float | None = None
    context_chunks: int = 1

    @property
    def ok(self) -> bool:
        """Whether a pair of the ladder holds, or `within` does; NaN passes neither."""
        return self.rtol is not None or (self.within is not None and self.relative_error <= self.within)

    def to_json(self) -> dict[str, object]:
        """The finding as the command line prints it; `context_chunks` where there are several.

        An error that is not finite is None, since JSON has no NaN.
        """
        fields = {name: value if _is_json(value) else None for name, value in asdict(self).items()}
        if self.context_chunks == 1:
            del fields["context_chunks"]
        return {**fields, "ok": self.ok}


def _is_json(value: object) -> bool:
    return not isinstance(value, float) or isfinite(value)


def verify(
    path: Path, weights: Weights | None = None, *, within: float | None = None, device: str = "auto"
) -> Iterator[Finding]:
    """Compare each component at the smallest and largest size of every profile, and with its longest prompts.

    `weights` default to those that the manifest names; `within` is as in Finding.

    Raises:
        EngineSetRefused: the set does not load, was built from other weights, or has another noise schedule.
        ModelRefused: the weights are no longer there.
    """
    with load_engine_set(path, device=device) as engines:
        weights = weights or _own_weights(engines.manifest.source)
        check_weights(engines.manifest, weights.digest)
        check_schedule(engines, weights)
        reader = ComponentReader(weights, torch.float32)
        for name in COMPONENTS:
            spec = engines.manifest.components[name].spec
            reference = TorchEngine(reader.read(name).to(engines.device), spec)
            for size in sizes(engines.manifest):
                yield replace(compare(engines, reference, spec, size), within=within)
            for chunks, size in long_prompts(engines.manifest, spec):
                yield replace(compare(engines, reference, spec, size, chunks=chunks), within=within)
            engines.unload([name])


def _own_weights(source: Source) -> Weights:
    """Those that a set was built from, where they were then."""
    try:
        return find_weights(
            source.model,
            source.controlnet,
            tokenizer=source.tokenizer,
            original_config=source.original_config,
            take_beside=False,
            additions=source.additions,
        )
    except ModelRefused as error:
        raise ModelRefused(
            f"the weights are not where they were when the set was built ({error}); name them as for engines build: "
            "--model, --controlnet and the other options"
        ) from error


def clipping(path: Path, *, device: str = "auto") -> Mapping[str, Clipping]:
    """What the quantized layers of each component clip while pictures of random shapes are drawn; see CLIPPED_PICTURES.

    Empty for a set without quantized layers.

    Raises:
        EngineSetRefused: the set does not load.
    """
    if load_manifest(path).calibration is None:
        return {}
    with load_engine_set(path, device=device) as engines:
        engines.watch()
        profile = engines.manifest.profiles[0]
        for seed in range(CLIPPED_PICTURES):
            subject = built_in(profile.min_height, profile.min_width, FIRST_SEED + seed)
            sample(engines, subject, steps=CLIPPED_STEPS)
        return dict(engines.clipped())


def check_schedule(engines: EngineSet, weights: Weights) -> None:
    """Refuse a set that is rendered with another noise schedule than its model's.

    Raises:
        EngineSetRefused: the set was built before schedules were read, and the model's is not SD1.5's.
        ModelRefused: the model's schedule is not supported.
    """
    trained = read_schedule(weights)
    if engines.noise_schedule != trained:
        raise EngineSetRefused(
            f"{engines.folder} is rendered with another noise schedule than its model's, which has "
            f"{trained.differences(engines.noise_schedule)}: build it again"
        )


def sizes(manifest: Manifest) -> list[tuple[int, int, int]]:
    """(images, height, width): a full batch of the smallest picture and one of the largest, of every profile."""
    ends = []
    for profile in manifest.profiles:
        ends.append((profile.max_batch, profile.min_height, profile.min_width))
        ends.append((profile.min_batch, profile.max_height, profile.max_width))
    return list(dict.fromkeys(ends))


def long_prompts(manifest: Manifest, spec: ComponentSpec) -> list[tuple[int, tuple[int, int, int]]]:
    """The chunks of the longest prompts, and a size as in `sizes`, of every profile. None where no prompt comes in."""
    if not any(dimension.endswith("k") for tensor in spec.inputs for dimension in tensor.dynamic.values()):
        return []
    found = [
        (profile.max_context_chunks, (profile.min_batch, profile.min_height, profile.min_width))
        for profile in manifest.profiles
        if profile.max_context_chunks > 1
    ]
    return list(dict.fromkeys(found))


def compare(
    engines: EngineSet, reference: TorchEngine, spec: ComponentSpec, size: tuple[int, int, int], *, chunks: int = 1
) -> Finding:
    """One component at one size (images, height, width), with prompts of so many chunks."""
    batch, height, width = size
    inputs = likely_inputs(spec, batch, height=height, width=width, chunks=chunks)
    with torch.backends.cudnn.flags(allow_tf32=False):  # on a GPU too, the reference is full float32
        expected = reference({name: tensor.to(engines.device) for name, tensor in inputs.items()})
    actual = engines.engine(spec.name)({name: _for_engine(tensor, engines) for name, tensor in inputs.items()})
    pairs = [(actual[tensor.name].float().cpu(), expected[tensor.name].cpu()) for tensor in spec.outputs]
    errors = [float((mine - theirs).abs().max()) for mine, theirs in pairs]
    relative = [error / max(float(theirs.abs().max()), 1e-12) for error, (_, theirs) in zip(errors, pairs, strict=True)]
    norms = [float((mine - theirs).norm() / theirs.norm().clamp(min=1e-12)) for mine, theirs in pairs]
    rtol, atol = tightest(pairs)
    worst = _largest(errors), _largest(relative)
    finding = Finding(spec.name, batch, height, width, *worst, rtol, atol, norm_error=_largest(norms))
    return replace(finding, context_chunks=chunks)


def _largest(errors: list[float]) -> float:
    """The maximum, NaN if one is NaN: Python's max would lose it."""
    return float(torch.tensor(errors).max())


def tightest(pairs: list[tuple[Tensor, Tensor]]) -> tuple[float | None, float | None]:
    """The first pair of LADDER that holds for every element of every pair; none holds for NaN."""
    for rtol, atol in LADDER:
        if all(torch.allclose(actual, expected, rtol=rtol, atol=atol) for actual, expected in pairs):
            return rtol, atol
    return None, None


def _for_engine(tensor: Tensor, engines: EngineSet) -> Tensor:
    tensor = tensor.to(engines.device)
    return tensor.to(engines.io_dtype) if tensor.is_floating_point() else tensor


def likely_inputs(spec: ComponentSpec, batch: int, *, height: int, width: int, chunks: int = 1) -> dict[str, Tensor]:
    """Seeded float32 inputs like those of a render: edges, timesteps, scales, token ids, unit noise."""
    generator = torch.Generator().manual_seed(0)
    inputs = {}
    for tensor in spec.inputs:
        shape = tensor.sized(batch, height=height, width=width, chunks=chunks)
        if tensor.name in BOTH_HALVES:
            one = likely(tensor, (batch, *shape[1:]), generator)
            inputs[tensor.name] = torch.cat([one, one])
        else:
            inputs[tensor.name] = likely(tensor, shape, generator)
    return inputs


def likely(tensor: TensorSpec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """One input of `likely_inputs`: int64 token ids, all others float32."""
    if tensor.name == "input_ids":
        return torch.randint(0, 512, shape, generator=generator)  # the symbols for bytes: every CLIP has them
    if tensor.name == "hint":
        return (torch.rand(shape, generator=generator) < 0.1).float()
    if tensor.name == "timestep":
        return torch.randint(0, 1000, shape, generator=generator).float()
    if tensor.name == "control_scales":
        return torch.rand(shape, generator=generator)
    if tensor.name == "latent":
        return torch.randn(shape, generator=generator) * 4  # latents divided by 0.18215 have about this spread
    return torch.randn(shape, generator=generator)
