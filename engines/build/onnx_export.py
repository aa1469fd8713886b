"""A torch module to ONNX, with spec.py's names and dynamic axes.

Through torch's TorchScript exporter: for these networks the newer one (dynamo=True) takes ten times as long, minutes
even for a small model, because it reasons about every dynamic size, and its graph runs no faster in onnxruntime.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from engines.errors import BuildFailed
from engines.quiet import quiet_libraries
from engines.spec import ComponentSpec, TensorSpec

OPSET = 18
# The traced size says nothing about the sizes that run: every axis that differs between them is dynamic.
TRACED = {"batch": 2, "height": 128, "width": 192}
# Protobuf ends at 2 GiB; above this, weights go to a file of their own beside the graph.
INLINE_BYTES = 1 << 30


def example_inputs(spec: ComponentSpec, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Seeded inputs of the traced size, in the module's order."""
    generator = torch.Generator().manual_seed(0)
    return tuple(_example(tensor, dtype, generator) for tensor in spec.inputs)


def _example(tensor: TensorSpec, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    shape = tensor.sized(TRACED["batch"], height=TRACED["height"], width=TRACED["width"])
    if tensor.dtype == "int64":
        return torch.randint(0, 100, shape, generator=generator)
    return torch.rand(shape, generator=generator).to(dtype)


def export_onnx(module: nn.Module, spec: ComponentSpec, *, dtype: torch.dtype, folder: Path) -> list[Path]:
    """Write `<component>.onnx` (and `<component>.onnx.data` where weights are large) into `folder`; the files.

    Raises:
        BuildFailed: the exporter gave up, or gave other inputs or outputs than the spec's.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        traced = Path(scratch) / f"{spec.name}.onnx"
        try:
            with quiet_libraries(), torch.no_grad():
                _trace(module, spec, dtype, traced)
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise BuildFailed(f"torch could not export {spec.name} to ONNX: {error}") from error
        model = onnx.load(str(traced))
    check_borders(model, spec)
    return save_onnx(model, folder / f"{spec.name}.onnx")


def _trace(module: nn.Module, spec: ComponentSpec, dtype: torch.dtype, path: Path) -> None:
    tensors = (*spec.inputs, *spec.outputs)
    torch.onnx.export(
        module,
        example_inputs(spec, dtype),
        str(path),
        dynamo=False,
        input_names=[tensor.name for tensor in spec.inputs],
        output_names=[tensor.name for tensor in spec.outputs],
        dynamic_axes={tensor.name: _axis_names(tensor) for tensor in tensors},
        opset_version=OPSET,
        do_constant_folding=True,
    )


def _axis_names(tensor: TensorSpec) -> dict[int, str]:
    return {axis: dimension.replace("/", "_") for axis, dimension in tensor.dynamic.items()}


def save_onnx(model: onnx.ModelProto, path: Path, *, inline_bytes: int = INLINE_BYTES) -> list[Path]:
    """Write one file, or two where the weights are large; the files."""
    weights = path.with_name(path.name + ".data")
    path.unlink(missing_ok=True)
    weights.unlink(missing_ok=True)  # onnx appends to an existing one
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= inline_bytes:
        onnx.save(model, str(path))
        return [path]
    onnx.save(model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=weights.name)
    return [path, weights]


def check_borders(model: onnx.ModelProto, spec: ComponentSpec) -> None:
    """Compare inputs and outputs with the spec, and write the numbers in where the exporter lost track of one.

    Raises:
        BuildFailed: an axis that tracing fixed, or other names: an unused input is dropped by the exporter without a
            word; the worker would feed it and fail.
    """
    for kind, values, tensors in (
        ("inputs", model.graph.input, spec.inputs),
        ("outputs", model.graph.output, spec.outputs),
    ):
        found, expected = [value.name for value in values], [tensor.name for tensor in tensors]
        if found != expected:
            raise BuildFailed(f"the exported {spec.name} has the {kind} {found}, the spec says {expected}")
        for value, tensor in zip(values, tensors, strict=True):
            _check_axes(spec.name, value, tensor)


def _check_axes(component: str, value: onnx.ValueInfoProto, tensor: TensorSpec) -> None:
    axes = value.type.tensor_type.shape.dim
    found = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in axes]
    names = _axis_names(tensor)
    same = len(found) == len(tensor.shape) and all(
        have == names.get(i, want) or (isinstance(have, str) and isinstance(want, int))
        for i, (have, want) in enumerate(zip(found, tensor.shape, strict=True))
    )
    if not same:
        raise BuildFailed(
            f"{component}: {tensor.name} has the shape {found} in ONNX, the spec says {list(tensor.shape)}"
        )
    for axis, want in zip(axes, tensor.shape, strict=True):
        if isinstance(want, int):
            axis.dim_value = want
