"""Export a torch module to ONNX, with spec.py's names and dynamic axes.

It uses torch's TorchScript exporter. The newer one (dynamo=True) takes ten times as long for these networks, minutes
even for a small model, because it reasons about every dynamic size; its graph runs no faster in onnxruntime.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from engines.errors import BuildFailed
from engines.model.libraries import quiet_libraries
from engines.spec import ComponentSpec, TensorSpec

OPSET = 18
# Any size will do for the trace: every axis that differs between batches and pictures is exported as dynamic.
TRACED = {"batch": 2, "height": 128, "width": 192, "chunks": 2}
# Protobuf files end at 2 GiB. Weights above this size go to a file of their own beside the graph.
INLINE_BYTES = 1 << 30


def example_inputs(spec: ComponentSpec, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Seeded inputs of the size that is traced, in the module's order."""
    generator = torch.Generator().manual_seed(0)
    return tuple(_example(tensor, dtype, generator) for tensor in spec.inputs)


def _example(tensor: TensorSpec, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    shape = tensor.sized(**TRACED)
    if tensor.dtype == "int64":
        return torch.randint(0, 100, shape, generator=generator)
    return torch.rand(shape, generator=generator).to(dtype)


def export_onnx(module: nn.Module, spec: ComponentSpec, *, dtype: torch.dtype, folder: Path) -> list[Path]:
    """Write `<component>.onnx` (and `<component>.onnx.data` for large weights) into `folder`; returns the files.

    Raises:
        BuildFailed: the exporter failed, or gave other inputs or outputs than the spec's.
    """
    model = trace_onnx(module, spec, example_inputs(spec, dtype), folder=folder)
    return save_onnx(model, folder / f"{spec.name}.onnx")


def trace_onnx(
    module: nn.Module, spec: ComponentSpec, inputs: tuple[Tensor, ...], *, folder: Path, opset: int = OPSET
) -> onnx.ModelProto:
    """The graph of `module`, traced with `inputs`; `folder` holds the exporter's files while it works.

    Raises:
        BuildFailed: as `export_onnx`.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        traced = Path(scratch) / f"{spec.name}.onnx"
        try:
            with quiet_libraries(), torch.no_grad():
                _trace(module, spec, inputs, traced, opset)
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise BuildFailed(f"torch could not export {spec.name} to ONNX: {error}") from error
        model = onnx.load(str(traced))
    check_borders(model, spec)
    return model


def _trace(module: nn.Module, spec: ComponentSpec, inputs: tuple[Tensor, ...], path: Path, opset: int) -> None:
    tensors = (*spec.inputs, *spec.outputs)
    torch.onnx.export(
        module,
        inputs,
        str(path),
        dynamo=False,
        input_names=[tensor.name for tensor in spec.inputs],
        output_names=[tensor.name for tensor in spec.outputs],
        dynamic_axes={tensor.name: _axis_names(tensor) for tensor in tensors},
        opset_version=opset,
        do_constant_folding=True,
    )


def _axis_names(tensor: TensorSpec) -> dict[int, str]:
    return {axis: dimension.replace("/", "_") for axis, dimension in tensor.dynamic.items()}


def save_onnx(model: onnx.ModelProto, path: Path, *, inline_bytes: int = INLINE_BYTES) -> list[Path]:
    """Write one file, or two for large weights; returns the files."""
    weights = path.with_name(path.name + ".data")
    path.unlink(missing_ok=True)
    weights.unlink(missing_ok=True)  # onnx appends to an existing one
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= inline_bytes:
        onnx.save(model, str(path))
        return [path]
    onnx.save(model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=weights.name)
    return [path, weights]


def check_borders(model: onnx.ModelProto, spec: ComponentSpec) -> None:
    """Compare inputs and outputs with the spec, and fill in fixed sizes that the exporter lost track of.

    Raises:
        BuildFailed: tracing fixed an axis, or the names differ. The exporter silently drops an unused input; the
            worker would feed it and fail.
    """
    for kind, values, tensors in (
        ("inputs", model.graph.input, spec.inputs),
        ("outputs", model.graph.output, spec.outputs),
    ):
        names, expected = [value.name for value in values], [tensor.name for tensor in tensors]
        if names != expected:
            raise BuildFailed(f"the exported {spec.name} has the {kind} {names}, the spec says {expected}")
        for value, tensor in zip(values, tensors, strict=True):
            _check_axes(spec.name, value, tensor)


def _check_axes(component: str, value: onnx.ValueInfoProto, tensor: TensorSpec) -> None:
    axes = value.type.tensor_type.shape.dim
    shape = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in axes]
    names = _axis_names(tensor)
    same = len(shape) == len(tensor.shape) and all(
        have == names.get(i, want) or (isinstance(have, str) and isinstance(want, int))
        for i, (have, want) in enumerate(zip(shape, tensor.shape, strict=True))
    )
    if not same:
        raise BuildFailed(
            f"{component}: {tensor.name} has the shape {shape} in ONNX, the spec says {list(tensor.shape)}"
        )
    for axis, want in zip(axes, tensor.shape, strict=True):
        if isinstance(want, int):
            axis.dim_value = want
