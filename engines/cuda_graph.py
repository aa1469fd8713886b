"""A function of named tensors as CUDA graphs, one for each shape: replaying one is a single launch."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

log = logging.getLogger("engines")

Function = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
Key = tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]

# Plain calls before a capture, in a stream of their own: libraries choose and load kernels in them.
# cuBLAS has a workspace for each stream. A capture allocates that of the captures' stream, so it lies in the graphs'
# pool. It must lie there: torch 2.12 and later free it with any graph (pytorch#193402), but the other graphs still
# write to it, and must not overwrite a live tensor.
WARM_UPS = 2


class GraphPool:
    """The memory that graphs of one device share, for functions that one thread calls, on one stream.

    A graph's intermediate tensors live in it from the capture on. Graphs never run at the same time, and their outputs
    are copied out before the next replay, so each may overwrite what another one left.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._graphs = 0
        self._functions: WeakSet[Graphed] = WeakSet()
        self._lost = False
        self._side: torch.cuda.Stream | None = None

    def add(self, function: Graphed) -> None:
        """The function's graphs will live here."""
        self._functions.add(function)

    @contextmanager
    def capturing(self) -> Iterator[Any]:
        """The pool's handle, for the capture of one more graph. If that fails, all graphs of the pool are dropped."""
        if self._handle is None:
            self._handle = torch.cuda.graph_pool_handle()
        try:
            yield self._handle
        except BaseException:
            self._drop_all()
            raise
        self._graphs += 1
        self._lost = False

    def _drop_all(self) -> None:
        """A capture failed, and what can fail in it after its warm-ups is memory: it has grown the pool to the limit.

        While any graph is left, torch keeps that memory for captures, and no other call gets it. To compare the free
        memory with what the warm-ups took would not do instead: a capture may take more, since it does not use again
        what two streams have used.
        """
        self._lost = self._graphs > 0
        if self._lost:
            log.warning(
                "a CUDA graph could not be captured, so that all %d are dropped to free its memory", self._graphs
            )
        for function in tuple(self._functions):
            function.clear()
        self._forget_if_empty()

    def take_loss(self) -> bool:
        """Whether a failed capture has dropped graphs since the last call, and none was captured after it."""
        lost, self._lost = self._lost, False
        return lost

    def side_stream(self, device: torch.device) -> torch.cuda.Stream:
        """The stream of all warm-ups. In a new one each time, cuBLAS would keep a new workspace, 32 MiB on an H200."""
        if self._side is None:
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self._side

    def release(self, graphs: int) -> None:
        """So many graphs are gone. When no graph is left, torch frees the pool, whose handle then serves no more."""
        self._graphs -= graphs
        self._forget_if_empty()

    def _forget_if_empty(self) -> None:
        if self._graphs == 0:
            self._handle = None


class Graphed:
    """The function, called as before. On a GPU the first call at a shape captures a graph, and every call replays one.

    The function must not synchronize with the host: no `.item()`, no copies to it. Use it from one thread, on one
    stream. Graphs belong to this function, so to the weights that it reads; `pool` may be shared with other functions.
    """

    def __init__(self, function: Function, device: torch.device, pool: GraphPool | None = None) -> None:
        self._function = function
        self._device = device
        self._graphs: dict[Key, _Graph] = {}
        self._pool = GraphPool() if pool is None else pool
        self._pool.add(self)
        # Of the graphs that there are, warm-ups included. A caller who need not wait for a capture may set it back.
        self.capture_seconds = 0.0

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs are fresh tensors."""
        if self._device.type != "cuda":
            return self._function(inputs)
        key = tuple((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in sorted(inputs.items()))
        graph = self._graphs.get(key)
        if graph is None:
            began = time.monotonic()
            graph = self._graphs[key] = self._captured(inputs)
            self.capture_seconds += time.monotonic() - began
        graph.feed(inputs)
        graph.graph.replay()
        return {name: tensor.clone() for name, tensor in graph.outputs.items()}

    @property
    def shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """For each graph that there is, the shapes of its inputs by name."""
        return [{name: shape for name, _, shape in key} for key in self._graphs]

    def clear(self) -> None:
        """Drop all graphs. Call it before weights leave the device: graphs hold their addresses."""
        graphs = len(self._graphs)
        self._graphs.clear()
        self._pool.release(graphs)
        self.capture_seconds = 0.0

    def _captured(self, inputs: Mapping[str, Tensor]) -> _Graph:
        static = {name: tensor.clone() for name, tensor in inputs.items()}
        current, side = torch.cuda.current_stream(self._device), self._pool.side_stream(self._device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._function(static)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile (a copy to the host): only this thread's calls are captured.
        with (
            no_garbage_collection(),
            self._pool.capturing() as pool,
            torch.cuda.stream(current),  # torch.cuda.graph does not go back to it where the end of the capture fails
            torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
        ):
            outputs = self._function(static)
        return _Graph(graph, static, outputs)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For a capture: the collector might find an old graph, and to destroy one in this thread breaks the capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass
class _Graph:
    """One captured execution and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    # By input, the tensor that was last copied into it; held, so that no other tensor can get its identity.
    _fed: dict[str, Tensor] = field(default_factory=dict)

    def feed(self, inputs: Mapping[str, Tensor]) -> None:
        """Copy the inputs that changed: edges and prompts stay the same from step to step."""
        for name, tensor in inputs.items():
            if self._fed.get(name) is not tensor:
                self.inputs[name].copy_(tensor, non_blocking=True)
                self._fed[name] = tensor
