"""Every input and output of an engine: its name, shape, dtype and range of sizes, as data. No torch here.

A dimension is a number or a text: 'N' images, 'R' rows (2N: conditional and unconditional), 'S' tokens of a prompt (in
`engines export` only), 'h' and 'w' latent cells, '8h' pixels, 'h/2' a control at stride 2, '77k' the tokens of k
chunks. The exporter's dynamic axes, TensorRT's profiles, the manifest and the tests are all made from this table, so
each name is written once.

The first half of the R rows is unconditional. Rows n and N+n are the same sample: in the tensors of BOTH_HALVES the two
halves are equal, and an engine may read only one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

COMPONENTS = ("clip", "hint", "controlnet", "unet", "decoder")
CONTROLS = 13
BOTH_HALVES = ("x_noisy", "guided_hint", "timestep")
# The VAE shrinks a picture eightfold and the U-Net halves the latents three times; other sizes would not come out even.
PIXEL_MULTIPLE = 64
# Chunks of a prompt: 4,800 tokens. A row's prompt has at most 8,000 characters.
MOST_CONTEXT_CHUNKS = 64
_DIMENSION = re.compile(r"(?P<times>\d+)?(?P<axis>[NRShwk])(?:/(?P<over>\d+))?")
_SHAPE = re.compile(r"(\d+)x(\d+)(?::(\d+)x(\d+))?")

Dimension = int | str


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Geometry(_Data):
    """The sizes in which models with the same module graph differ. Defaults: SD1.5."""

    latent_channels: int = 4
    image_channels: int = 3
    vae_factor: int = 8
    scaling_factor: float = 0.18215
    context_length: int = 77
    context_width: int = 768
    hint_channels: int = 320
    control_channels: tuple[int, ...] = (320,) * 4 + (640,) * 3 + (1280,) * 6
    control_strides: tuple[int, ...] = (1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8)
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    pad_token_id: int = 49407


class TensorSpec(_Data):
    """One named input or output. dtype is 'float' (the set's precision) or 'int64'."""

    name: str
    shape: tuple[Dimension, ...]
    dtype: str = "float"

    def sized(self, batch: int, *, height: int, width: int, chunks: int = 1) -> tuple[int, ...]:
        """The shape in numbers, for `batch` images of `height` x `width` pixels whose prompts have `chunks` chunks."""
        return self.with_sizes({"N": batch, "R": 2 * batch, "h": height // 8, "w": width // 8, "k": chunks})

    def with_sizes(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in numbers, for given sizes of N, R, h, w and k."""
        return tuple(_sized(dimension, sizes) for dimension in self.shape)

    def sizes_of(self, shape: Sequence[int]) -> dict[str, int]:
        """N, R, h, w and k, as far as a tensor of this shape shows them: the inverse of `with_sizes`."""
        sizes = {}
        for dimension, size in zip(self.shape, shape, strict=True):
            if isinstance(dimension, str):
                times, axis, over = _parts(dimension)
                sizes[axis] = size * over // times
        return sizes

    @property
    def dynamic(self) -> dict[int, str]:
        """Axis -> dimension, for the axes that are not fixed numbers."""
        return {axis: dimension for axis, dimension in enumerate(self.shape) if isinstance(dimension, str)}


def _sized(dimension: Dimension, sizes: Mapping[str, int]) -> int:
    if isinstance(dimension, int):
        return dimension
    times, axis, over = _parts(dimension)
    return times * sizes[axis] // over


def _parts(dimension: str) -> tuple[int, str, int]:
    """'8h' -> (8, 'h', 1); 'h/2' -> (1, 'h', 2)."""
    match = _DIMENSION.fullmatch(dimension)
    assert match is not None, dimension
    return int(match["times"] or 1), match["axis"], int(match["over"] or 1)


class ComponentSpec(_Data):
    """One engine's inputs and outputs, in its module's order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Profile(_Data):
    """One range of sizes: images a batch, pixels, and chunks of prompts from 1. `opt` is what TensorRT tunes for.

    `max_context_chunks` is left out where it is 1: such sets are written as before this field existed.
    """

    min_batch: int = Field(default=1, ge=1)
    opt_batch: int = Field(default=1, ge=1)
    max_batch: int = Field(default=1, ge=1)
    min_height: int
    max_height: int
    min_width: int
    max_width: int
    max_context_chunks: int = Field(default=1, ge=1, le=MOST_CONTEXT_CHUNKS)

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        if self.max_context_chunks == 1:
            fields.pop("max_context_chunks", None)
        return fields

    @model_validator(mode="after")
    def _in_order(self) -> Profile:
        if not self.min_batch <= self.opt_batch <= self.max_batch:
            raise ValueError(f"batches out of order: {self.min_batch}, {self.opt_batch}, {self.max_batch}")
        if self.min_height > self.max_height or self.min_width > self.max_width:
            raise ValueError(f"{self.text}: the smaller shape comes first")
        sides = (self.min_height, self.max_height, self.min_width, self.max_width)
        if any(side <= 0 or side % PIXEL_MULTIPLE for side in sides):
            raise ValueError(f"{self.text}: sides must be multiples of {PIXEL_MULTIPLE} pixels")
        return self

    @classmethod
    def parse(cls, text: str, *, max_batch: int, context_chunks: int = 1) -> Profile:
        """'512x512' (HEIGHTxWIDTH), or a range '256x256:512x768'.

        Raises:
            ValueError: another form, sides that are not multiples of 64, or a range whose end is below its start.
        """
        match = _SHAPE.fullmatch(text.strip().lower())
        if match is None:
            raise ValueError(f"{text!r} is not a shape; write HEIGHTxWIDTH, or a range 256x256:512x768")
        low_height, low_width, high_height, high_width = match.groups()
        return cls(
            max_batch=max_batch,
            opt_batch=max_batch,
            min_height=int(low_height),
            min_width=int(low_width),
            max_height=int(high_height or low_height),
            max_width=int(high_width or low_width),
            max_context_chunks=context_chunks,
        )

    @property
    def text(self) -> str:
        """The shape as `parse` reads it."""
        low, high = f"{self.min_height}x{self.min_width}", f"{self.max_height}x{self.max_width}"
        return low if low == high else f"{low}:{high}"

    def covers(self, height: int, width: int) -> bool:
        """Whether pictures of this size (pixels) can be rendered."""
        in_range = self.min_height <= height <= self.max_height and self.min_width <= width <= self.max_width
        return in_range and height % PIXEL_MULTIPLE == 0 and width % PIXEL_MULTIPLE == 0

    def bounds(self, tensor: TensorSpec) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """(min, opt, max) shape of one tensor; opt is the largest picture at the usual batch, with a short prompt."""
        return (
            tensor.sized(self.min_batch, height=self.min_height, width=self.min_width),
            tensor.sized(self.opt_batch, height=self.max_height, width=self.max_width),
            tensor.sized(self.max_batch, height=self.max_height, width=self.max_width, chunks=self.max_context_chunks),
        )


def component_specs(geometry: Geometry, *, context_chunks: int = 1) -> dict[str, ComponentSpec]:
    """The inputs and outputs of all engines for one model's sizes, by component name.

    With more than one of `context_chunks` the context's length is dynamic; with one it is a number, as it always was.
    The text encoder takes chunk by chunk, in its batch.
    """
    text = (geometry.context_length, geometry.context_width)
    length: Dimension = geometry.context_length if context_chunks == 1 else f"{geometry.context_length}k"
    noisy = TensorSpec(name="x_noisy", shape=("R", geometry.latent_channels, "h", "w"))
    timestep = TensorSpec(name="timestep", shape=("R",))
    context = TensorSpec(name="context", shape=("R", length, geometry.context_width))
    image = ("N", geometry.image_channels, f"{geometry.vae_factor}h", f"{geometry.vae_factor}w")
    controls = _controls(geometry.control_channels, geometry.control_strides)
    scales = TensorSpec(name="control_scales", shape=("R", CONTROLS))
    latents = ("N", geometry.latent_channels, "h", "w")
    tables = (
        _component(
            "clip",
            [TensorSpec(name="input_ids", shape=("N", geometry.context_length), dtype="int64")],
            [TensorSpec(name="last_hidden_state", shape=("N", *text))],
        ),
        _component(
            "hint",
            [TensorSpec(name="hint", shape=image)],
            [TensorSpec(name="guided_hint", shape=("N", geometry.hint_channels, "h", "w"))],
        ),
        _component(
            "controlnet",
            [
                noisy,
                TensorSpec(name="guided_hint", shape=("R", geometry.hint_channels, "h", "w")),
                timestep,
                context,
                scales,
            ],
            controls,
        ),
        _component(
            "unet",
            [noisy, timestep, context, *controls],
            [TensorSpec(name="latent", shape=("R", geometry.latent_channels, "h", "w"))],
        ),
        _component("decoder", [TensorSpec(name="latent", shape=latents)], [TensorSpec(name="image", shape=image)]),
    )
    return {component.name: component for component in tables}


def _component(name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> ComponentSpec:
    return ComponentSpec(name=name, inputs=tuple(inputs), outputs=tuple(outputs))


def _controls(channels: Sequence[int], strides: Sequence[int]) -> list[TensorSpec]:
    return [
        TensorSpec(name=f"control{i}", shape=("R", width, _strided("h", stride), _strided("w", stride)))
        for i, (width, stride) in enumerate(zip(channels, strides, strict=True))
    ]


def _strided(axis: str, stride: int) -> str:
    return axis if stride == 1 else f"{axis}/{stride}"
