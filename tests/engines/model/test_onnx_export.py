"""The exported graphs: names, dtypes, and which axes are open."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from engines.backends.onnxruntime.runtime import session_options
from engines.errors import BuildFailed
from engines.manifest import load_manifest
from engines.model.libraries import quiet_libraries
from engines.model.onnx_export import check_borders, example_inputs, export_onnx, save_onnx
from engines.spec import COMPONENTS, ComponentSpec, Dimension, TensorSpec
from tests.models import tiny_engine_set

DTYPES = {"float": TensorProto.FLOAT, "int64": TensorProto.INT64}
HINT = ComponentSpec(
    name="hint",
    inputs=(TensorSpec(name="hint", shape=("N", 3, "8h", "8w")), TensorSpec(name="scale", shape=("N", 1, 1, 1))),
    outputs=(TensorSpec(name="guided_hint", shape=("N", 3, "8h", "8w")),),
)


class Scaled(nn.Module):
    def __init__(self, *, uses_scale: bool) -> None:
        super().__init__()
        self.uses_scale = uses_scale
        self.conv = nn.Conv2d(3, 3, 11, padding=5, bias=False)
        nn.init.dirac_(self.conv.weight).data.mul_(2)

    def forward(self, hint: Tensor, scale: Tensor) -> Tensor:
        output: Tensor = self.conv(hint) * scale if self.uses_scale else self.conv(hint)
        return output


def dimension(dim: onnx.TensorShapeProto.Dimension) -> Dimension:
    return dim.dim_param if dim.HasField("dim_param") else dim.dim_value


@pytest.mark.parametrize("name", COMPONENTS)
def test_batch_and_picture_axes_are_open_and_all_others_are_the_specs_numbers(name: str) -> None:
    folder = tiny_engine_set()
    spec = load_manifest(folder).components[name].spec
    graph = onnx.load(folder / f"{name}.onnx").graph
    for values, tensors in ((graph.input, spec.inputs), (graph.output, spec.outputs)):
        assert [value.name for value in values] == [tensor.name for tensor in tensors]
        for value, tensor in zip(values, tensors, strict=True):
            assert value.type.tensor_type.elem_type == DTYPES[tensor.dtype]
            found = [dimension(dim) for dim in value.type.tensor_type.shape.dim]
            wanted = [size if isinstance(size, int) else size.replace("/", "_") for size in tensor.shape]
            assert found == wanted
            assert found[0] == ("R" if name in ("controlnet", "unet") else "N")


@pytest.mark.parametrize("name", COMPONENTS)
def test_an_exported_graph_is_valid_onnx_in_one_file(name: str) -> None:
    path = tiny_engine_set() / f"{name}.onnx"
    onnx.checker.check_model(str(path))
    assert not path.with_name(path.name + ".data").exists()


def test_an_input_that_the_network_does_not_use_is_noticed(tmp_path: Path) -> None:
    assert export_onnx(Scaled(uses_scale=True), HINT, dtype=torch.float32, folder=tmp_path)
    with pytest.raises(
        BuildFailed, match=r"the exported hint has the inputs \['hint'\], the spec says \['hint', 'scale'"
    ):
        export_onnx(Scaled(uses_scale=False), HINT, dtype=torch.float32, folder=tmp_path)


def test_an_axis_that_tracing_made_a_number_is_noticed(tmp_path: Path) -> None:
    class Baked(nn.Module):
        def forward(self, hint: Tensor, scale: Tensor) -> Tensor:
            return (hint * scale).reshape(2, 3, 128, 192)

    model = export_traced(Baked(), tmp_path)
    with pytest.raises(
        BuildFailed, match=r"hint: guided_hint has the shape \[2, 3, 128, 192\] in ONNX, the spec says \['N', 3, "
    ):
        check_borders(model, HINT)


def export_traced(module: nn.Module, folder: Path) -> onnx.ModelProto:
    path = folder / "traced.onnx"
    with quiet_libraries():
        torch.onnx.export(
            module,
            example_inputs(HINT, torch.float32),
            str(path),
            dynamo=False,
            input_names=["hint", "scale"],
            output_names=["guided_hint"],
            dynamic_axes={tensor.name: tensor.dynamic for tensor in HINT.inputs},
        )
    return onnx.load(path)


def test_a_network_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    class Failing(nn.Module):
        def forward(self, hint: Tensor, scale: Tensor) -> Tensor:
            raise RuntimeError("no such kernel")

    with pytest.raises(BuildFailed, match="torch could not export hint to ONNX: no such kernel"):
        export_onnx(Failing(), HINT, dtype=torch.float32, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_large_weights_go_to_a_file_of_their_own_and_are_found_there(tmp_path: Path) -> None:
    (path,) = export_onnx(Scaled(uses_scale=True), HINT, dtype=torch.float32, folder=tmp_path)
    model = onnx.load(path)
    for _ in range(2):  # a second time in the same place, as a rebuild does
        paths = save_onnx(model, path, inline_bytes=0)
        assert [file.name for file in paths] == ["hint.onnx", "hint.onnx.data"]
        model = onnx.load(path)
    assert (tmp_path / "hint.onnx.data").stat().st_size < 8192
    session = onnxruntime.InferenceSession(path, session_options())
    fed = {"hint": torch.ones(1, 3, 8, 16).numpy(), "scale": torch.full((1, 1, 1, 1), 3.0).numpy()}
    (found,) = session.run(None, fed)
    assert found.shape == (1, 3, 8, 16)
    assert (found == 6).all()
