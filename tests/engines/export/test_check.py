"""Files that are valid, that hold other operators, or that compute something else than torch."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from engines.errors import BuildFailed
from engines.export.check import Comparison, check_file, compare
from engines.export.graphs import Graph, Run, lineage_specs
from engines.export.sizes import OPSET
from engines.model.onnx_export import save_onnx, trace_onnx
from engines.spec import Geometry

ONE = Run(1, None, (64, 64))


class Decoder(nn.Module):
    """An enlargement with a convolution; `traced_factor` is a fault that only the exported graph has."""

    def __init__(self, traced_factor: float = 1.0, zoom: float = 8.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 3, 11, padding=5)
        self.traced_factor = traced_factor
        self.zoom = zoom

    def forward(self, latent: Tensor) -> Tensor:
        image: Tensor = nn.functional.interpolate(self.conv(latent), scale_factor=self.zoom)
        return image * self.traced_factor if torch.onnx.is_in_onnx_export() else image


def exported(folder: Path, module: nn.Module, *, inline_bytes: int = 1 << 30) -> tuple[Path, Graph]:
    graph = Graph("DECODER", module.eval(), lineage_specs(Geometry())["DECODER"], Run(2, None, (64, 128)), (ONE,))
    model = trace_onnx(module, graph.spec, graph.inputs(graph.traced), folder=folder, opset=OPSET)
    return save_onnx(model, folder / "DECODER.onnx", inline_bytes=inline_bytes)[0], graph


@pytest.mark.parametrize(
    ("factor", "pair"),
    [(1.0, (1e-3, 1e-5)), (1.0005, (1e-3, 1e-5)), (1.005, (1e-2, 1e-3)), (1.5, None), (float("nan"), None)],
)
def test_the_verdict_is_the_tightest_pair_of_the_ladder_that_holds(
    tmp_path: Path, factor: float, pair: tuple[float, float] | None
) -> None:
    (found,) = compare(*exported(tmp_path, Decoder(factor)))
    assert (found.rtol, found.atol) == (pair or (None, None))
    assert found.ok == (pair is not None)
    if factor == 1.5:
        assert found.relative_error == pytest.approx(0.5, rel=1e-3)


def test_an_error_that_is_no_number_is_null_in_json() -> None:
    found = Comparison("CLIP", 1, 77, None, None, float("nan"), float("inf"), None, None)
    assert found.to_json() | {"batch": 1} == found.to_json()
    assert [name for name, value in found.to_json().items() if value is not None] == ["batch", "tokens"]


def test_outputs_of_another_shape_are_a_sentence_and_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"DECODER: with .*'h': 8.*, image has the shape \(1, 3, 32, 32\)"):
        list(compare(*exported(tmp_path, Decoder(zoom=4.0))))


def saved(folder: Path, *nodes: onnx.NodeProto, opset: int = OPSET, name: str = "x.onnx") -> Path:
    pair = [helper.make_tensor_value_info(each, TensorProto.FLOAT, [2]) for each in ("x", "y")]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph(list(nodes), "g", pair[:1], pair[1:]), opset_imports=imports, ir_version=8
    )
    onnx.save(model, str(folder / name))
    return folder / name


def test_a_graph_of_onnxs_own_operators_passes_and_another_is_refused_with_its_operators(tmp_path: Path) -> None:
    own = helper.make_node("Relu", ["x"], ["y"])
    check_file(saved(tmp_path, own), opset=OPSET)
    foreign = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    with pytest.raises(BuildFailed, match=r"x.onnx has operators that are not ONNX's own: com.microsoft::Gelu"):
        check_file(saved(tmp_path, foreign), opset=OPSET)
    branch = helper.make_graph([foreign], "b", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])])
    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    inside = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    with pytest.raises(BuildFailed, match=r"com\.microsoft::Gelu"):
        check_file(saved(tmp_path, condition, inside), opset=OPSET)


def test_another_opset_and_a_file_that_is_no_valid_graph_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, helper.make_node("Relu", ["x"], ["y"]), opset=17)
    with pytest.raises(BuildFailed, match=rf"x.onnx has the opset \[17\], {OPSET} was asked for"):
        check_file(path, opset=OPSET)
    with pytest.raises(BuildFailed, match=r"onnx.checker refuses x.onnx: .*NoSuchOperator"):
        check_file(saved(tmp_path, helper.make_node("NoSuchOperator", ["x"], ["y"])), opset=OPSET)


def test_weights_in_a_file_of_their_own_are_found_beside_the_graph_and_missed(tmp_path: Path) -> None:
    path, graph = exported(tmp_path, Decoder(), inline_bytes=0)
    weights = path.with_name("DECODER.onnx.data")
    assert weights.is_file()
    check_file(path, opset=OPSET)
    assert all(found.ok for found in compare(path, graph))
    weights.unlink()
    with pytest.raises(BuildFailed, match=r"onnx\.checker refuses DECODER\.onnx: .*DECODER\.onnx\.data"):
        check_file(path, opset=OPSET)
    with pytest.raises(BuildFailed, match=r"onnxruntime does not load DECODER\.onnx: "):
        list(compare(path, graph))
