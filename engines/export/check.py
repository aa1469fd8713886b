"""Exported files against torch: onnx.checker, the operators, and onnxruntime's outputs on the ladder of tolerances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from engines.backends.onnxruntime.runtime import session_options
from engines.check.verify import tightest
from engines.errors import BuildFailed
from engines.export.graphs import Graph, Run

# The domain of ONNX's own operators, by both of its names.
_ONNX = ("", "ai.onnx")


@dataclass(frozen=True)
class Comparison:
    """How far one graph is from torch in one run, over all its outputs.

    `tokens` is None for DECODER, `height` and `width` are for CLIP. `relative_error` is the largest absolute error over
    the tensor's largest absolute value; `rtol` and `atol` are the tightest pair of the ladder that holds for every
    element, or None.
    """

    graph: str
    batch: int
    tokens: int | None
    height: int | None
    width: int | None
    absolute_error: float
    relative_error: float
    rtol: float | None
    atol: float | None

    @property
    def ok(self) -> bool:
        """Whether a pair of the ladder holds."""
        return self.rtol is not None

    def to_json(self) -> dict[str, object]:
        """The comparison as the command line prints it; an error that is not a finite number is null."""
        values = {name: value for name, value in asdict(self).items() if name != "graph"}
        return {name: value if value is None or isfinite(value) else None for name, value in values.items()}


def check_file(path: Path, *, opset: int) -> None:
    """Hold a file against ONNX's rules; weights in a file beside it are found, not read.

    Raises:
        BuildFailed: it is not valid, has another opset, or has operators that are not ONNX's own.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise BuildFailed(f"onnx.checker refuses {path.name}: {' '.join(str(error).split())}") from error
    model = onnx.load(str(path), load_external_data=False)
    versions = {each.version for each in model.opset_import if each.domain in _ONNX}
    if versions != {opset}:
        raise BuildFailed(f"{path.name} has the opset {sorted(versions)}, {opset} was asked for")
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in _nodes(model.graph) if node.domain not in _ONNX})
    if foreign or model.functions:
        raise BuildFailed(f"{path.name} has operators that are not ONNX's own: {', '.join(foreign) or 'functions'}")


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _nodes(inner)


def compare(path: Path, graph: Graph) -> Iterator[Comparison]:
    """Every run of the graph in onnxruntime on the CPU, beside torch in float32.

    Raises:
        BuildFailed: onnxruntime does not load or run the file, or gives outputs of other shapes.
    """
    try:
        session = ort.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BuildFailed(f"onnxruntime does not load {path.name}: {_first_line(error)}") from error
    for run in graph.runs:
        yield _comparison(session, graph, run)


def _comparison(session: Any, graph: Graph, run: Run) -> Comparison:
    inputs = graph.inputs(run)
    with torch.no_grad():
        given = graph.module(*inputs)
    expected = given if isinstance(given, tuple) else (given,)
    pairs = list(zip(_outputs(session, graph, run, inputs), expected, strict=True))
    errors = [float((mine - theirs).abs().max()) for mine, theirs in pairs]
    relative = [error / max(float(theirs.abs().max()), 1e-12) for error, (_, theirs) in zip(errors, pairs, strict=True)]
    height, width = run.size or (None, None)
    rtol, atol = tightest(pairs)
    # torch's maximum keeps NaN, Python's may lose it.
    worst = [float(torch.tensor(values).max()) for values in (errors, relative)]
    return Comparison(graph.name, run.batch, run.tokens, height, width, worst[0], worst[1], rtol, atol)


def _outputs(session: Any, graph: Graph, run: Run, inputs: Sequence[Tensor]) -> list[Tensor]:
    fed = {spec.name: tensor.numpy() for spec, tensor in zip(graph.spec.inputs, inputs, strict=True)}
    names = [spec.name for spec in graph.spec.outputs]
    try:
        outputs = [torch.from_numpy(array) for array in session.run(names, fed)]
    except Exception as error:
        raise BuildFailed(f"onnxruntime does not run {graph.name} with {run.axes}: {_first_line(error)}") from error
    for spec, output in zip(graph.spec.outputs, outputs, strict=True):
        if tuple(output.shape) != spec.with_sizes(run.axes):
            raise BuildFailed(f"{graph.name}: with {run.axes}, {spec.name} has the shape {tuple(output.shape)}")
    return outputs


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
