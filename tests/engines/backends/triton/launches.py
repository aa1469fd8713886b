"""The kernel launches of the triton networks without a GPU: run on tensors without data, recorded instead of launched.

from tests.engines.backends.triton.launches import recorded
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor

from engines.backends.triton import ops
from engines.backends.triton.components import ENGINES, ControlNetEngine, UNetEngine, predict
from engines.backends.triton.operands import QUANTIZED, Layer, Norm
from engines.backends.triton.parameters import Parameters
from engines.backends.triton.quantize import layer_names, quantized
from engines.backends.triton.tiles import Device
from engines.model.networks import wrap
from engines.spec import Geometry, component_specs

pytest.importorskip("triton", reason="triton is not installed: torch's CUDA builds bring it, its CPU builds do not")

from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from engines.backends.triton import kernels, products

TYPES = {QUANTIZED: "fp8e4nv", torch.float16: "fp16", torch.float32: "fp32", torch.int64: "i64"}
ALIGNED = 16  # bytes: Triton compiles another kernel for an address that is no multiple


class Launch(NamedTuple):
    """Everything that decides which binary a launch needs. Two launches with equal fields share one."""

    kernel: str
    types: tuple[tuple[str, str], ...]  # Triton's, of the arguments that are no constants
    aligned: tuple[str, ...]  # the arguments whose addresses are multiples of ALIGNED
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, int], ...]


class Card(NamedTuple):
    """What kernels.py asks of a card, and the shared memory that a block may have there."""

    name: str
    capability: int
    processors: int
    copies_tiles: bool
    roomy: bool
    shared_bytes: int


# Shared memory per block: CUDA's programming guide, table of compute capabilities.
CARDS = (
    Card("A100", 80, 108, False, False, 163 * 1024),
    Card("RTX 3090", 86, 82, False, False, 99 * 1024),
    Card("RTX 4090", 89, 128, False, False, 99 * 1024),
    Card("H200", 90, 132, True, True, 227 * 1024),
    Card("RTX 5090", 120, 170, True, False, 99 * 1024),
)


@contextmanager
def recorded(card: Card) -> Iterator[set[Launch]]:
    """The set of launches on this card of what runs inside the block, on the device 'meta'."""
    launches: set[Launch] = set()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("joined", "unfolded"):
            patch.setattr(ops, name, getattr(kernels, name))
        for each in (_group_norm, _layer_norm, _geglu, _product):
            patch.setattr(ops, each.__name__.removeprefix("_"), each)
        patch.setattr(products, "_device", lambda _: Device(card.processors, card.shared_bytes))
        patch.setattr(ops, "self_attention", lambda qkv, _: qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3))
        patch.setattr(ops, "attention", lambda query, *_: torch.empty_like(query))
        patch.setattr(kernels, "_device", lambda _: (card.processors, card.copies_tiles, card.roomy))
        patch.setattr(JITFunction, "run", lambda kernel, *args, **options: launches.add(_launch(kernel, args, options)))
        yield launches


def _group_norm(x: Tensor, deferred: Tensor, norm: Norm, *, silu: bool, into: Layer | None = None) -> Tensor:
    return kernels.group_norm(x, deferred, norm, silu=silu, quantized=None if into is None else into.quantized)


def _layer_norm(x: Tensor, deferred: Tensor, norm: Norm, *, into: Layer | None = None) -> Tensor:
    return kernels.layer_norm(x, deferred, norm, None if into is None else into.quantized)


def _geglu(x: Tensor, up: Layer, bias: Tensor, *, into: Layer) -> Tensor:
    if into.quantized is None:
        return kernels.geglu(x, up.weight, bias)
    return products.gated(x, up, bias, into.quantized)


def _product(x: Tensor, layer: Layer, *, added: Tensor | None = None) -> Tensor:
    if layer.quantized is None:
        return x.new_empty(*x.shape[:-1], layer.outputs)
    shaped = x if x.dim() == 4 else x.view(1, 1, *x.shape)
    return products.product(shaped, layer, added).view(*x.shape[:-1], layer.outputs)


def _launch(kernel: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Launch:
    values = dict(zip(kernel.arg_names, args, strict=False)) | keywords
    types, aligned, constants = [], [], []
    for parameter in kernel.params:
        value = values[parameter.name]
        if parameter.is_constexpr:
            constants.append((parameter.name, value))
            continue
        assert not isinstance(value, int) or parameter.do_not_specialize, f"{parameter.name} of {kernel.__name__}"
        types.append((parameter.name, _type(value)))
        specialized = isinstance(value, Tensor) and not parameter.do_not_specialize_on_alignment
        if specialized and value.storage_offset() * value.element_size() % ALIGNED == 0:
            aligned.append(parameter.name)
    options = tuple((name, keywords[name]) for name in ("num_warps", "num_stages") if name in keywords)
    return Launch(kernel.__name__, tuple(types), tuple(aligned), tuple(constants), options)


def _type(value: Any) -> str:
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{TYPES[value.base.dtype]}{list(value.block_shape)}>"
    if isinstance(value, Tensor):
        return f"*{TYPES[value.dtype]}"
    return "fp32" if isinstance(value, float) else "i32" if abs(value) < 2**31 else "i64"


class Engines:
    """ControlNet, U-Net and decoder on the device 'meta', in float16: the components with kernels of their own."""

    def __init__(
        self, widths: tuple[int, ...], vae_widths: tuple[int, ...], *, groups: int, context: int, fp8: bool = False
    ) -> None:
        with torch.device("meta"):
            unet = UNet2DConditionModel(
                block_out_channels=widths,
                norm_num_groups=groups,
                cross_attention_dim=context,
                attention_head_dim=8,
                down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            )
            controlnet = ControlNetModel(
                block_out_channels=widths,
                norm_num_groups=groups,
                cross_attention_dim=context,
                attention_head_dim=8,
                down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            )
            vae = AutoencoderKL(
                block_out_channels=vae_widths,
                norm_num_groups=groups,
                layers_per_block=2,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            )
        networks = {"controlnet": controlnet, "unet": unet, "decoder": vae}
        parts = {name: Parameters.of(wrap(name, network).half()) for name, network in networks.items()}
        if fp8:
            parts = {name: quantized(part, dict.fromkeys(layer_names(name, part), 1.0)) for name, part in parts.items()}
        self._engines: dict[str, Any] = {name: ENGINES[name](part) for name, part in parts.items()}
        first, second, third, fourth = widths
        channels = (first,) * 4 + (second,) * 3 + (third,) * 3 + (fourth,) * 3
        geometry = Geometry(context_width=context, hint_channels=first, control_channels=channels)
        self._specs = component_specs(geometry)

    @torch.inference_mode()
    def run(self, batch: int, height: int, width: int) -> None:
        """Every component by itself, as a build runs them."""
        for name, engine in self._engines.items():
            engine(self._inputs(name, batch, height, width))

    @torch.inference_mode()
    def render(self, batch: int, height: int, width: int) -> None:
        """As a worker runs them: ControlNet and U-Net share the controls before they are scaled."""
        inputs = self._inputs("controlnet", batch, height, width)
        controlnet, unet = self._engines["controlnet"], self._engines["unet"]
        assert isinstance(controlnet, ControlNetEngine)
        assert isinstance(unet, UNetEngine)
        predict(controlnet, unet, inputs)
        self._engines["decoder"](self._inputs("decoder", batch, height, width))

    def _inputs(self, name: str, batch: int, height: int, width: int) -> dict[str, Tensor]:
        return {
            tensor.name: torch.empty(
                tensor.sized(batch, height=height, width=width), dtype=torch.float16, device="meta"
            )
            for tensor in self._specs[name].inputs
        }
