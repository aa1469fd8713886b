"""Time the operations between convolutions at SD 1.5's sizes, and torch's own beside them; prints one JSON line."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.command import run
from benchmarks.measuring import cpu, versions
from engines.backends.triton import ops
from engines.backends.triton.operands import LARGEST, QUANTIZED, Features, Layer, Norm, Quantized
from engines.backends.triton.quantize import quantized_weight
from tools.progress import say

EPILOG = """
Examples:

  python -m benchmarks.kernels

  python -m benchmarks.kernels --images 1 --only geglu --only attention
"""
HELP = """
Microseconds of each operation, from replays of a CUDA graph of ten calls: medians of seven, after a warm-up. `torch` is
the same operation by torch's own functions; for attention there is one figure for each of its backends. On a CPU it
times the torch code that defines what the kernels compute, only to see that it works.
"""
LEVELS = ((64, 320), (32, 640), (16, 1280))  # latent cells a side at 512x512, channels
PARTS = ("group_norm", "layer_norm", "geglu", "joined", "unfolded", "attention", "cross_attention", "products")
HEADS, TOKENS = 8, 77
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
Timings = Iterator[tuple[str, Callable[[], object], dict[str, Callable[[], object]]]]


class Kernels:
    """Makes inputs on a device; each part yields its size, our call and torch's calls."""

    def __init__(self, device: str, images: int) -> None:
        self.device, self.rows = device, 2 * images
        self.dtype = torch.float16 if device == "cuda" else torch.float32

    def noise(self, *shape: int) -> Tensor:
        """Normal noise, float16 on a GPU and float32 on a CPU."""
        return torch.randn(shape, device=self.device).to(self.dtype)

    def norm(self, channels: int, groups: int) -> Norm:
        """A norm with random weights."""
        gamma, beta = torch.randn(2, channels, device=self.device)
        return Norm(gamma, beta, groups, 1e-5)

    def group_norm(self) -> Timings:
        """Group norm with SiLU."""
        for side, channels in LEVELS:
            x, norm, pending = (
                self.noise(self.rows, side, side, channels),
                self.norm(channels, 32),
                torch.zeros(channels),
            )
            first, pending = x.permute(0, 3, 1, 2), pending.to(self.device)
            gamma, beta = norm.gamma.to(self.dtype), norm.beta.to(self.dtype)
            yield (
                f"{self.rows}x{side}x{side}x{channels}",
                partial(ops.group_norm, x, pending, norm, silu=True),
                {"torch": partial(_torch_group_norm, first, gamma, beta)},
            )

    def layer_norm(self) -> Timings:
        """Layer norm over tokens."""
        for side, channels in LEVELS:
            x, norm = self.noise(self.rows * side * side, channels), self.norm(channels, 1)
            pending = torch.zeros(channels, device=self.device)
            gamma, beta = norm.gamma.to(self.dtype), norm.beta.to(self.dtype)
            yield (
                f"{len(x)}x{channels}",
                partial(ops.layer_norm, x, pending, norm),
                {"torch": partial(functional.layer_norm, x, x.shape[-1:], gamma, beta)},
            )

    def geglu(self) -> Timings:
        """GEGLU with its matrix product; `product` is the matrix product alone."""
        for side, channels in LEVELS:
            x, weight = self.noise(self.rows * side * side, channels), self.noise(8 * channels, channels)
            bias = torch.randn(8 * channels, device=self.device)
            low = bias.to(self.dtype)

            yield (
                f"{len(x)}x{channels}",
                partial(ops.geglu, x, Layer(weight), bias),
                {"torch": partial(_torch_geglu, x, weight, low), "product": partial(torch.matmul, x, weight.t())},
            )

    def joined(self) -> Timings:
        """The skip connection plus the scaled control, joined to the hidden features."""
        for side, channels in LEVELS:
            hidden, skip, control = (
                Features(self.noise(self.rows, side, side, channels), torch.zeros(channels, device=self.device))
                for _ in range(3)
            )
            scale = self.noise(self.rows)
            yield (
                f"{self.rows}x{side}x{side}x{channels}",
                partial(ops.joined, hidden, skip, control, scale),
                {"torch": partial(_torch_joined, hidden.data, skip.data, control.data, scale)},
            )

    def unfolded(self) -> Timings:
        """Put four phases together to twice the size; torch's call only enlarges."""
        for side, channels in LEVELS[1:]:
            x, small = (
                self.noise(self.rows, side + 1, side + 1, 4 * channels),
                self.noise(self.rows, side, side, channels),
            )
            bias, first = torch.zeros(channels, device=self.device), small.permute(0, 3, 1, 2)
            yield (
                f"{self.rows}x{side}x{side}x{channels}",
                partial(ops.unfolded, x, bias),
                {"torch": partial(functional.interpolate, first, scale_factor=2, mode="nearest")},
            )

    def products(self) -> Timings:
        """Quantized convolutions, plus another tensor, and torch's in float16; nothing where a GPU has no fp8."""
        if self.device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
            return
        for side, channels in LEVELS:
            weight = self.noise(channels, channels, 3, 3).to(self.dtype) * (9 * channels) ** -0.5
            data, scale = quantized_weight(weight)
            layer = Layer(data.flatten(1), 3, Quantized(0.01, scale * 0.01))
            added = self.noise(self.rows, side, side, channels)
            x = (self.noise(self.rows, side, side, channels).float() / 0.01).clamp(-LARGEST, LARGEST).to(QUANTIZED)
            plain = self.noise(self.rows, side, side, channels)
            last = weight.contiguous(memory_format=torch.channels_last)
            yield (
                f"{self.rows}x{side}x{side}x{channels}",
                partial(ops.product, x, layer, added=added),
                {"torch": partial(ops.convolved, plain, last)},
            )

    def attention(self) -> Timings:
        """Self-attention with eight heads, by each of torch's backends too."""
        for side, channels in LEVELS:
            qkv = self.noise(self.rows, side * side, 3 * channels)
            query, key, value = qkv.chunk(3, dim=-1)
            theirs = partial(ops.attention, query, key, value, HEADS)
            size = f"{self.rows}x{side * side}x{HEADS}x{channels // HEADS}"
            yield size, partial(ops.self_attention, qkv, HEADS), self.by_each_backend(theirs)

    def cross_attention(self) -> Timings:
        """Attention to the 77 tokens of a prompt, by each of torch's backends too; ours is torch's own choice."""
        for side, channels in LEVELS:
            query, context = self.noise(self.rows, side * side, channels), self.noise(self.rows, TOKENS, 2 * channels)
            key, value = context.chunk(2, dim=-1)
            call = partial(ops.attention, query, key, value, HEADS)
            size = f"{self.rows}x{side * side}x{TOKENS}x{HEADS}x{channels // HEADS}"
            yield size, call, self.by_each_backend(call)

    def by_each_backend(self, call: Callable[[], object]) -> dict[str, Callable[[], object]]:
        """The same call with each of torch's attention backends; on a CPU it has others."""
        return {name: with_backend(kind, call) for name, kind in BACKENDS.items()} if self.device == "cuda" else {}


def _torch_group_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return functional.silu(functional.group_norm(x, 32, gamma, beta))


def _torch_geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    value, gate = functional.linear(x, weight, bias).chunk(2, dim=-1)
    return value * functional.gelu(gate)


def _torch_joined(hidden: Tensor, skip: Tensor, control: Tensor, scale: Tensor) -> Tensor:
    return torch.cat([hidden, skip + scale.view(-1, 1, 1, 1) * control], dim=3)


def with_backend(kind: SDPBackend, call: Callable[[], object]) -> Callable[[], object]:
    """The same call with one of torch's attention backends."""

    def chosen() -> object:
        with sdpa_kernel([kind]):
            return call()

    return chosen


def microseconds(call: Callable[[], object], device: str, calls: int = 10) -> float:
    """Microseconds of one call: the median of seven replays of a graph of ten calls, on a CPU of seven calls."""
    if device != "cuda":
        times = []
        for _ in range(7):
            began = time.perf_counter()
            call()
            times.append(1e6 * (time.perf_counter() - began))
        return round(statistics.median(times), 1)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    times = []
    for _ in range(7):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        graph.replay()
        last.record()
        last.synchronize()
        times.append(1000 * first.elapsed_time(last) / calls)
    return round(statistics.median(times), 1)


@torch.inference_mode()
def measure(device: str, images: int, parts: tuple[str, ...]) -> dict[str, object]:
    """Part -> size -> microseconds of ours and of torch's."""
    kernels = Kernels(device, images)
    times: dict[str, object] = {}
    for part in parts:
        sizes = {}
        for size, ours, others in getattr(kernels, part)():
            sizes[size] = {name: microseconds(call, device) for name, call in {"ours": ours, **others}.items()}
        times[part] = sizes
        say(f"{part}: {json.dumps(sizes)}")
    return times


def main(
    images: Annotated[int, typer.Option(min=1, help="Images; tensors have twice as many rows.")] = 8,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}. Repeatable.")] = None,
) -> None:
    """Parse, measure, print."""
    unknown = sorted(set(only or ()) - set(PARTS))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r}; use one of {', '.join(PARTS)}", param_hint="--only")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    times = measure(device, images, tuple(only or PARTS))
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    result = {"images": images, "device": name, "microseconds": times, "hardware": cpu(), "versions": versions("torch")}
    print(json.dumps({"bench": "kernels", **result}))


if __name__ == "__main__":
    run(main, help=HELP, epilog=EPILOG)
