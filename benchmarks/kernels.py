"""Time the operations between convolutions at SD1.5's sizes, beside torch's own; prints one JSON line."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.measuring import cpu, say, versions
from engines.backends.triton import ops
from engines.backends.triton.operands import Features, Norm

ROOT = Path(__file__).resolve().parent.parent
EPILOG = """
Examples:

  python -m benchmarks.kernels

  python -m benchmarks.kernels --images 1 --only geglu --only attention
"""
HELP = """
Microseconds of each operation, as replays of a CUDA graph of ten calls; `torch` is the same by torch's own functions,
and for attention by each of its backends. Medians of seven, after a warm-up. On a CPU it times the torch code that says
what the kernels mean, to see that it works.
"""
LEVELS = ((64, 320), (32, 640), (16, 1280))  # latent cells a side at 512x512, channels
PARTS = ("group_norm", "layer_norm", "geglu", "joined", "unfolded", "attention")
Timings = Iterator[tuple[str, Callable[[], object], dict[str, Callable[[], object]]]]


class Kernels:
    """Inputs on a device, and each part's calls: its size, ours, and torch's."""

    def __init__(self, device: str, images: int) -> None:
        self.device, self.rows = device, 2 * images
        self.dtype = torch.float16 if device == "cuda" else torch.float32

    def noise(self, *shape: int) -> Tensor:
        """Unit noise in the dtype of a GPU's engines."""
        return torch.randn(shape, device=self.device).to(self.dtype)

    def norm(self, channels: int, groups: int) -> Norm:
        """A norm with weights of its own."""
        gamma, beta = torch.randn(2, channels, device=self.device)
        return Norm(gamma, beta, groups, 1e-5)

    def group_norm(self) -> Timings:
        """With SiLU."""
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
                lambda x=x, norm=norm, pending=pending: ops.group_norm(x, pending, norm, silu=True),
                {"torch": lambda x=first, g=gamma, b=beta: functional.silu(functional.group_norm(x, 32, g, b))},
            )

    def layer_norm(self) -> Timings:
        """Over tokens."""
        for side, channels in LEVELS:
            x, norm = self.noise(self.rows * side * side, channels), self.norm(channels, 1)
            pending = torch.zeros(channels, device=self.device)
            gamma, beta = norm.gamma.to(self.dtype), norm.beta.to(self.dtype)
            yield (
                f"{len(x)}x{channels}",
                lambda x=x, norm=norm, pending=pending: ops.layer_norm(x, pending, norm),
                {"torch": lambda x=x, g=gamma, b=beta: functional.layer_norm(x, x.shape[-1:], g, b)},
            )

    def geglu(self) -> Timings:
        """With its matrix product; `product` is that alone."""
        for side, channels in LEVELS:
            x, weight = self.noise(self.rows * side * side, channels), self.noise(8 * channels, channels)
            bias = torch.randn(8 * channels, device=self.device)
            low = bias.to(self.dtype)

            def plain(x: Tensor = x, weight: Tensor = weight, bias: Tensor = low) -> Tensor:
                value, gate = functional.linear(x, weight, bias).chunk(2, dim=-1)
                return value * functional.gelu(gate)

            yield (
                f"{len(x)}x{channels}",
                lambda x=x, weight=weight, bias=bias: ops.geglu(x, weight, bias),
                {"torch": plain, "product": lambda x=x, weight=weight: x @ weight.t()},
            )

    def joined(self) -> Timings:
        """Hidden, skip and control."""
        for side, channels in LEVELS:
            parts = [
                Features(self.noise(self.rows, side, side, channels), torch.zeros(channels, device=self.device))
                for _ in range(3)
            ]
            scale = self.noise(self.rows)
            yield (
                f"{self.rows}x{side}x{side}x{channels}",
                lambda parts=parts, scale=scale: ops.joined(*parts, scale),
                {
                    "torch": lambda parts=parts, scale=scale: torch.cat(
                        [parts[0].data, parts[1].data + scale.view(-1, 1, 1, 1) * parts[2].data], dim=3
                    )
                },
            )

    def unfolded(self) -> Timings:
        """Four phases to a picture of twice the size; torch only enlarges."""
        for side, channels in LEVELS[1:]:
            x, small = (
                self.noise(self.rows, side + 1, side + 1, 4 * channels),
                self.noise(self.rows, side, side, channels),
            )
            bias, first = torch.zeros(channels, device=self.device), small.permute(0, 3, 1, 2)
            yield (
                f"{self.rows}x{side}x{side}x{channels}",
                lambda x=x, bias=bias: ops.unfolded(x, bias),
                {"torch": lambda x=first: functional.interpolate(x, scale_factor=2, mode="nearest")},
            )

    def attention(self) -> Timings:
        """Eight heads, self-attention, by each backend that takes it."""
        backends = {
            "cudnn": SDPBackend.CUDNN_ATTENTION,
            "flash": SDPBackend.FLASH_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION,
        }
        for side, channels in LEVELS:
            qkv = self.noise(self.rows, side * side, 3 * channels)

            def theirs(qkv: Tensor = qkv) -> Tensor:
                query, key, value = qkv.chunk(3, dim=-1)
                return ops.attention(query, key, value, 8)

            others = {name: with_backend(kind, theirs) for name, kind in backends.items()} if qkv.is_cuda else {}
            yield f"{self.rows}x{side * side}x8x{channels // 8}", lambda qkv=qkv: ops.self_attention(qkv, 8), others


def with_backend(kind: SDPBackend, call: Callable[[], object]) -> Callable[[], object]:
    """The same call with one of torch's attention backends."""

    def chosen() -> object:
        with sdpa_kernel([kind]):
            return call()

    return chosen


def microseconds(call: Callable[[], object], device: str, calls: int = 10) -> float:
    """Of one call: the median over seven replays of a graph of ten, or over seven calls on a CPU."""
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
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(1000 * began.elapsed_time(ended) / calls)
    return round(statistics.median(times), 1)


@torch.inference_mode()
def measure(device: str, images: int, parts: tuple[str, ...]) -> dict[str, object]:
    """Part -> size -> microseconds of ours and of torch's."""
    kernels = Kernels(device, images)
    found: dict[str, object] = {}
    for part in parts:
        sizes = {}
        for size, ours, others in getattr(kernels, part)():
            sizes[size] = {name: microseconds(call, device) for name, call in {"ours": ours, **others}.items()}
        found[part] = sizes
        say(f"{part}: {json.dumps(sizes)}")
    return found


def main(
    images: Annotated[int, typer.Option(min=1, help="Images; tensors have twice as many rows.")] = 8,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}. Repeatable.")] = None,
) -> None:
    """Parse, measure, print."""
    unknown = sorted(set(only or ()) - set(PARTS))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r}; use one of {', '.join(PARTS)}", param_hint="--only")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = measure(device, images, tuple(only or PARTS))
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    told = {"images": images, "device": name, "microseconds": found, "hardware": cpu(), "versions": versions("torch")}
    print(json.dumps({"bench": "kernels", **told}))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(help=HELP, epilog=EPILOG)(main)
    app()
